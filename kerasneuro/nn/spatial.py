"""Spatial transforms in a graph: warp, compose, integrate, rescale; batched, in 2 and 3 dimensions.

Every transform maps the zero-based voxel indices of the output to those of the input ("pull"). It is either

- a *displacement*, a field ``u`` of shape (B, X, Y, Z, 3) or (B, X, Y, 2) in voxels: x goes to x + u(x), or
- a *matrix* (B, N, N + 1) or (B, N + 1, N + 1), see `kerasneuro.nn.affine`. With ``shift_center`` it acts
  about the centre ``(n - 1) / 2`` of the output grid, otherwise about voxel 0.

Sources: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/utils/utils.py``. The layers are in
`kerasneuro.nn.spatial_layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.nn import affine, sampling_torch
from kerasneuro.nn.resize import resize
from kerasneuro.nn.sampling import component_major, grid_axes, sample_displaced, spatial_sizes


def is_affine(transform: Any) -> bool:
    """Tell a batch of matrices from a batch of displacements, by the rank.

    Raises
    ------
    InvalidOption
        If it is neither.
    """
    shape = transform.shape
    if len(shape) == 3:
        affine.dimensions(transform)
        return True
    if len(shape) not in (4, 5) or shape[-1] != len(shape) - 2:
        raise InvalidOption(
            "a transform is a batch of matrices (B, N, N + 1) or of displacements (B, X, Y, 2) or "
            f"(B, X, Y, Z, 3); found shape {tuple(shape)}"
        )
    return False


def warp(volume: Any, displacement: Any, method: str = "linear", fill_value: float | None = None) -> Any:
    """Sample a volume at ``x + u(x)``.

    Parameters
    ----------
    volume : tensor (B, X, Y, Z, C)
    displacement : tensor (B, X', Y', Z', 3)
        In voxels of `volume`.
    method : {"linear", "nearest"}
    fill_value : float, optional
        Value outside the centres of the first and last voxels; None repeats the border.

    Returns
    -------
    tensor (B, X', Y', Z', C)
    """
    return sample_displaced(volume, displacement, method, fill_value)


def affine_to_dense(
    matrix: Any, shape: Sequence[Any], *, shift_center: bool = True, right: Any = None
) -> Any:
    """Return the displacement ``A (g + w) + t - g`` on a grid, g its voxel indices (about the centre or not).

    Parameters
    ----------
    matrix : tensor (B, N, N + 1)
    shape : sequence of int
        Grid of the result.
    shift_center : bool
        The matrix acts about the centre of the grid.
    right : tensor (B, X, Y, Z, N), optional
        Displacement w on this grid that acts first.

    Returns
    -------
    tensor (B, X, Y, Z, N)
    """
    linear, shift = affine.split(matrix)
    right = None if right is None else ops.convert_to_tensor(right)
    n = linear.shape[-1]
    change = linear - affine.identity(n)

    def entry(part: Any, row: int, column: int) -> Any:
        return ops.reshape(part[:, row, column], (-1, *[1] * n))

    axes = grid_axes(shape)
    if shift_center:
        axes = [axis - 0.5 * ops.cast(size - 1, "float32") for axis, size in zip(axes, shape, strict=True)]
    rows = []
    for row in range(n):
        total = entry(shift, row, 0)
        for column, axis in enumerate(axes):
            total = total + entry(change, row, column) * axis
            if right is not None:
                total = total + entry(linear, row, column) * right[..., column]
        rows.append(total)
    return ops.stack(rows, axis=-1)


def transform(
    volume: Any,
    transform: Any,
    method: str = "linear",
    fill_value: float | None = None,
    *,
    shift_center: bool = True,
    shape: Sequence[int] | None = None,
) -> Any:
    """Apply a matrix or a displacement to a volume.

    Parameters
    ----------
    volume : tensor (B, X, Y, Z, C)
    transform : tensor
        Matrices or displacements.
    method, fill_value
        See `warp`.
    shift_center : bool
        Matrices act about the centre of the grid.
    shape : sequence of int, optional
        Grid of the result for matrices without `shift_center`; that of the volume by default.

    Returns
    -------
    tensor (B, X', Y', Z', C)

    Raises
    ------
    InvalidOption
        If `shape` is given together with `shift_center`.
    """
    if is_affine(transform):
        if shape is not None and shift_center:
            raise InvalidOption("a shape of the result needs shift_center=False: two grids have two centres")
        grid = spatial_sizes(volume) if shape is None else shape
        transform = affine_to_dense(transform, grid, shift_center=shift_center)
    return warp(volume, transform, method, fill_value)


def compose(
    transforms: Sequence[Any],
    method: str = "linear",
    *,
    shift_center: bool = True,
    shape: Sequence[int] | None = None,
) -> Any:
    """Compose transforms; the last one acts first. Displacements are sampled with a repeated border.

    Parameters
    ----------
    transforms : sequence of tensors
        Matrices and displacements, in any order.
    method : {"linear", "nearest"}
        How displacements are sampled.
    shift_center : bool
        Matrices act about the centre of the grid.
    shape : sequence of int, optional
        Grid of the result where the last transforms are matrices and another is a displacement; the grid of
        the last displacement by default.

    Returns
    -------
    tensor
        Matrices (B, N, N + 1) if all are matrices, otherwise displacements. A single transform comes back
        unchanged.
    """
    *rest, current = (ops.convert_to_tensor(transform) for transform in transforms)
    for left in reversed(rest):
        if is_affine(left) and is_affine(current):
            current = affine.multiply(left, current)
        elif is_affine(left):
            grid = spatial_sizes(current)
            current = affine_to_dense(left, grid, shift_center=shift_center, right=current)
        else:
            if is_affine(current):
                grid = spatial_sizes(left) if shape is None else list(shape)
                current = affine_to_dense(current, grid, shift_center=shift_center)
            current = current + warp(left, current, method)
    return current


def integrate(velocity: Any, steps: int = 7) -> Any:
    """Integrate a stationary velocity over unit time by scaling and squaring; the border repeats.

    See V. Arsigny et al. (2006), doi:10.1007/11866565_113.

    Parameters
    ----------
    velocity : tensor (B, X, Y, Z, N)
        In voxels.
    steps : int
        Number of squarings; 0 returns the velocity.

    Returns
    -------
    tensor (B, X, Y, Z, N)
        Displacement in voxels.
    """
    velocity = ops.convert_to_tensor(velocity)
    if keras.backend.backend() == "torch" and not sampling_torch.is_differentiated(velocity):
        return sampling_torch.integrate(velocity, steps)
    displacement = component_major(velocity) * 2.0**-steps
    for _ in range(steps):
        displacement = displacement + warp(displacement, displacement)
    return displacement


def rescale(transform: Any, factor: float, method: str = "linear") -> Any:
    """Express a transform on a grid that is `factor` times as fine.

    A displacement is resized (see `kerasneuro.nn.resize.resize`) and multiplied by the factor; the shift of
    a matrix is multiplied.

    Parameters
    ----------
    transform : tensor
        Matrices (B, N, N + 1), or displacements.
    factor : float
    method : {"linear", "nearest"}

    Returns
    -------
    tensor
    """
    transform = ops.convert_to_tensor(transform)
    if is_affine(transform):
        return affine.rescale_affine(transform, factor)
    if factor < 1:
        return resize(transform, factor, method) * factor
    return resize(transform * factor, factor, method)
