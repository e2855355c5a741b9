"""Pooling that remembers places, and the activations of FastSurferCNN: values, ties, gradients, configs."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from kerasneuro.inference import Engine
from kerasneuro.nn.activation import Maxout, ScalarPReLU
from kerasneuro.nn.pooling import ArgmaxPooling2D, ArgmaxUnpooling2D, plane_indices


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def numbers(tensor: object) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))


def pool(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pooled, place = ArgmaxPooling2D()(ops.convert_to_tensor(x))
    return numbers(pooled), numbers(place)


def scan(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pool window by window: a later value takes over only if it is greater."""
    b, height, width, channels = x.shape
    windows = x.reshape(b, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
    windows = windows.reshape(*windows.shape[:4], 4)
    return windows.max(-1), windows.argmax(-1)


def gradient(function, *arrays: np.ndarray) -> list[np.ndarray]:
    """Return the gradients of the sum of a function's result, on any backend that has gradients."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tensors = [tf.constant(array) for array in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            total = ops.sum(function(*tensors))
        return [numbers(found) for found in tape.gradient(total, tensors)]
    if backend == "jax":
        import jax

        found = jax.grad(lambda *t: ops.sum(function(*t)), argnums=tuple(range(len(arrays))))(*arrays)
        return [numbers(each) for each in found]
    import torch

    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    ops.sum(function(*tensors)).backward()
    return [tensor.grad.numpy() for tensor in tensors]


def test_ties_go_to_the_place_of_the_original(fixtures: Path) -> None:
    arrays = np.load(fixtures / "fastsurfer" / "pool_ties.npz")
    pooled, place = pool(channels_last(arrays["x"]))
    np.testing.assert_array_equal(pooled, channels_last(arrays["pooled"]))
    assert place.dtype == np.uint8
    np.testing.assert_array_equal(
        plane_indices(place, arrays["x"].shape[-1]), channels_last(arrays["indices"])
    )
    unpooled = ArgmaxUnpooling2D()([ops.convert_to_tensor(pooled), ops.convert_to_tensor(place)])
    np.testing.assert_array_equal(numbers(unpooled), channels_last(arrays["unpooled"]))


def test_compiled_graph_keeps_the_ties(fixtures: Path) -> None:
    arrays = np.load(fixtures / "fastsurfer" / "pool_ties.npz")
    plane = keras.Input((None, None, 3))
    pooled, place = ArgmaxPooling2D()(plane)
    model = keras.Model(plane, ArgmaxUnpooling2D()([pooled, place]))
    assert model.output_shape == (None, None, None, 3)
    found = Engine(model)(channels_last(arrays["x"]))
    np.testing.assert_array_equal(found, channels_last(arrays["unpooled"]))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_pooling_of_few_values_is_the_scan_of_each_window(levels: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-levels, levels, (2, 4, 6, 3)).astype("float32")
    pooled, place = pool(x)
    expected, first = scan(x)
    np.testing.assert_array_equal(pooled, expected)
    np.testing.assert_array_equal(place, first)


def test_odd_plane_is_refused() -> None:
    with pytest.raises(ValueError, match="even height and width"):
        ArgmaxPooling2D()(keras.Input((6, 7, 1)))


@pytest.mark.training
def test_gradient_of_pooling_goes_to_the_first_maximum(fixtures: Path) -> None:
    x = channels_last(np.load(fixtures / "fastsurfer" / "pool_ties.npz")["x"])
    (found,) = gradient(lambda tensor: ArgmaxPooling2D()(tensor)[0], x)
    pooled, place = pool(x)
    ones = ArgmaxUnpooling2D()([ops.ones(pooled.shape), ops.convert_to_tensor(place)])
    np.testing.assert_array_equal(found, numbers(ones))


@pytest.mark.training
def test_gradient_of_a_tie_goes_to_the_first_operand() -> None:
    first, second = np.array([1.0, 2.0, 3.0], "float32"), np.array([1.0, 3.0, 2.0], "float32")
    found = gradient(lambda a, b: Maxout()([a, b]), first, second)
    np.testing.assert_array_equal(found, [[1, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize("alpha", [-0.15, 0.0, 0.25, 1.19])
def test_prelu_takes_any_factor(alpha: float) -> None:
    x = np.array([-2.0, -0.0, 0.0, 3.0], "float32")
    layer = ScalarPReLU(initial=alpha)
    np.testing.assert_array_equal(numbers(layer(ops.convert_to_tensor(x))), np.where(x > 0, x, alpha * x))
    assert layer.alpha.shape == (1,)


@pytest.mark.training
def test_derivative_of_prelu_at_zero_is_its_factor() -> None:
    layer = ScalarPReLU(initial=0.25)
    layer.build((3,))
    (found,) = gradient(layer, np.array([-1.0, 0.0, 2.0], "float32"))
    np.testing.assert_array_equal(found, np.array([0.25, 0.25, 1.0], "float32"))


@pytest.mark.parametrize("layer", [ArgmaxPooling2D(), ArgmaxUnpooling2D(), Maxout(), ScalarPReLU(0.1)])
def test_layer_survives_its_own_config(layer: keras.layers.Layer) -> None:
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()
