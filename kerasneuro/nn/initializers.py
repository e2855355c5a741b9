"""Initial values of weights, drawn on the host.

Those of Keras are compiled anew for each shape on JAX, which takes a second each on a CPU: far longer than to
load the weights that replace the drawn ones. The seed comes from Python's `random` where none is given, as in
Keras, so `keras.utils.set_random_seed` determines it; one instance draws the same values again for the same
shape.
"""

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

    The distribution of `keras.initializers.GlorotUniform`.

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


@keras.saving.register_keras_serializable(package="kerasneuro")
class HostFanOutNormal(keras.initializers.Initializer):
    """Draw from a normal distribution of standard deviation sqrt(2 / fan_out), by NumPy.

    Source: K. He et al., arXiv:1502.01852.

    Parameters
    ----------
    seed : int, optional
        Seed of the generator.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = random.randint(1, LARGEST_SEED) if seed is None else seed

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Draw a kernel of shape (..., inputs, outputs)."""
        deviation = math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1]))
        values = np.random.default_rng(self.seed).normal(0.0, deviation, shape).astype(np.float32)
        return ops.cast(ops.convert_to_tensor(values), dtype or keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the initialiser."""
        return {"seed": self.seed}


@keras.saving.register_keras_serializable(package="kerasneuro")
class HostUniform(keras.initializers.Initializer):
    """Draw from a uniform distribution within a limit, by NumPy.

    Parameters
    ----------
    limit : float
        Largest absolute value.
    seed : int, optional
        Seed of the generator.
    """

    def __init__(self, limit: float, seed: int | None = None) -> None:
        self.limit = limit
        self.seed = random.randint(1, LARGEST_SEED) if seed is None else seed

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Draw an array of any shape."""
        values = np.random.default_rng(self.seed).uniform(-self.limit, self.limit, shape).astype(np.float32)
        return ops.cast(ops.convert_to_tensor(values), dtype or keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the initialiser."""
        return {"limit": self.limit, "seed": self.seed}
