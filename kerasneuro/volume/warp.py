"""Turn and shift a volume in its own voxel grid, as nobrainer does for its second look at a scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from kerasneuro.errors import InvalidOption

_IDENTITY = np.eye(3)


def rotation_matrix(
    shape: Sequence[int], angles: Sequence[float], translation: Sequence[float] = (0.0, 0.0, 0.0)
) -> np.ndarray:
    """Return the matrix that turns a grid about its centre and then shifts it.

    ``T(translation) T(centre) Rz Ry Rx T(-centre)`` with the centre at ``shape / 2 - 0.5``, as
    ``get_affine`` of neuronets/nobrainer 1.2.1.

    Parameters
    ----------
    shape
        Voxels along each axis.
    angles
        Radians about the first, second and third axis, applied in this order.
    translation
        Voxels along each axis.

    Returns
    -------
    ndarray
        Shape ``(4, 4)``, float32: a voxel of the output to the voxel of the input that it samples.
    """
    turns = np.asarray(angles, dtype=np.float32)
    (cx, cy, cz), (sx, sy, sz) = np.cos(turns), np.sin(turns)
    about_x = _matrix(turn=[[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = _matrix(turn=[[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = _matrix(turn=[[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    centre = np.asarray(shape[:3]) / 2 - 0.5
    # Multiplied in the original's order, because nearest neighbours at 45 degrees hang on the last bit.
    turn = about_z @ about_y @ about_x
    return _matrix(shift=translation) @ _matrix(shift=centre) @ turn @ _matrix(shift=-centre)


def _matrix(turn: ArrayLike = _IDENTITY, shift: ArrayLike = (0, 0, 0)) -> np.ndarray:
    matrix = np.eye(4, dtype=np.float32)
    matrix[:3, :3] = turn
    matrix[:3, 3] = shift
    return matrix


def warp_affine(
    array: np.ndarray, matrix: np.ndarray, order: Literal["linear", "nearest"] = "linear"
) -> np.ndarray:
    """Sample a volume at ``matrix @ (x, y, z, 1)`` for each voxel of the same grid.

    Parameters
    ----------
    array
        Shape ``(X, Y, Z)``, float32.
    matrix
        Shape ``(4, 4)``.
    order
        "linear" repeats the border outside the grid. "nearest" gives 0 there, except that a coordinate
        exactly one past the end reads on in C order (as the original does).

    Raises
    ------
    InvalidOption
        If `order` is neither.
    """
    if order not in ("linear", "nearest"):
        raise InvalidOption(f"order is 'linear' or 'nearest', found {order!r}")
    array = np.ascontiguousarray(array)
    # The original computes in float32 throughout: where a tie is rounded to depends on it, a mean does not.
    sample, dtype = (_linear, np.float64) if order == "linear" else (_nearest, np.float32)
    rows = matrix[:3].astype(np.float32).astype(dtype)
    result = np.empty_like(array)
    y, z = (np.arange(n, dtype=dtype) for n in array.shape[1:])
    # Plane by plane, so that the coordinates never fill the memory.
    for x in range(array.shape[0]):
        coordinates = [(row[0] * dtype(x) + row[1] * y)[:, np.newaxis] + row[2] * z + row[3] for row in rows]
        result[x] = sample(array, coordinates)
    return result


def _linear(array: np.ndarray, coordinates: Sequence[np.ndarray]) -> np.ndarray:
    """Weigh the eight voxels around each coordinate, all clamped to the grid."""
    starts, stops, fractions = [], [], []
    for coordinate, n, stride in zip(coordinates, array.shape, _strides(array.shape), strict=True):
        floor = np.floor(coordinate)
        start = np.clip(floor, 0, n - 1)
        starts.append(start.astype(np.intp) * stride)
        stops.append(np.clip(floor + 1, 0, n - 1).astype(np.intp) * stride)
        fractions.append((coordinate - start).astype(array.dtype))
    flat = array.reshape(-1)
    along_z = []
    for z in (starts[2], stops[2]):
        along_y = []
        for y in (starts[1], stops[1]):
            column = y + z
            along_y.append(_mix(flat.take(starts[0] + column), flat.take(stops[0] + column), fractions[0]))
        along_z.append(_mix(along_y[0], along_y[1], fractions[1]))
    return _mix(along_z[0], along_z[1], fractions[2])


def _mix(low: np.ndarray, high: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    high -= low
    high *= fraction
    high += low
    return high


def _nearest(array: np.ndarray, coordinates: Sequence[np.ndarray]) -> np.ndarray:
    """Take the voxel at each coordinate rounded half to even, by its float32 index in C order."""
    flat = array.reshape(-1)
    index = np.zeros(array.shape[1:], np.float32)
    outside = np.zeros(array.shape[1:], bool)
    for coordinate, n, stride in zip(coordinates, array.shape, _strides(array.shape), strict=True):
        rounded = np.rint(coordinate)
        outside |= (rounded < 0) | (rounded > n)
        index += rounded * np.float32(stride)
    result = flat.take(np.clip(index, 0, flat.size - 1).astype(np.intp))
    result[outside] = 0
    return result


def _strides(shape: Sequence[int]) -> tuple[int, int, int]:
    return shape[1] * shape[2], shape[2], 1
