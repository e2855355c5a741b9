"""Optimisers and learning rates as PyTorch computes them, for recipes that were written there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="kerasneuro")
class AdamL2(keras.optimizers.Adam):
    """Adam whose weight decay is part of the gradient, as in ``torch.optim.Adam(weight_decay=...)``.

    Two things differ from `keras.optimizers.Adam`. Its ``weight_decay`` shrinks the weights beside the step
    (as AdamW does); here ``l2 * weight`` is added to the gradient, so that the moments see it. And
    ``epsilon`` is added after the second moment has been corrected for its start, which matters for gradients
    near it.

    Source: D. P. Kingma and J. Ba, ICLR 2015, arXiv 1412.6980.

    Parameters
    ----------
    learning_rate : float or keras.optimizers.schedules.LearningRateSchedule
        Size of the step.
    l2 : float
        Factor of the weights that is added to their gradient; `exclude_from_weight_decay` takes weights out.
    beta_1, beta_2 : float
        Decay of the two moments.
    epsilon : float
        Added to the root of the corrected second moment.
    name : str
        Shown in logs.
    **kwargs
        Clipping, averaging, accumulation: as in every Keras optimiser.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        l2: float = 0.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        name: str = "adam_l2",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, name=name, **kwargs)
        self.l2 = l2

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move one variable by one step."""
        dtype = variable.dtype
        gradient = ops.cast(gradient, dtype)
        if self.l2 and self._use_weight_decay(variable):
            gradient = gradient + self.l2 * ops.convert_to_tensor(variable)
        step = ops.cast(self.iterations + 1, dtype)
        start_1 = 1 - ops.power(ops.cast(self.beta_1, dtype), step)
        start_2 = 1 - ops.power(ops.cast(self.beta_2, dtype), step)
        index = self._get_variable_index(variable)
        first, second = self._momentums[index], self._velocities[index]
        self.assign_add(first, (gradient - first) * (1 - self.beta_1))
        self.assign_add(second, (ops.square(gradient) - second) * (1 - self.beta_2))
        spread = ops.sqrt(second) / ops.sqrt(start_2) + self.epsilon
        self.assign_sub(variable, ops.cast(learning_rate, dtype) / start_1 * first / spread)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the optimiser."""
        config = {**super().get_config(), "l2": self.l2}
        del config["amsgrad"]
        return config


def per_batch_momentum(momentum: float, accumulate: int) -> float:
    """Return the ``ema_momentum`` with which averaged weights decay by `momentum` for each step.

    Keras's optimisers move the average after every batch, also after those whose gradients are only
    collected (``gradient_accumulation_steps``), so that it would forget `accumulate` times too fast.

    Parameters
    ----------
    momentum : float
        Part of the average that one step leaves, 0 to 1.
    accumulate : int
        Batches of a step.

    Returns
    -------
    float
        For ``use_ema=True, ema_momentum=...`` of any optimiser of Keras.
    """
    return float(momentum ** (1 / accumulate))


@dataclass(frozen=True)
class StepDecay:
    """Learning rate that falls by a factor every few epochs, for `keras.callbacks.LearningRateScheduler`.

    The rate depends on the number of the epoch alone, so training that resumes goes on with the same rates.

    Attributes
    ----------
    initial : float
        Rate of epoch 0.
    factor : float
        What the rate is multiplied by.
    every : int
        Epochs of one rate.
    """

    initial: float
    factor: float
    every: int

    def __call__(self, epoch: int, rate: float | None = None) -> float:
        """Return the rate of an epoch, counted from 0; the current `rate` is not used."""
        return float(self.initial * self.factor ** (epoch // self.every))
