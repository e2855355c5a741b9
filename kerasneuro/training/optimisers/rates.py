"""Learning rates that change with every step."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from kerasneuro.errors import InvalidOption

WARM_SHARE = 0.1  # of the epochs


@keras.saving.register_keras_serializable(package="kerasneuro")
class WarmCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises from 0 in a line, then falls to 0 along half a cosine.

    Source: clementpoiret/hsf_train@127435f, which takes the schedule of Lightning Bolts.

    Parameters
    ----------
    peak : float
        Highest rate, of step ``warm_steps - 1``.
    warm_steps : int
        Steps of the rise; the first one has rate 0.
    total_steps : int
        The step that has rate 0 again.

    Raises
    ------
    InvalidOption
        If the rise does not end before the training.
    """

    def __init__(self, peak: float, warm_steps: int, total_steps: int) -> None:
        super().__init__()
        if not 0 <= warm_steps < total_steps:
            raise InvalidOption(
                f"the rate rises for 0 to {total_steps - 1} of {total_steps} steps, found {warm_steps}"
            )
        self.peak, self.warm_steps, self.total_steps = float(peak), int(warm_steps), int(total_steps)

    def rate(self, step: int) -> float:
        """Return the rate of a step, counted from 0, in double precision."""
        if step < self.warm_steps:
            return self.peak * step / max(self.warm_steps - 1, 1)
        done = (min(step, self.total_steps) - self.warm_steps) / (self.total_steps - self.warm_steps)
        return 0.5 * self.peak * (1 + math.cos(math.pi * done))

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step as a float32 tensor, for an optimiser."""
        step = ops.cast(step, "float32")
        rise = self.peak * step / max(self.warm_steps - 1, 1)
        done = (ops.minimum(step, self.total_steps) - self.warm_steps) / (self.total_steps - self.warm_steps)
        fall = 0.5 * self.peak * (1 + ops.cos(math.pi * done))
        return ops.where(step < self.warm_steps, rise, fall)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the schedule."""
        return {"peak": self.peak, "warm_steps": self.warm_steps, "total_steps": self.total_steps}


def warm_cosine(peak: float, epochs: int, steps: int) -> WarmCosine:
    """Return the schedule of a training that rises during a tenth of its epochs.

    Parameters
    ----------
    peak : float
        Highest rate.
    epochs, steps : int
        Epochs, and steps of the optimiser in each.

    Returns
    -------
    WarmCosine
        Of ``epochs * steps`` steps.
    """
    return WarmCosine(peak, int(WARM_SHARE * epochs) * steps, epochs * steps)
