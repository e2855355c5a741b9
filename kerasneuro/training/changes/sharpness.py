"""Loss of detail along the axes of a patch, as small matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def blur_matrix(size: int, deviation: float) -> np.ndarray:
    """Return a Gaussian blur along an axis, normalised at its ends: ``(size, size)``, float32."""
    if deviation < 1e-3:
        return np.eye(size, dtype=np.float32)
    distance = np.arange(size)[:, None] - np.arange(size)
    weights = np.exp(-0.5 * (distance / deviation) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def coarse_matrix(size: int, thickness: float) -> np.ndarray:
    """Return slices of some voxels along an axis, put back on the grid linearly: ``(size, size)``, float32.

    Each slice is the mean of the voxels that it covers, in proportion.

    Parameters
    ----------
    size : int
        Voxels along the axis.
    thickness : float
        Voxels of a slice, at least 1.
    """
    count = max(1, round(size / thickness))
    edges = np.linspace(0, size, count + 1)
    low, high = edges[:-1, None], edges[1:, None]
    voxels = np.arange(size)
    mean = np.clip(np.minimum(high, voxels + 1) - np.maximum(low, voxels), 0, None)
    mean /= mean.sum(axis=1, keepdims=True)
    places = np.clip((voxels + 0.5) * count / size - 0.5, 0, count - 1)
    between = np.maximum(1 - np.abs(places[:, None] - np.arange(count)), 0)
    return (between @ mean).astype(np.float32)


def apply_along_axes(image: np.ndarray, matrices: Sequence[np.ndarray | None]) -> np.ndarray:
    """Multiply a volume ``(X, Y, Z, C)`` by a matrix ``(n, n)`` along each axis that has one."""
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            image = np.moveaxis(np.tensordot(matrix, image, (1, axis)), 0, axis)
    return image
