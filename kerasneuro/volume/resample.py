"""Sample a volume on another grid, axis by axis, by the rules of the original networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LinearTable = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Lower index, upper index, lower weight, upper weight of each output sample along one axis."""


def nearest_float32_axis_index(n: int, m: int) -> np.ndarray:
    """Return the source index of each of `m` samples along an axis of `n` voxels.

    ``min(floor((o + 0.5) * (n / m)), n - 1)`` evaluated in float32, as deepbet 1.0.2 does through
    ``torch.nn.functional.interpolate(mode="nearest-exact")``; float64 differs for some lengths.

    Source: https://doi.org/10.1016/j.compbiomed.2024.108845
    """
    scale = np.float32(n) / np.float32(m)
    centres = np.arange(m, dtype=np.float32) + np.float32(0.5)
    return np.minimum(np.floor(centres * scale).astype(np.int64), n - 1)


def nearest_float32(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Stretch an array to `shape` by nearest neighbour, by the rule of `nearest_float32_axis_index`.

    Parameters
    ----------
    array
        Shape ``(X, Y, Z, ...)``; further axes are kept.
    shape
        New length of the first three axes.

    Returns
    -------
    ndarray
        Shape ``(*shape, ...)``, same type.
    """
    indices = [nearest_float32_axis_index(n, m) for n, m in zip(array.shape, shape, strict=False)]
    return take_axes(array, indices)


def stretch_nearest(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Stretch an array to `shape` by nearest neighbour, as scikit-image's ``resize(order=0)`` does.

    Sample `i` of `m` reads voxel ``floor(c + 0.5)`` with ``c = (i + 0.5) * n / m - 0.5``.

    Parameters
    ----------
    array
        Shape ``(X, Y, Z, ...)``; further axes are kept.
    shape
        New length of the first three axes.
    """
    indices = [
        np.clip(np.floor(stretch_coordinates(n, m) + 0.5), 0, n - 1).astype(np.int64)
        for n, m in zip(array.shape, shape, strict=False)
    ]
    return take_axes(array, indices)


def stretch_linear(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Stretch a volume to `shape` linearly, as scikit-image's ``resize(order=1)`` without smoothing does.

    Voxels outside the grid count as 0, so the border darkens when the grid gets finer; the result is
    clipped to the range of the input.

    Parameters
    ----------
    array
        Shape ``(X, Y, Z)``, finite; float32 stays float32.
    shape
        New shape.
    """
    tables = [linear_table(stretch_coordinates(n, m), n) for n, m in zip(array.shape, shape, strict=True)]
    result = interpolate_axes(array, tables)
    return np.clip(result, array.min(), array.max(), out=result)


def stretch_coordinates(n: int, m: int) -> np.ndarray:
    """Return where the centres of `m` equal parts of an axis of `n` voxels lie, in voxels, float64."""
    return (np.arange(m) + 0.5) * n / m - 0.5


def linear_table(coordinates: np.ndarray, n: int) -> LinearTable:
    """Return indices and weights of linear interpolation; voxels outside ``0 .. n - 1`` weigh nothing."""
    lower = np.floor(coordinates).astype(np.int64)
    upper = lower + 1
    fraction = coordinates - lower
    low_weight = np.where((lower >= 0) & (lower < n), 1 - fraction, 0)
    high_weight = np.where((upper >= 0) & (upper < n), fraction, 0)
    return np.clip(lower, 0, n - 1), np.clip(upper, 0, n - 1), low_weight, high_weight


def interpolate_axes(array: np.ndarray, tables: Sequence[LinearTable]) -> np.ndarray:
    """Interpolate linearly along the first three axes.

    Each plane of the result is computed in float64, small enough for the processor's cache, and rounded once.

    Parameters
    ----------
    array
        Shape ``(X, Y, Z, ...)``; further axes are kept.
    tables
        One for each of the three axes.

    Returns
    -------
    ndarray
        Floats keep their type, integers become float32.
    """
    (low_x, high_x, *weights_x), second, third = tables
    shape = (len(low_x), len(second[0]), len(third[0]), *array.shape[3:])
    result = np.empty(shape, array.dtype if array.dtype.kind == "f" else np.float32)
    for plane, low, high, low_weight, high_weight in zip(result, low_x, high_x, *weights_x, strict=True):
        slab = array[low] * np.float64(low_weight)
        if high_weight:
            slab += array[high] * np.float64(high_weight)
        plane[...] = _interpolate(_interpolate(slab, second, 0), third, 1)
    return result


def _interpolate(slab: np.ndarray, table: LinearTable, axis: int) -> np.ndarray:
    low, high, low_weight, high_weight = table
    column = (-1,) + (1,) * (slab.ndim - 1 - axis)
    result = slab.take(low, axis)
    result *= low_weight.reshape(column)
    above = slab.take(high, axis)
    above *= high_weight.reshape(column)
    result += above
    return result


def take_axes(array: np.ndarray, indices: Sequence[np.ndarray]) -> np.ndarray:
    """Take planes along each of the first three axes."""
    # Axes that shrink come first, to move less; whole planes of the first axis are cheap, so they come last.
    order = sorted((1, 2, 0), key=lambda axis: len(indices[axis]) >= array.shape[axis])
    for axis in order:
        array = array.take(indices[axis], axis)
    return array
