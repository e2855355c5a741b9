"""Depthwise convolution, squeeze-and-excite, stochastic depth: values, gradients, configs."""

from __future__ import annotations

from itertools import product

import keras
import numpy as np
import pytest
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.inference import Engine
from kerasneuro.nn.depthwise import DepthwiseConv3D
from kerasneuro.nn.halving import HalvingConv3D
from kerasneuro.nn.squeeze_excite import SqueezeExcite
from kerasneuro.nn.stochastic_depth import StochasticDepth

# kernel, stride, spatial shape: even, odd and shorter than the kernel
CASES = {
    "3 at 1": (3, 1, (4, 5, 6)),
    "3 at 2": (3, 2, (6, 5, 8)),
    "5 at 1": (5, 1, (6, 3, 2)),
    "5 at 2": (5, 2, (8, 7, 1)),
    "first axis": ((3, 1, 1), 1, (4, 3, 2)),
    "last axis": ((1, 1, 3), 1, (2, 3, 4)),
}
BATCH, CHANNELS = 2, 3


def numbers(tensor: object) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))


def layer_and_input(case: str, *, use_bias: bool = False) -> tuple[DepthwiseConv3D, np.ndarray]:
    kernel, strides, shape = CASES[case]
    rng = np.random.default_rng(len(case))
    x = rng.normal(size=(BATCH, *shape, CHANNELS)).astype("float32")
    layer = DepthwiseConv3D(kernel, strides, use_bias)
    layer.build(x.shape)
    return layer, x


