"""Algebra of affine matrices inside a graph: batched, differentiable, in 2 and 3 dimensions.

A matrix ``(..., N, N + 1)`` maps zero-based voxel indices to zero-based voxel indices; one of shape
``(..., N + 1, N + 1)`` has the row (0, ..., 0, 1) besides. Everything is written out for N = 2 and 3, because
not every backend has the routines of linear algebra.

Sources: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/utils/utils.py``; adalca/neurite@7c4b05e,
``neurite/tf/utils/utils.py`` (`barycenter`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.nn.sampling import as_float

SIGNS_2D = np.array([[0, 1], [-1, 0]], np.float32)
# Row a and column c of the minor of row i and column j: [a, c, i, j].
OPPOSITE = np.einsum("ia,jc->acij", SIGNS_2D, SIGNS_2D)
SIGNS = np.zeros((3, 3, 3), np.float32)
for _first in range(3):
    SIGNS[_first, (_first + 1) % 3, (_first + 2) % 3] = 1
    SIGNS[_first, (_first + 2) % 3, (_first + 1) % 3] = -1
# Row a and column c, row b and column d, of the minor of row i and column j: [a, b, c, d, i, j].
MINORS = 0.5 * np.einsum("iab,jcd->abcdij", SIGNS, SIGNS)

# Denman-Beavers converges quadratically: eigenvalues within 1/50 .. 50 have settled after these.
ROOT_STEPS = 8


def dimensions(matrix: Any) -> int:
    """Return N of a matrix ``(..., N, N + 1)`` or ``(..., N + 1, N + 1)``.

    Raises
    ------
    InvalidOption
        If it has no such shape with N = 2 or 3.
    """
    rows, columns = matrix.shape[-2:]
    if columns not in (3, 4) or rows not in (columns - 1, columns):
        raise InvalidOption(
            f"an affine matrix has 2 or 3 rows and 3 columns, or 3 or 4 rows and 4 columns; found {rows} and "
            f"{columns}"
        )
    return columns - 1


def make_square(matrix: Any) -> Any:
    """Append the row (0, ..., 0, 1) to matrices ``(..., N, N + 1)`` that lack it."""
    matrix = ops.convert_to_tensor(matrix)
    n = dimensions(matrix)
    if matrix.shape[-2] == n + 1:
        return matrix
    first = matrix[..., :1, :]
    last = ops.concatenate([ops.zeros_like(first[..., :n]), ops.ones_like(first[..., n:])], axis=-1)
    return ops.concatenate([matrix, last], axis=-2)


def split(matrix: Any) -> tuple[Any, Any]:
    """Return the linear part ``(..., N, N)`` and the shift ``(..., N, 1)`` of a matrix."""
    matrix = ops.convert_to_tensor(matrix)
    n = dimensions(matrix)
    return matrix[..., :n, :n], matrix[..., :n, n:]


def join(linear: Any, shift: Any) -> Any:
    """Put a linear part ``(..., N, N)`` and a shift ``(..., N, 1)`` together as ``(..., N, N + 1)``."""
    return ops.concatenate([linear, shift], axis=-1)


def multiply(*matrices: Any) -> Any:
    """Multiply matrices as maps, the last one applied first; returns ``(..., N, N + 1)``."""
    linear, shift = split(matrices[0])
    for matrix in matrices[1:]:
        right_linear, right_shift = split(matrix)
        shift = product(linear, right_shift) + shift
        linear = product(linear, right_linear)
    return join(linear, shift)


def product(left: Any, right: Any) -> Any:
    """Multiply matrices ``(..., I, J)`` and ``(..., J, K)`` in true float32: GPUs round those of `matmul`."""
    return ops.sum(left[..., :, :, None] * right[..., None, :, :], axis=-2)


def cofactors(linear: Any) -> Any:
    """Return the cofactors of matrices ``(..., N, N)``, N = 2 or 3."""
    n = linear.shape[-1]
    if n == 2:
        return ops.sum(linear[..., :, :, None, None] * ops.convert_to_tensor(OPPOSITE), axis=(-4, -3))
    # All products of two entries, then those of each minor.
    pairs = linear[..., :, None, :, None, None, None] * linear[..., None, :, None, :, None, None]
    return ops.sum(pairs * ops.convert_to_tensor(MINORS), axis=(-6, -5, -4, -3))


def determinant(linear: Any) -> Any:
    """Return the determinants ``(...)`` of matrices ``(..., N, N)``, N = 2 or 3."""
    linear = ops.convert_to_tensor(linear)
    return ops.sum(linear[..., 0, :] * cofactors(linear)[..., 0, :], axis=-1)


def inverse(linear: Any) -> Any:
    """Invert matrices ``(..., N, N)``, N = 2 or 3; a singular one gives infinities or NaN."""
    linear = ops.convert_to_tensor(linear)
    minors = cofactors(linear)
    scale = ops.sum(linear[..., :1, :] * minors[..., :1, :], axis=-1, keepdims=True)
    return ops.swapaxes(minors, -1, -2) / scale


def invert_affine(matrix: Any) -> Any:
    """Invert affine matrices; the result has as many rows as the input."""
    linear, shift = split(matrix)
    back = inverse(linear)
    result = join(back, -product(back, shift))
    return make_square(result) if matrix.shape[-2] == matrix.shape[-1] else result


def rescale_affine(matrix: Any, factor: float) -> Any:
    """Multiply the shift of affine matrices by a factor; the result has as many rows as the input."""
    linear, shift = split(matrix)
    result = join(linear, shift * factor)
    return make_square(result) if matrix.shape[-2] == matrix.shape[-1] else result


def square_root(matrix: Any) -> Any:
    """Return the principal square root, the transform that applied twice gives the matrix.

    By the iteration of E. D. Denman and A. N. Beavers (1976), doi:10.1016/0096-3003(76)90020-5. The linear
    part must have no eigenvalue on the negative real axis, otherwise the result is meaningless.

    Parameters
    ----------
    matrix : tensor (..., N, N + 1) or (..., N + 1, N + 1)

    Returns
    -------
    tensor
        Of the same shape.
    """
    linear, shift = split(matrix)
    one = identity(linear.shape[-1])
    root, inverse_root = linear, ops.zeros_like(linear) + one
    for _ in range(ROOT_STEPS):
        root, inverse_root = (
            0.5 * (root + inverse(inverse_root)),
            0.5 * (inverse_root + inverse(root)),
        )
    result = join(root, product(inverse(root + one), shift))
    return make_square(result) if matrix.shape[-2] == matrix.shape[-1] else result


def identity(n: int) -> Any:
    """Return the identity ``(n, n)``, float32."""
    return ops.eye(n, dtype="float32")


def uncentre(matrix: Any, shape: Sequence[Any]) -> Any:
    """Turn a matrix about the centre ``(shape - 1) / 2`` of a grid into one of zero-based indices.

    Parameters
    ----------
    matrix : tensor (..., N, N + 1)
    shape : sequence of int or scalar tensor
        Voxels of the grid along each axis.

    Returns
    -------
    tensor (..., N, N + 1)
    """
    linear, shift = split(matrix)
    middles = [[(as_float(size) - 1) / 2] for size in shape]
    centre = ops.stack([ops.convert_to_tensor(middle, dtype="float32") for middle in middles])
    return join(linear, shift + centre - product(linear, centre))


def fit_affine(target: Any, source: Any, weights: Any = None) -> Any:
    """Fit the affine matrices that map source points to target points, by weighted least squares.

    Solved about the weighted centres of the points, which is the same in exact arithmetic as with a constant
    in the regression, and loses fewer digits.

    Parameters
    ----------
    target, source : tensor (B, M, N)
        Corresponding points: ``target`` is predicted from ``source``.
    weights : tensor (B, M), optional
        Weight of each squared distance.

    Returns
    -------
    tensor (B, N, N + 1)
    """
    target, source = ops.convert_to_tensor(target), ops.convert_to_tensor(source)
    weights = ops.ones_like(target[..., 0]) if weights is None else ops.convert_to_tensor(weights)
    weights = (weights / ops.sum(weights, axis=-1, keepdims=True))[..., None]
    target_centre = ops.sum(weights * target, axis=-2, keepdims=True)
    source_centre = ops.sum(weights * source, axis=-2, keepdims=True)
    target, source = target - target_centre, source - source_centre
    weighted = ops.swapaxes(weights * source, -1, -2)
    linear = ops.swapaxes(product(inverse(product(weighted, source)), product(weighted, target)), -1, -2)
    shift = ops.swapaxes(target_centre, -1, -2) - product(linear, ops.swapaxes(source_centre, -1, -2))
    return join(linear, shift)


def barycentre(features: Any, *, normalise: bool = True, centre: bool = True) -> Any:
    """Return the centre of mass of each channel.

    Parameters
    ----------
    features : tensor (B, ..., C)
        Non-negative maps on N spatial axes.
    normalise : bool
        Divide the coordinates along each axis by its length.
    centre : bool
        Count from the centre of the grid, not from the first voxel.

    Returns
    -------
    tensor (B, C, N)
        A channel without mass gives 0.
    """
    features = ops.convert_to_tensor(features)
    axes = range(1, len(features.shape) - 1)
    mass = ops.sum(features, axis=tuple(axes))
    moments = []
    for axis in axes:
        size = ops.shape(features)[axis]
        profile = ops.sum(features, axis=tuple(other for other in axes if other != axis))
        origin, unit = (as_float(size) - 1) / 2 if centre else 0.0, as_float(size) if normalise else 1.0
        places = ops.cast((ops.arange(size, dtype="float32") - origin) / unit, features.dtype)
        moments.append(ops.sum(profile * places[:, None], axis=1))
    return divide(ops.stack(moments, axis=-1), mass[..., None])


def divide(numerator: Any, denominator: Any) -> Any:
    """Divide; 0 where the denominator is 0."""
    zero = ops.equal(denominator, 0)
    return ops.where(zero, 0.0, numerator / ops.where(zero, 1.0, denominator))
