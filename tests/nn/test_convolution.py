"""Convolutions with the rules of PyTorch, against their definitions and against Keras's own layers."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from kerasneuro.nn.convolution import DoublingConv3DTranspose, padded_convolution
from kerasneuro.nn.halving import HalvingConv3D, HalvingMaxPooling3D
from kerasneuro.nn.initializers import HostGlorotUniform

RNG = np.random.default_rng(3)


def convolve(x: np.ndarray, kernel: np.ndarray, strides: int) -> np.ndarray:
    """Convolve (X, Y, Z, C) in float64, half a kernel of zeros on every side."""
    margin = kernel.shape[0] // 2
    padded = np.pad(x.astype(np.float64), [(margin, margin)] * 3 + [(0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:3], axis=(0, 1, 2))
    return np.einsum(
        "xyzcijk,ijkco->xyzo", windows[::strides, ::strides, ::strides], kernel.astype(np.float64)
    )


def transpose_convolve(x: np.ndarray, kernel: np.ndarray, padding: int) -> np.ndarray:
    """Add each voxel's kernel (k, k, k, out, in) at twice its index less the padding, in float64."""
    k = kernel.shape[0]
    full = np.zeros((*(2 * n + k for n in x.shape[:3]), kernel.shape[3]))
    for index in np.ndindex(*x.shape[:3]):
        where = tuple(slice(2 * i, 2 * i + k) for i in index)
        full[where] += kernel.astype(np.float64) @ x[index].astype(np.float64)
    return full[tuple(slice(padding, padding + 2 * n) for n in x.shape[:3])]


@pytest.mark.parametrize(("kernel_size", "strides"), [(3, 1), (3, 2), (1, 2), (7, 2)])
def test_padded_convolution(kernel_size: int, strides: int) -> None:
    x = RNG.normal(size=(1, 8, 6, 4, 2)).astype(np.float32)
    inputs = keras.Input((None, None, None, 2))
    model = keras.Model(inputs, padded_convolution(inputs, 3, kernel_size, strides=strides, name="conv"))
    kernel = keras.ops.convert_to_numpy(model.get_layer("conv").kernel)
    result = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(result[0], convolve(x[0], kernel, strides), atol=1e-5)


@pytest.mark.parametrize(("kernel_size", "channels"), [(7, 1), (3, 2)])
def test_halving_convolution(kernel_size: int, channels: int) -> None:
    x = RNG.normal(size=(2, 8, 6, 10, channels)).astype(np.float32)
    layer = HalvingConv3D(3, kernel_size)
    result = keras.ops.convert_to_numpy(layer(x))
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    assert kernel.shape == (kernel_size,) * 3 + (channels, 3)
    for sample, expected in zip(result, x, strict=True):
        np.testing.assert_allclose(sample, convolve(expected, kernel, 2), atol=1e-5)
    assert layer.compute_output_shape((None, None, 6, 10, channels)) == (None, None, 3, 5, 3)


def test_halving_pooling() -> None:
    x = -np.abs(RNG.normal(size=(2, 8, 6, 4, 3))).astype(np.float32)
    layer = HalvingMaxPooling3D()
    padded = np.pad(x, [(0, 0), *[(1, 1)] * 3, (0, 0)], constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3), axis=(1, 2, 3))
    expected = windows[:, ::2, ::2, ::2].max(axis=(-3, -2, -1))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(x)), expected)
    assert layer.compute_output_shape((None, 8, None, 4, 3)) == (None, 4, None, 2, 3)


@pytest.mark.parametrize(("kernel_size", "padding"), [(3, 1), (2, 0)])
@pytest.mark.parametrize("use_bias", [False, True])
def test_doubling_convolution(kernel_size: int, padding: int, use_bias: bool) -> None:
    x = RNG.normal(size=(2, 4, 3, 5, 3)).astype(np.float32)
    layer = DoublingConv3DTranspose(2, kernel_size, use_bias=use_bias)
    layer.build(x.shape)
    if use_bias:
        layer.bias.assign([0.5, -2.0])
    result = keras.ops.convert_to_numpy(layer(x))
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    bias = np.array([0.5, -2.0]) * use_bias
    for sample, source in zip(result, x, strict=True):
        np.testing.assert_allclose(sample, transpose_convolve(source, kernel, padding) + bias, atol=1e-5)
    assert layer.compute_output_shape((None, None, 3, 5, 3)) == (None, None, 6, 10, 2)


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_doubling_takes_the_weights_of_the_keras_layer(kernel_size: int) -> None:
    x = RNG.normal(size=(1, 4, 4, 6, 3)).astype(np.float32)
    ours = DoublingConv3DTranspose(2, kernel_size)
    plain = keras.layers.Conv3DTranspose(2, kernel_size, strides=2, padding="valid")
    ours.build(x.shape)
    plain.build(x.shape)
    plain.set_weights(ours.get_weights())
    first = kernel_size - 2  # the direct form begins one voxel earlier
    expected = keras.ops.convert_to_numpy(plain(x))[:, first:, first:, first:]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(ours(x)), expected, atol=1e-5)


def test_wrong_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="2 or 3"):
        DoublingConv3DTranspose(4, 5)
    with pytest.raises(ValueError, match="odd"):
        HalvingConv3D(4, 2)


def test_saved_model_round_trip(tmp_path: Path) -> None:
    inputs = keras.Input((None, None, None, 1))
    x = HalvingMaxPooling3D(name="pool")(HalvingConv3D(4, 3, name="halve")(inputs))
    model = keras.Model(inputs, DoublingConv3DTranspose(2, 3, name="double")(x))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    data = RNG.normal(size=(1, 4, 8, 12, 1)).astype(np.float32)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(again(data)), keras.ops.convert_to_numpy(model(data))
    )


def test_host_initialiser_draws_what_glorot_asks_for() -> None:
    values = keras.ops.convert_to_numpy(HostGlorotUniform(seed=5)((3, 3, 3, 16, 32)))
    limit = np.sqrt(6 / (27 * 48))
    assert values.dtype == np.float32
    assert 0.99 * limit < np.abs(values).max() <= limit
    assert abs(values.mean()) < 0.01 * limit
    assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    again = HostGlorotUniform.from_config(HostGlorotUniform(seed=5).get_config())
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(again((3, 3, 3, 16, 32))), values)


def test_seed_of_keras_determines_the_host_initialiser() -> None:
    keras.utils.set_random_seed(1)
    first, second = (keras.ops.convert_to_numpy(HostGlorotUniform()((2, 4, 4))) for _ in range(2))
    keras.utils.set_random_seed(1)
    again = keras.ops.convert_to_numpy(HostGlorotUniform()((2, 4, 4)))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, again)


@pytest.mark.training
def test_gradients_reach_every_kernel() -> None:
    inputs = keras.Input((8, 8, 8, 1))
    x = HalvingConv3D(2, 7)(inputs)
    x = DoublingConv3DTranspose(2, 3)(x)
    x = DoublingConv3DTranspose(2, 2)(x)
    model = keras.Model(inputs, x)
    before = model.get_weights()
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    data = RNG.normal(size=(1, 8, 8, 8, 1)).astype(np.float32)
    model.train_on_batch(data, np.ones((1, 16, 16, 16, 2), np.float32))
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.abs(old - new).max() > 0