def windows(x: np.ndarray, sizes: tuple[int, ...], strides: int):
    """Give every tap of the kernel, and the part of the padded input that it multiplies."""
    padded = np.pad(x.astype(np.float64), ((0, 0), *((size // 2, size // 2) for size in sizes), (0, 0)))
    lengths = [-(-n // strides) for n in x.shape[1:4]]
    for tap in product(*map(range, sizes)):
        where = tuple(slice(t, t + (n - 1) * strides + 1, strides) for t, n in zip(tap, lengths, strict=True))
        yield tap, (slice(None), *where), padded


def direct(x: np.ndarray, kernel: np.ndarray, strides: int) -> np.ndarray:
    """Convolve tap by tap in float64."""
    return sum(padded[where] * kernel[tap][0] for tap, where, padded in windows(x, kernel.shape[:3], strides))


@pytest.mark.parametrize("case", CASES)
def test_convolution_is_that_of_its_definition(case: str) -> None:
    layer, x = layer_and_input(case, use_bias=True)
    layer.bias.assign(np.arange(CHANNELS, dtype="float32"))
    found = numbers(layer(x))
    expected = direct(x, numbers(layer.kernel), layer.strides) + np.arange(CHANNELS)
    assert found.shape == layer.compute_output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def gradients(layer: keras.Layer, x: np.ndarray, slope: np.ndarray) -> list[np.ndarray]:
    """Return the gradients of ``sum(layer(x) * slope)`` by the input and by the layer's variables."""
    backend = keras.backend.backend()
    variables = layer.trainable_variables
    if backend == "tensorflow":
        import tensorflow as tf

        tensor = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            total = ops.sum(layer(tensor) * slope)
        found = tape.gradient(total, [tensor, *(variable.value for variable in variables)])
        return [numbers(each) for each in found]
    if backend == "jax":
        import jax

        def total(tensor, values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return ops.sum(layer(tensor) * slope)

        values = [variable.value for variable in variables]
        by_input, by_values = jax.jit(jax.grad(total, argnums=(0, 1)))(x, values)
        return [numbers(each) for each in (by_input, *by_values)]
    import torch

    tensor = torch.tensor(x, requires_grad=True)
    ops.sum(layer(tensor) * torch.tensor(slope)).backward()
    return [tensor.grad.numpy(), *(variable.value.grad.numpy() for variable in variables)]


@pytest.mark.training
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_definition(case: str) -> None:
    layer, x = layer_and_input(case)
    kernel = numbers(layer.kernel)
    slope = np.random.default_rng(1).normal(size=layer.compute_output_shape(x.shape)).astype("float32")
    by_input, by_kernel = gradients(layer, x, slope)
    expected, spread = np.zeros(kernel.shape), None
    for tap, where, padded in windows(x, kernel.shape[:3], layer.strides):
        expected[tap][0] = (padded[where] * slope).sum(axis=(0, 1, 2, 3))
        spread = np.zeros(padded.shape) if spread is None else spread
        spread[where] += slope * kernel[tap][0]
    inside = tuple(
        slice(size // 2, size // 2 + n) for size, n in zip(kernel.shape, x.shape[1:4], strict=False)
    )
    np.testing.assert_allclose(by_kernel, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(by_input, spread[:, *inside], rtol=1e-4, atol=1e-4)


def test_any_size_in_a_compiled_graph() -> None:
    inputs = keras.Input((None, None, None, CHANNELS))
    strided = DepthwiseConv3D(3, 2)
    model = keras.Model(inputs, strided(HalvingConv3D(CHANNELS, 3)(inputs)))
    assert model.output_shape == (None, None, None, None, CHANNELS)
    engine = Engine(model)
    for shape in ((9, 8, 7), (5, 10, 3)):
        x = np.random.default_rng(3).normal(size=(1, *shape, CHANNELS)).astype("float32")
        assert engine(x).shape[1:4] == tuple(-(-n // 4) for n in shape)
        np.testing.assert_allclose(engine(x), numbers(model(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 8, 4), (7, 5, 3)])
def test_strided_convolution_pads_both_sides_equally(shape: tuple[int, ...]) -> None:
    layer = HalvingConv3D(4, 3)
    x = np.random.default_rng(0).normal(size=(1, *shape, 2)).astype("float32")
    found = numbers(layer(x))
    kernel = numbers(layer.kernel)
    expected = sum(padded[where] @ kernel[tap] for tap, where, padded in windows(x, (3, 3, 3), 2))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("arguments", "message"), [((4,), "odd"), (((3, 3),), "odd"), ((3, 3), "strides")])
def test_wrong_convolution_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        DepthwiseConv3D(*arguments)


def test_squeeze_excite_is_that_of_its_definition() -> None:
    layer = SqueezeExcite(2)
    x = np.random.default_rng(5).normal(size=(2, 3, 4, 5, 6)).astype("float32")
    found = numbers(layer(x))
    squeeze, bias, excite, offset = (numbers(variable).astype(np.float64) for variable in layer.variables)
    inner = np.maximum(x.mean(axis=(1, 2, 3), dtype=np.float64) @ squeeze + bias, 0)
    factors = np.clip((inner @ excite + offset) / 6 + 0.5, 0, 1)
    np.testing.assert_allclose(found, x * factors[:, None, None, None], rtol=1e-5, atol=1e-6)
    assert squeeze.shape == (6, 3)
    with pytest.raises(InvalidOption, match="reduction"):
        SqueezeExcite(0)


@pytest.mark.training
def test_squeeze_excite_has_gradients() -> None:
    layer = SqueezeExcite()
    x = np.random.default_rng(6).normal(size=(2, 2, 2, 2, 8)).astype("float32")
    layer.build(x.shape)
    found = gradients(layer, x, np.ones(x.shape, "float32"))
    assert all(np.isfinite(each).all() for each in found)
    assert np.abs(found[-1]).max() > 0


def test_stochastic_depth_is_the_identity_in_inference() -> None:
    x = np.random.default_rng(7).normal(size=(4, 2, 2, 2, 3)).astype("float32")
    np.testing.assert_array_equal(numbers(StochasticDepth(0.5)(x, training=False)), x)


@pytest.mark.training
def test_stochastic_depth_drops_whole_samples_in_training() -> None:
    x = np.ones((400, 2, 1, 1, 3), "float32")
    found = numbers(StochasticDepth(0.25, seed=1)(x, training=True)).reshape(400, 6)
    assert (found == found[:, :1]).all()
    np.testing.assert_allclose(np.unique(found), [0, 1 / 0.75], rtol=1e-6)
    assert 0.17 < (found[:, 0] == 0).mean() < 0.33


@pytest.mark.parametrize(
    "layer",
    [DepthwiseConv3D((3, 1, 1), 1, True), SqueezeExcite(3), StochasticDepth(0.1, seed=2)],
    ids=lambda layer: type(layer).__name__,
)
def test_layer_survives_its_config(layer: keras.Layer) -> None:
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
