"""Shifts, angles, scales and shears of affine matrices, and back; batched, in 2 and 3 dimensions.

The order of the parameters is that of the original: N shifts in voxels, the angles (1 in 2-D, 3 in 3-D), N
scales, then the shears (1 or 3). The matrix is R S E, and the shift: ``R = Rx Ry Rz``, S the diagonal of the
scales, E the unit upper triangle with the shears.

Source: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/utils/utils.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.nn.affine import determinant, divide, inverse, join, make_square, product, split

GIMBAL_LOCK = 1e-6  # radians
LARGEST = {2: 6, 3: 12}  # parameters by dimensions


def stack_rows(rows: Sequence[Sequence[Any]]) -> Any:
    """Put scalars of shape ``(...)`` together as matrices ``(..., rows, columns)``."""
    return ops.stack([ops.stack(list(row), axis=-1) for row in rows], axis=-2)


def rotation(angles: Any, *, degrees: bool = True) -> Any:
    """Return rotation matrices.

    Parameters
    ----------
    angles : tensor (..., 1) or (..., 3)
        One angle in the plane, or three in space: about the first, second and third axis; the third turns
        first.
    degrees : bool
        Otherwise radians.

    Returns
    -------
    tensor (..., N, N)
    """
    angles = ops.convert_to_tensor(angles)
    if degrees:
        angles = angles * (math.pi / 180)
    count = angles.shape[-1]
    cosine, sine = ops.cos(angles), ops.sin(angles)
    c, s = ([part[..., axis] for axis in range(count)] for part in (cosine, sine))
    if count == 1:
        return stack_rows([[c[0], -s[0]], [s[0], c[0]]])
    zero, one = ops.zeros_like(c[0]), ops.ones_like(c[0])
    about_x = stack_rows([[one, zero, zero], [zero, c[0], -s[0]], [zero, s[0], c[0]]])
    about_y = stack_rows([[c[1], zero, s[1]], [zero, one, zero], [-s[1], zero, c[1]]])
    about_z = stack_rows([[c[2], -s[2], zero], [s[2], c[2], zero], [zero, zero, one]])
    return product(about_x, product(about_y, about_z))


def rotation_angles(matrix: Any, *, degrees: bool = True) -> Any:
    """Return the angles of rotation matrices ``(..., N, N)``: ``(..., 1)`` in 2-D, ``(..., 3)`` in 3-D.

    Where the second angle is a right angle, the first and third turn about one axis; the first is 0 then.
    """
    matrix = ops.convert_to_tensor(matrix)
    clipped = ops.clip(matrix, -1.0, 1.0)
    if matrix.shape[-1] == 2:
        angles = ops.arctan2(clipped[..., 1, 0], clipped[..., 0, 0])[..., None]
    else:
        second = ops.arcsin(clipped[..., 0, 2])
        cosine = ops.cos(second)
        locked = ops.less(ops.abs(ops.abs(second) - math.pi / 2), GIMBAL_LOCK)

        def angle(opposite: Any, adjacent: Any) -> Any:
            parts = (ops.clip(divide(part, cosine), -1.0, 1.0) for part in (opposite, adjacent))
            return ops.arctan2(*parts)

        first = angle(-matrix[..., 1, 2], matrix[..., 2, 2])
        third = angle(-matrix[..., 0, 1], matrix[..., 0, 0])
        first = ops.where(locked, 0.0, first)
        third = ops.where(locked, ops.arctan2(clipped[..., 1, 0], clipped[..., 1, 1]), third)
        angles = ops.stack([first, second, third], axis=-1)
    return angles * (180 / math.pi) if degrees else angles


def affine_from_parameters(
    parameters: Any,
    dimensions: int = 3,
    *,
    degrees: bool = True,
    shift_scale: bool = False,
    last_row: bool = False,
) -> Any:
    """Build affine matrices.

    Parameters
    ----------
    parameters : tensor (..., P)
        Shifts, angles, scales, shears; those left out at the end change nothing.
    dimensions : int
        2 or 3.
    degrees : bool
        Angles in degrees; otherwise radians.
    shift_scale : bool
        The scales are given less 1.
    last_row : bool
        Append the row (0, ..., 0, 1).

    Returns
    -------
    tensor (..., N, N + 1) or (..., N + 1, N + 1)

    Raises
    ------
    InvalidOption
        If there are no parameters, or more than 6 in 2-D or 12 in 3-D.
    """
    count, n = parameters.shape[-1], dimensions
    if n not in LARGEST or not 1 <= count <= LARGEST[n]:
        raise InvalidOption(
            f"an affine matrix has 1 to 6 parameters in 2 dimensions and 1 to 12 in 3; found {count} "
            f"parameters in {n} dimensions"
        )
    parameters = ops.convert_to_tensor(parameters)
    turns = 1 if n == 2 else 3
    p = [parameters[..., index] for index in range(count)]
    zero, one = ops.zeros_like(p[0]), ops.ones_like(p[0])
    neutral_scale = zero if shift_scale else one
    neutral = [zero] * (n + turns) + [neutral_scale] * n + [zero] * turns
    p += neutral[count:]
    shift, angles, scales, shears = p[:n], p[n : n + turns], p[n + turns : 2 * n + turns], p[2 * n + turns :]
    if shift_scale:
        scales = [scale + 1.0 for scale in scales]
    stretch = ops.stack(scales, axis=-1)[..., None] * shear_matrix(shears)
    linear = product(rotation(ops.stack(angles, axis=-1), degrees=degrees), stretch)
    matrix = join(linear, ops.stack(shift, axis=-1)[..., None])
    return make_square(matrix) if last_row else matrix


def shear_matrix(shears: Sequence[Any]) -> Any:
    """Return the unit upper triangles of 1 (2-D) or 3 (3-D) shears of shape ``(...)``."""
    zero, one = ops.zeros_like(shears[0]), ops.ones_like(shears[0])
    if len(shears) == 1:
        return stack_rows([[one, shears[0]], [zero, one]])
    return stack_rows([[one, shears[0], shears[1]], [zero, one, shears[2]], [zero, zero, one]])


def parameters_from_affine(matrix: Any, *, degrees: bool = True) -> Any:
    """Take affine matrices apart.

    A mirrored matrix gets a negative first scale before the shears are read, as in the original; its
    parameters then give another matrix.

    Parameters
    ----------
    matrix : tensor (..., N, N + 1) or (..., N + 1, N + 1)
    degrees : bool
        Angles in degrees; otherwise radians.

    Returns
    -------
    tensor (..., 6) in 2-D, (..., 12) in 3-D
        Shifts, angles, scales, shears.
    """
    linear, shift = split(matrix)
    lower = cholesky(product(ops.swapaxes(linear, -1, -2), linear))
    n = len(lower)
    scales = [lower[axis][axis] for axis in range(n)]
    scales[0] = scales[0] * ops.sign(determinant(linear))
    shears = [lower[column][row] / scales[row] for row in range(n) for column in range(row + 1, n)]
    stretch = ops.stack(scales, axis=-1)[..., None] * shear_matrix(shears)
    angles = rotation_angles(product(linear, inverse(stretch)), degrees=degrees)
    rest = [ops.stack(part, axis=-1) for part in (scales, shears)]
    return ops.concatenate([shift[..., 0], angles, *rest], axis=-1)


def cholesky(matrix: Any) -> list[list[Any]]:
    """Return the lower triangle L of positive matrices L L' ``(..., N, N)``, as rows of scalars ``(...)``."""
    n = matrix.shape[-1]
    lower: list[list[Any]] = []
    for row in range(n):
        lower.append([])
        for column in range(row + 1):
            value = matrix[..., row, column]
            for index in range(column):
                value = value - lower[row][index] * lower[column][index]
            lower[row].append(ops.sqrt(value) if row == column else value / lower[column][column])
    return lower


def rigid_from_affine(matrix: Any) -> Any:
    """Keep the shift and the angles of affine matrices, without scales and shears; ``(..., N, N + 1)``.

    This is not the nearest rotation.
    """
    n = matrix.shape[-1] - 1
    parameters = parameters_from_affine(matrix, degrees=False)
    return affine_from_parameters(parameters[..., : 3 if n == 2 else 6], n, degrees=False)
