"""Adam with a learning rate for each layer, and weights that are pulled back to where they started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="kerasneuro")
class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW whose learning rate has a factor for each layer.

    Parameters
    ----------
    learning_rate : float or keras.optimizers.schedules.LearningRateSchedule
        Of layers that `factors` does not name.
    factors : mapping of str to float
        Begin of a layer's name -> factor; the longest begin that fits counts.
    **kwargs
        As for `keras.optimizers.AdamW`. The weight decay has no factor.
    """

    def __init__(
        self, learning_rate: Any = 1e-4, factors: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.factors = {str(name): float(factor) for name, factor in (factors or {}).items()}

    def factor_of(self, path: str) -> float:
        """Return the factor of the variable with a path."""
        fitting = [name for name in self.factors if path.startswith(name)]
        return self.factors[max(fitting, key=len)] if fitting else 1.0

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move one variable by one step."""
        # TensorFlow hands in its own variable, which does not know its path.
        known = self._trainable_variables[self._get_variable_index(variable)]
        factor = self.factor_of(known.path)
        super().update_step(gradient, variable, learning_rate if factor == 1 else learning_rate * factor)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the optimiser."""
        return {**super().get_config(), "factors": self.factors}


class StartPull(keras.regularizers.Regularizer):
    """Half the squared distance of a weight from where it started, times a factor (L2-SP).

    Source: X. Li et al., ICML 2018, arXiv:1802.01483.

    Parameters
    ----------
    start : ndarray
        Values of the weight at the start.
    factor : float
        Of the penalty.
    """

    def __init__(self, start: Any, factor: float) -> None:
        self.start, self.factor = start, factor

    def __call__(self, weight: Any) -> Any:
        """Return the penalty."""
        distance = ops.cast(weight, "float32") - ops.convert_to_tensor(self.start, "float32")
        return 0.5 * self.factor * ops.sum(ops.square(distance))


def pull_to_start(model: keras.Model, factor: float, new: str | None) -> None:
    """Add the penalty of L2-SP to every trained weight but those of the new head; 0 takes it off."""
    for layer in model.layers:
        for variable in layer.trainable_variables:
            pulled = bool(factor) and layer.name != new
            # A copy, since training may give up the memory that holds the values.
            start = np.array(ops.convert_to_numpy(variable)) if pulled else None
            variable.regularizer = None if start is None else StartPull(start, factor)
