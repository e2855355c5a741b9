"""Initial values of weights, drawn on the host."""

from __future__ import annotations

import math
import random
from typing import Any

import keras
import numpy as np
from keras import ops

LARGEST_SEED = 10**9


@keras.saving.register_keras_serializable(package="kerasneuro")
class HostGlorotUniform(keras.initializers.Initializer):
    """Draw from a uniform distribution within sqrt(6 / (fan_in + fan_out)), by NumPy.

    The distribution of `keras.initializers.GlorotUniform`. That one is compiled anew for each shape on JAX,
    which takes a second each on a CPU: far longer than to load the weights that replace the drawn ones. The
    seed comes from Python's `random` where none is given, as in Keras, so `keras.utils.set_random_seed`
    determines it; one instance draws the same values again for the same shape.

    Source: X. Glorot and Y. Bengio, Proc. AISTATS 9 (2010) 249.

    Parameters
    ----------
    seed : int, optional
        Seed of the generator.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = random.randint(1, LARGEST_SEED) if seed is None else seed

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Draw a kernel of shape (..., inputs, outputs); the fans of a transposed kernel are the same."""
        taps = math.prod(shape[:-2])
        limit = math.sqrt(6 / (taps * sum(shape[-2:])))
        values = np.random.default_rng(self.seed).uniform(-limit, limit, shape).astype(np.float32)
        return ops.cast(ops.convert_to_tensor(values), dtype or keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the initialiser."""
        return {"seed": self.seed}
