"""Whether the two directions of a registration agree: to the fixed scan and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import map_coordinates

from kerasneuro.errors import InvalidTransform
from kerasneuro.volume.transform import Affine, Transform

SAMPLES = 200_000  # about so many voxels stand for all


def pull(transform: Transform, places: np.ndarray) -> np.ndarray:
    """Return where places of the target grid take their values in the source.

    Parameters
    ----------
    transform
        A matrix, or a warp; beyond its grid, the border of a warp repeats.
    places
        Voxels of the target grid, also between their centres, shape ``(N, 3)``.

    Returns
    -------
    ndarray
        Voxels of the source, shape ``(N, 3)``, float64.
    """
    if isinstance(transform, Affine):
        matrix = np.linalg.inv(transform.to_voxel().matrix)
        return np.asarray(places @ matrix[:3, :3].T + matrix[:3, 3])
    field = transform.to("disp_crs").displacement
    steps = [map_coordinates(field[..., axis], places.T, order=1, mode="nearest") for axis in range(3)]
    return np.asarray(places + np.stack(steps, axis=-1))


def compare_directions(forward: Transform, inverse: Transform) -> dict[str, float]:
    """Measure how far a point of the fixed scan ends from itself on its way to the moving scan and back.

    Parameters
    ----------
    forward, inverse
        From the moving to the fixed scan, and from the fixed to the moving one.

    Returns
    -------
    dict of str to float
        ``overlap_percent``, the share of the voxels of the fixed scan (of every k-th voxel of a large one)
        that take their value inside the moving one; and over these ``inverse_consistency_mean_mm`` and
        ``inverse_consistency_max_mm``.

    Raises
    ------
    InvalidTransform
        If a transform does not hold both grids.
    """
    fixed, moving = forward.target, forward.source
    if fixed is None or moving is None:
        raise InvalidTransform("both directions are compared between two grids; the transform holds only one")
    places = grid_sample(fixed.shape)
    there = pull(forward, places)
    inside = ((there >= 0) & (there <= np.array(moving.shape) - 1)).all(axis=1)
    result = {"overlap_percent": round(100.0 * float(inside.mean()), 3)}
    if inside.any():
        back = pull(inverse, there[inside]) - places[inside]
        distance = np.linalg.norm(back @ fixed.vox2world[:3, :3].T, axis=1)
        result["inverse_consistency_mean_mm"] = float(distance.mean())
        result["inverse_consistency_max_mm"] = float(distance.max())
    return result


def grid_sample(shape: Sequence[int]) -> np.ndarray:
    """Return the voxels of a grid, or every k-th along each axis of a large one, shape ``(N, 3)``."""
    step = max(1, int(np.ceil((np.prod(np.asarray(shape, float)) / SAMPLES) ** (1 / 3))))
    axes = [np.arange(0, size, step, dtype=np.float64) for size in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
