"""Gradients on whichever backend runs, and their comparison with differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

Function = Callable[[Any], Any]


def gradient(function: Function, x: np.ndarray) -> np.ndarray:
    """Return the gradient of a scalar function of one tensor."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        variable = tf.Variable(x)
        with tf.GradientTape() as tape:
            value = function(variable + 0.0)
        return tape.gradient(value, variable).numpy()
    if backend == "jax":
        import jax

        return np.asarray(jax.jit(jax.grad(function))(x))
    import torch

    tensor = torch.tensor(x, requires_grad=True)
    function(tensor).backward()
    return tensor.grad.numpy()


@pytest.fixture
def check_gradient() -> Callable[..., None]:
    """Compare the derivative of a weighted sum of ``function(x)`` along one direction with a difference."""

    def check(function: Function, x: np.ndarray, step: float = 1e-2, rtol: float = 2e-2) -> None:
        if keras.backend.backend() == "jax":
            import jax

            function = jax.jit(function)
        rng = np.random.default_rng(2)
        direction = rng.normal(size=x.shape).astype(np.float32)
        drawn = rng.normal(size=function(ops.convert_to_tensor(x)).shape).astype(np.float32)
        weights = ops.convert_to_tensor(drawn)
        found = np.sum(gradient(lambda tensor: ops.sum(function(tensor) * weights), x) * direction)
        ahead, behind = (
            np.sum(
                ops.convert_to_numpy(ops.stop_gradient(function(ops.convert_to_tensor(place))))
                * drawn.astype(np.float64)
            )
            for place in (x + step * direction, x - step * direction)
        )
        np.testing.assert_allclose(found, (ahead - behind) / (2 * step), rtol=rtol, atol=1e-3)

    return check
