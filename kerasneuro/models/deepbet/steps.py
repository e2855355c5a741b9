"""The steps between deepbet's two networks, on arrays in RAS order (wwu-mmll/deepbet@9ad3f99, bet.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kerasneuro.errors import InvalidImage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kerasneuro.volume import Box

BOX_SHAPE = (128, 128, 128)
BRAIN_SHAPE = (256, 256, 256)
PLANE_SHARE = 0.02
MARGIN = 0.1


def brain_probability(logits: np.ndarray) -> np.ndarray:
    """Return the softmax of two channels, the second of them.

    Parameters
    ----------
    logits : ndarray (X, Y, Z, 2)
        Float32.

    Returns
    -------
    ndarray (X, Y, Z)
        Float32, 0 to 1.
    """
    from scipy.special import expit

    difference = logits[..., 1] - logits[..., 0]
    return np.asarray(expit(difference, out=difference))


def stretched_probability(logits: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Stretch logits to `shape` by nearest neighbour, and return the probability of brain.

    Softmax acts on each voxel alone, so it can follow the stretching, which leaves fewer voxels. Each plane
    is small enough for the processor's cache.

    Parameters
    ----------
    logits : ndarray (X, Y, Z, 2)
        Float32.
    shape : sequence of int
        New length of the three axes.

    Returns
    -------
    ndarray (*shape)
        Float32, 0 to 1; equal to ``nearest_float32(brain_probability(logits), shape)``.
    """
    from kerasneuro.volume import nearest_float32_axis_index

    planes, rows, columns = (
        nearest_float32_axis_index(n, m) for n, m in zip(logits.shape, shape, strict=False)
    )
    result = np.empty(shape, np.float32)
    for plane, source in zip(result, planes, strict=True):
        plane[...] = brain_probability(logits[source, rows])[:, columns]
    return result


def locate_brain(foreground: np.ndarray, shape: Sequence[int]) -> Box:
    """Find the box of the brain, with a margin of a tenth of its size on each side.

    Parameters
    ----------
    foreground : ndarray (128, 128, 128)
        Bool: one connected piece.
    shape : sequence of int
        Shape of the scan, in voxels along R, A, S.

    Returns
    -------
    Box
        First voxel and one past the last along each axis of the scan.

    Raises
    ------
    InvalidImage
        If along some axis no plane of the 128^3 grid holds more than 2 % foreground.
    """
    first, second, third = (
        axis_extent(foreground, axis, length) for axis, length in zip(range(3), shape, strict=True)
    )
    return first, second, third


def axis_extent(foreground: np.ndarray, axis: int, length: int) -> tuple[int, int]:
    """Return the extent along one axis of `length` voxels, rounded in float32 as the original does."""
    others = tuple(other for other in range(3) if other != axis)
    planes = np.flatnonzero(foreground.mean(axis=others, dtype=np.float32) > PLANE_SHARE)
    if not planes.size:
        raise InvalidImage(
            "expected a brain that fills 2 % of some plane along each axis, found too little to place a box "
            "around it; check that the scan is a T1-weighted head"
        )
    low, high = int(planes[0]), int(planes[-1]) + 1
    scale = np.float32(length) / np.float32(foreground.shape[axis])
    centre = np.rint(scale * np.float32((low + high) / 2))
    size = np.rint(np.float32(1 + 2 * MARGIN) * (scale * np.float32(high - low)))
    return max(0, int(centre - size / 2)), min(length, int(centre + size / 2))


def touches_border(mask: np.ndarray) -> bool:
    """Tell whether a mask reaches a face of the array."""
    return any(bool(np.take(mask, end, axis).any()) for axis in range(3) for end in (0, -1))
