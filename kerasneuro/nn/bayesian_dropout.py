"""Dropout of Bayesian networks: it may stay random in inference, and never scales up what it keeps.

The random and the deterministic form are those of `kerasneuro.nn.bayesian`.

Source: neuronets/kwyk@4dd379c, ``nobrainer/models/bayesian_dropout.py``.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from kerasneuro.nn.monte_carlo import seed_generator

CONCRETE_EPSILON = 1e-7
KEEP_LIMITS = (0.05, 0.95)
TEMPERATURE = 0.02


@keras.saving.register_keras_serializable(package="kerasneuro")
class BernoulliDropout(keras.layers.Layer):
    """Set each element to 0 with probability ``1 - keep_probability``; what is kept is **not** scaled up.

    The deterministic form multiplies by `keep_probability`.

    Parameters
    ----------
    keep_probability : float
        0 < keep_probability <= 1.
    monte_carlo : bool
        Draw in inference, too.
    seed : int, optional
        Start of the random numbers.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    def __init__(
        self, keep_probability: float, monte_carlo: bool = False, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < keep_probability <= 1:
            raise ValueError(f"keep_probability must be above 0 and at most 1, found {keep_probability}")
        self.keep_probability = keep_probability
        self.monte_carlo = monte_carlo
        self.seed = seed
        self.seed_generator = seed_generator(seed, monte_carlo)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Map a tensor of any shape to one of the same shape."""
        if not (training or self.monte_carlo):
            return inputs * self.keep_probability
        uniform = keras.random.uniform(ops.shape(inputs), dtype="float32", seed=self.seed_generator)
        return inputs * ops.cast(uniform < self.keep_probability, inputs.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the same shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        names = ("keep_probability", "monte_carlo", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kerasneuro")
class ConcreteDropout(keras.layers.Layer):
    """Multiply each element by a draw near 0 or 1, whose probability of 1 is learnt for every channel.

    The variable ``p`` (C,) is the probability to **keep**, used within 0.05 .. 0.95; nothing is scaled up.
    The deterministic form multiplies by it. See Y. Gal et al. (2017), Concrete Dropout, arXiv:1705.07832.

    Parameters
    ----------
    kl_weight : float
        Factor of the divergence from a prior of 0.5: 1 / number of training examples; 0 leaves it out.
    monte_carlo : bool
        Draw in inference, too.
    seed : int, optional
        Start of the random numbers.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    def __init__(
        self, kl_weight: float = 0.0, monte_carlo: bool = False, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.kl_weight = kl_weight
        self.monte_carlo = monte_carlo
        self.seed = seed
        self.seed_generator = seed_generator(seed, monte_carlo)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the probabilities."""
        start = keras.initializers.Constant(0.9)
        self.p = self.add_weight(name="p", shape=(input_shape[-1],), initializer=start)

    def divergence(self, keep: Any) -> Any:
        """Return the divergence from a probability of 0.5, before `kl_weight`."""
        drop = 1.0 - keep
        parts = (part * (ops.log(part + CONCRETE_EPSILON) - math.log(0.5)) for part in (keep, drop))
        return ops.sum(sum(parts))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Map a tensor (B, X, Y, Z, C) to one of the same shape."""
        keep = ops.clip(self.p, *KEEP_LIMITS)
        if training and self.kl_weight:
            self.add_loss(self.kl_weight * self.divergence(keep))
        if not (training or self.monte_carlo):
            return inputs * keep
        uniform = keras.random.uniform(ops.shape(inputs), dtype=inputs.dtype, seed=self.seed_generator)
        logits = log_odds(keep) + log_odds(uniform)
        return inputs * ops.sigmoid(logits / TEMPERATURE)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the same shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        names = ("kl_weight", "monte_carlo", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def log_odds(probability: Any) -> Any:
    """Return ln(p + 1e-7) - ln(1 - p + 1e-7)."""
    return ops.log(probability + CONCRETE_EPSILON) - ops.log(1.0 - probability + CONCRETE_EPSILON)
