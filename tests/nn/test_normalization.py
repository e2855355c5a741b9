"""Instance normalisation against its definition in float64."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kerasneuro.nn.normalization import InstanceNormalization, spatial_mean


def normalise(x: np.ndarray, epsilon: float) -> np.ndarray:
    x = x.astype(np.float64)
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(x.var(axis=(1, 2, 3), keepdims=True) + epsilon)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_normalises_each_channel_of_each_sample(offset: float) -> None:
    rng = np.random.default_rng(0)
    scale = np.array([0.01, 1.0, 50.0], np.float32)
    x = (rng.normal(size=(2, 6, 5, 4, 3)) * scale + offset).astype(np.float32)
    result = keras.ops.convert_to_numpy(InstanceNormalization()(x))
    error = np.abs(result - normalise(x, 1e-5))
    # The smallest deviation is known to one part in 1e-6 * offset / 0.01 only.
    assert error.max() < (1e-3 if offset else 1e-5)
    assert error[..., 1:].max() < 1e-4


def test_constant_channel_gives_zero() -> None:
    result = keras.ops.convert_to_numpy(InstanceNormalization()(np.full((1, 4, 4, 4, 1), 7.0, np.float32)))
    assert np.abs(result).max() == 0


def test_mean_of_a_large_volume_stays_exact() -> None:
    x = np.random.default_rng(1).random((1, 128, 128, 128, 2), np.float32)
    mean = keras.ops.convert_to_numpy(spatial_mean(x))
    assert mean.shape == (1, 1, 1, 1, 2)
    assert np.abs(mean - x.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float64)).max() < 1e-6


def test_epsilon_and_configuration() -> None:
    layer = InstanceNormalization(epsilon=0.5, name="norm")
    x = np.random.default_rng(2).normal(size=(1, 3, 4, 5, 2)).astype(np.float32)
    again = InstanceNormalization.from_config(layer.get_config())
    assert again.name == "norm"
    result = keras.ops.convert_to_numpy(again(x))
    np.testing.assert_allclose(result, normalise(x, 0.5), atol=1e-5)
    assert layer.compute_output_shape((None, 3, None, 5, 2)) == (None, 3, None, 5, 2)
    assert layer.count_params() == 0


def test_statistics_of_another_tensor() -> None:
    rng = np.random.default_rng(3)
    source = (rng.normal(size=(2, 4, 6, 8, 3)) * 3 + 1).astype(np.float32)
    part = source[:, ::2, ::2, ::2]
    result = keras.ops.convert_to_numpy(InstanceNormalization()(part, statistics_of=source))
    np.testing.assert_allclose(result, normalise(source, 1e-5)[:, ::2, ::2, ::2], atol=1e-5)
