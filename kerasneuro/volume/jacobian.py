"""How much a transform shrinks or stretches space, and where it folds."""

from __future__ import annotations

import numpy as np

from kerasneuro.errors import InvalidOption

PLANES_AT_ONCE = 8


def jacobian_determinant(displacement: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Return the Jacobian determinant of ``x + u(x)``, with the differences of `numpy.gradient`.

    Parameters
    ----------
    displacement
        u in voxels, shape ``(X, Y, Z, 3)``: voxel index of the input minus that of the output.
    scale
        Volume of a voxel of the input over that of the output, where the grids differ; negative where one
        of them is mirrored.

    Returns
    -------
    ndarray
        Shape ``(X, Y, Z)``, float32. 1 keeps the volume; 0.5 takes the value from half of it; 0 or less
        folds space.

    Raises
    ------
    InvalidOption
        If the array has another shape.
    """
    if displacement.ndim != 4 or displacement.shape[-1] != 3:
        raise InvalidOption(f"expected a displacement of shape (X, Y, Z, 3), found {displacement.shape}")
    extent = displacement.shape[0]
    result = np.empty(displacement.shape[:3], np.float32)
    # Slab by slab with a plane on either side, so that the nine derivatives never fill the memory.
    for start in range(0, extent, PLANES_AT_ONCE):
        stop = min(start + PLANES_AT_ONCE, extent)
        first = max(start - 1, 0)
        slab = displacement[first : min(stop + 1, extent)]
        result[start:stop] = _determinant(slab)[start - first : stop - first] * np.float32(scale)
    return result


def percent_folding(determinant: np.ndarray) -> float:
    """Return the share of voxels, in percent, whose Jacobian determinant is 0 or less."""
    return 100.0 * float(np.count_nonzero(determinant <= 0)) / determinant.size


def _determinant(slab: np.ndarray) -> np.ndarray:
    rows = [
        [_derivative(slab[..., component], axis) + np.float32(component == axis) for axis in range(3)]
        for component in range(3)
    ]
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def _derivative(values: np.ndarray, axis: int) -> np.ndarray:
    if values.shape[axis] < 2:
        return np.zeros(values.shape, np.float32)
    return np.gradient(values, axis=axis).astype(np.float32, copy=False)
