"""Losses of a displacement or velocity field: smoothness and folding; one value for each item of the batch.

A field is a tensor ``(B, X, Y, Z, 3)`` or ``(B, X, Y, 2)`` in voxels of its own grid, component d along axis
d. The losses look at the prediction alone; any tensor stands in for the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import keras
from keras import ops

from kerasneuro.errors import InvalidOption

PENALTIES = ("l1", "l2")


def difference(values: Any, axis: int) -> Any:
    """Return the difference of neighbours along a spatial axis, counted from 0; one voxel shorter."""
    before = (slice(None),) * (axis + 1)
    return values[(*before, slice(1, None))] - values[(*before, slice(None, -1))]


def bending_energy(field: Any) -> Any:
    """Compute the bending energy of a thin plate of metal, averaged over the voxels inside.

    The squares of all second derivatives (mixed ones twice), by central differences, are added up over the
    components; the outermost voxels take part as neighbours only. Zero for every affine field.

    Source: D. Rueckert et al. (1999), doi:10.1109/42.796284.

    Parameters
    ----------
    field : tensor (B, X, Y, Z, C)

    Returns
    -------
    tensor (B,)
        In 1 / voxel**2, float32.

    Raises
    ------
    InvalidOption
        If an axis has fewer than 3 voxels.
    """
    field = _checked(field, 3)
    rank = len(field.shape) - 2

    def at(offsets: dict[int, int]) -> Any:
        steps = [offsets.get(axis, 0) for axis in range(rank)]
        return field[(slice(None), *(slice(1 + step, -1 + step or None) for step in steps))]

    energy = 0.0
    for axis in range(rank):
        energy += ops.square(at({axis: 1}) - 2 * at({}) + at({axis: -1}))
    for axis, other in combinations(range(rank), 2):
        same = at({axis: 1, other: 1}) + at({axis: -1, other: -1})
        opposite = at({axis: 1, other: -1}) + at({axis: -1, other: 1})
        energy += 2 * ops.square((same - opposite) / 4)
    return _mean(ops.sum(energy, axis=-1))


def jacobian_determinant(displacement: Any) -> Any:
    """Compute the determinant of the Jacobian of ``x + u(x)`` by differences of next neighbours.

    Parameters
    ----------
    displacement : tensor (B, X, Y, Z, 3) or (B, X, Y, 2)
        In voxels of its own grid.

    Returns
    -------
    tensor (B, X - 1, Y - 1, Z - 1)
        1 where nothing moves, below 0 where the transform folds; float32.

    Raises
    ------
    InvalidOption
        If an axis has fewer than 2 voxels, or there is not one component for each.
    """
    u = _checked(displacement, 2)
    rank = len(u.shape) - 2
    if u.shape[-1] != rank:
        raise InvalidOption(f"a displacement has {rank} components on {rank} axes, found {u.shape[-1]}")
    corner = (slice(None), *(slice(None, -1),) * rank)

    def derivative(axis: int) -> list[Any]:
        ahead = (slice(None), *(slice(1, None) if a == axis else slice(None, -1) for a in range(rank)))
        change = u[ahead] - u[corner]
        return [change[..., part] + (1.0 if part == axis else 0.0) for part in range(rank)]

    columns = [derivative(axis) for axis in range(rank)]
    if rank == 2:
        (a, b), (c, d) = columns
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = columns
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def _checked(field: Any, least: int) -> Any:
    """Return a field as float32, refused if an axis is too short for its differences."""
    sizes = field.shape[1:-1]
    if len(sizes) not in (2, 3) or any(size is not None and size < least for size in sizes):
        raise InvalidOption(
            f"a field has 2 or 3 axes of at least {least} voxels, found shape {tuple(field.shape)}"
        )
    return ops.cast(field, "float32")


def _mean(values: Any) -> Any:
    """Average ``(B, ...)`` over all but the batch."""
    return ops.mean(values, axis=tuple(range(1, len(values.shape))))


@keras.saving.register_keras_serializable(package="kerasneuro")
class FieldGradient(keras.losses.Loss):
    """Mean size of the differences between neighbours, averaged over the axes.

    Source: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/losses.py`` (`Grad`); G. Balakrishnan et al.
    (2019), doi:10.1109/TMI.2019.2897538.

    Parameters
    ----------
    penalty : {"l1", "l2"}
        Absolute or squared differences.
    loss_mult : float, optional
        Factor of the loss: for a field on a grid that is n times as coarse as the images, n.
    vox_weight : array-like, optional
        Factor of each voxel's difference to the one before, before it is squared, as in the original; shape
        ``(1 or B, X, Y, Z, 1 or C)``.
    name : str
        Shown in logs.

    Raises
    ------
    InvalidOption
        If `penalty` is none of these.
    """

    def __init__(
        self,
        penalty: str = "l1",
        loss_mult: float | None = None,
        vox_weight: Sequence[Any] | Any = None,
        name: str = "field_gradient",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if penalty not in PENALTIES:
            raise InvalidOption(f"penalty is one of {', '.join(PENALTIES)}, found {penalty!r}")
        self.penalty, self.loss_mult = penalty, loss_mult
        # Kept as numbers: a tensor of one backend could not be written into a config.
        self.vox_weight = vox_weight.tolist() if hasattr(vox_weight, "tolist") else vox_weight

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each field (B,)."""
        field = _checked(y_pred, 2)
        weight = None if self.vox_weight is None else ops.convert_to_tensor(self.vox_weight, "float32")
        size = ops.abs if self.penalty == "l1" else ops.square
        rank = len(field.shape) - 2
        total = 0.0
        for axis in range(rank):
            change = difference(field, axis)
            if weight is not None:
                change = change * weight[(*(slice(None),) * (axis + 1), slice(1, None))]
            total += _mean(size(change))
        return total * ((1.0 if self.loss_mult is None else self.loss_mult) / rank)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        own = {"penalty": self.penalty, "loss_mult": self.loss_mult, "vox_weight": self.vox_weight}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="kerasneuro")
class BendingEnergy(keras.losses.Loss):
    """`bending_energy` as a Keras loss.

    Parameters
    ----------
    name : str
        Shown in logs.
    """

    def __init__(self, name: str = "bending_energy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each field (B,)."""
        return bending_energy(y_pred)


@keras.saving.register_keras_serializable(package="kerasneuro")
class JacobianPenalty(keras.losses.Loss):
    """Mean size of the negative values of `jacobian_determinant`: 0 for a displacement that folds nowhere.

    It needs a displacement, not a velocity (VxmDense gives one with ``reg_field="warp"``).

    Source: T. C. W. Mok and A. C. S. Chung (2020), doi:10.1109/CVPR42600.2020.00470.

    Parameters
    ----------
    name : str
        Shown in logs.
    """

    def __init__(self, name: str = "jacobian_penalty", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each displacement (B,)."""
        return _mean(ops.relu(-jacobian_determinant(y_pred)))
