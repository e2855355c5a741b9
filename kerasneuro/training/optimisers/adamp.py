"""The optimiser of HSF: AdamP with adaptive gradient clipping and a momentum that decays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kerasneuro.errors import InvalidOption

LEAST_NORM = 1e-3  # of a weight, so that one near zero can still move
LEAST_GRADIENT = 1e-6


@keras.saving.register_keras_serializable(package="kerasneuro")
class AdamP(keras.optimizers.Optimizer):
    """Adam that does not lengthen weights whose scale has no effect, as HSF trains with it.

    Each step clips the gradient of every unit to a share of the unit's weights (adaptive gradient clipping),
    decays the first moment over the whole training (DEMON), and takes the radial part out of steps that are
    nearly orthogonal to the weights (AdamP). Every variable counts its own steps, so one that joins later
    starts anew.

    Source: B. Heo et al., ICLR 2021, arXiv 2006.08217; A. Brock et al., ICML 2021, arXiv 2102.06171;
    J. Chen et al., ICASSP 2022, arXiv 1910.04952; clementpoiret/hsf_train@127435f.

    Parameters
    ----------
    learning_rate : float or keras.optimizers.schedules.LearningRateSchedule
        Size of the step.
    total_steps : int, optional
        Steps of the whole training, at whose end the first moment has no memory; None keeps it constant.
    beta_1, beta_2 : float
        Decay of the two moments; `beta_1` at the start.
    epsilon : float
        Added to the root of the corrected second moment.
    clipping : float, optional
        Largest norm of a unit's gradient as a share of the norm of its weights; None clips nothing.
    delta : float
        A step is projected if gradient and weights have a cosine below ``delta / sqrt(width)``.
    unit_axis : {-1, 0}
        Axis of the units in tensors of two or more axes: the last in Keras, the first in PyTorch's order.
    projected_vectors : sequence of str
        Names of variables with one axis that are projected, too, as a whole: scales and offsets that the
        original stores with five axes. Other vectors never are.
    name : str
        Shown in logs.
    **kwargs
        Accumulation, weight decay, averaging: as in every Keras optimiser.

    Raises
    ------
    InvalidOption
        If `unit_axis` or `total_steps` has another value.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        total_steps: int | None = None,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        clipping: float | None = 0.01,
        delta: float = 0.1,
        unit_axis: int = -1,
        projected_vectors: Sequence[str] = (),
        name: str = "adamp",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if unit_axis not in (0, -1):
            raise InvalidOption(f"unit_axis is 0 or -1, found {unit_axis!r}")
        if total_steps is not None and total_steps < 1:
            raise InvalidOption(f"total_steps is a count of steps of at least 1, found {total_steps!r}")
        self.total_steps = total_steps
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.clipping, self.delta = clipping, delta
        self.unit_axis = unit_axis
        self.projected_vectors = list(projected_vectors)

    def build(self, variables: Sequence[Any]) -> None:
        """Make two moments and a count for each variable."""
        if self.built:
            return
        super().build(variables)
        self._first, self._second, self._counts, self._projected = [], [], [], []
        for variable in variables:
            # Remembered, since TensorFlow hands its own variables, of other names, to `update_step`.
            vector = variable.name in self.projected_vectors
            self._projected.append(len(variable.shape) > 1 or (len(variable.shape) == 1 and vector))
            self._first.append(self.add_variable_from_reference(variable, "momentum"))
            self._second.append(self.add_variable_from_reference(variable, "velocity"))
            label = f"{variable.path.replace('/', '_')}_steps"
            self._counts.append(self.add_variable((), "zeros", variable.dtype, name=label))

    def _get_current_learning_rate(self) -> Any:
        """Let a schedule count steps, not batches, where gradients are accumulated."""
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move one variable by one step."""
        dtype = variable.dtype
        index = self._get_variable_index(variable)
        first, second, count = self._first[index], self._second[index], self._counts[index]
        weights, gradient = ops.convert_to_tensor(variable), ops.cast(gradient, dtype)
        self.assign_add(count, ops.ones((), dtype))
        step = ops.convert_to_tensor(count)
        if self.clipping is not None:
            gradient = self._clip(gradient, weights)
        beta_1 = self._decayed_beta(step)
        self.assign_add(first, (gradient - first) * (1 - beta_1))
        self.assign_add(second, (ops.square(gradient) - second) * (1 - self.beta_2))
        spread = ops.sqrt(second) / ops.sqrt(1 - ops.power(ops.cast(self.beta_2, dtype), step)) + self.epsilon
        direction = first / spread
        if self._projected[index]:
            direction = self._project(direction, gradient, weights)
        rate = ops.cast(learning_rate, dtype) / (1 - ops.power(beta_1, step))
        self.assign_sub(variable, rate * direction)

    def _decayed_beta(self, step: Any) -> Any:
        """Return the decay of the first moment at a step, counted from 1."""
        if self.total_steps is None:
            return ops.cast(self.beta_1, step.dtype)
        left = self.beta_1 * ops.maximum(1 - step / self.total_steps, 0)
        return left / ((1 - self.beta_1) + left)

    def _clip(self, gradient: Any, weights: Any) -> Any:
        """Shorten the gradient of each unit to a share of the unit's weights."""
        limit = self.clipping * ops.maximum(self._unit_norm(weights), LEAST_NORM)
        length = self._unit_norm(gradient)
        return ops.where(length > limit, gradient * limit / ops.maximum(length, LEAST_GRADIENT), gradient)

    def _unit_norm(self, tensor: Any) -> Any:
        """Return the norm of each unit, for one tensor of weights or gradients."""
        rank = len(tensor.shape)
        unit = self.unit_axis % rank if rank else 0
        axes = tuple(axis for axis in range(rank) if axis != unit)
        if rank <= 1:
            axes = tuple(range(rank))
        elif rank <= 3:  # Matrices and kernels of one dimension: over the inputs alone.
            axes = (1 if unit == 0 else rank - 2,)
        return ops.sqrt(ops.sum(ops.square(tensor), axis=axes, keepdims=True))

    def _project(self, direction: Any, gradient: Any, weights: Any) -> Any:
        """Take the radial part out of a step, of each unit or else of the whole tensor."""
        rank = len(weights.shape)
        whole, is_whole = self._tangent(direction, gradient, weights, tuple(range(rank)))
        projected = ops.where(is_whole, whole, direction)
        if rank > 1:
            unit = self.unit_axis % rank
            axes = tuple(axis for axis in range(rank) if axis != unit)
            units, is_units = self._tangent(direction, gradient, weights, axes)
            projected = ops.where(is_units, units, projected)
        return projected

    def _tangent(self, direction: Any, gradient: Any, weights: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
        """Return a step without its radial part, and whether the gradient is orthogonal enough for it."""

        def total(tensor: Any) -> Any:
            return ops.sum(tensor, axis=axes, keepdims=True)

        def norm(tensor: Any) -> Any:
            return ops.sqrt(total(ops.square(tensor))) + self.epsilon

        width = 1
        for axis in axes:
            width *= weights.shape[axis]
        cosine = ops.abs(total(gradient * weights)) / norm(gradient) / norm(weights)
        radial = weights / norm(weights)
        orthogonal = ops.max(cosine) < self.delta / width**0.5
        return direction - radial * total(radial * direction), orthogonal

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the optimiser."""
        names = ("total_steps", "beta_1", "beta_2", "epsilon", "clipping", "delta", "unit_axis")
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own, "projected_vectors": list(self.projected_vectors)}
