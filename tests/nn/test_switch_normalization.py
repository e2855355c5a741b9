"""Switchable normalisation against the layer of the original, with and without the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from keras import ops

from kerasneuro.nn.switch_normalization import SwitchNormalization

BATCH = 2  # the case that mixes in the statistics of the batch


def original_layer(arrays: dict[str, np.ndarray], case: int) -> SwitchNormalization:
    """Make a layer with the weights of one case."""
    layer = SwitchNormalization(batch_statistics=case == BATCH)
    layer.build((None, None, None, None, arrays[f"{case}/x"].shape[1]))
    names = ["weight", "bias", "mean_weight", "var_weight", "running_mean", "running_var"]
    for variable, name in zip(layer.variables, names, strict=False):
        variable.assign(arrays[f"{case}/{name}"].reshape(-1))
    return layer


@pytest.fixture(scope="module")
def arrays(fixtures: Path) -> dict[str, np.ndarray]:
    return dict(np.load(fixtures / "hsf" / "switchnorm.npz"))


@pytest.mark.parametrize("case", [0, 1, BATCH])
def test_layer_of_the_original(arrays: dict[str, np.ndarray], case: int) -> None:
    layer = original_layer(arrays, case)
    assert len(layer.variables) == (6 if case == BATCH else 4)
    found = ops.convert_to_numpy(layer(np.moveaxis(arrays[f"{case}/x"], 1, -1)))
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), arrays[f"{case}/y"], atol=2e-6, rtol=0)


def test_definition() -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, (1, 3, 4, 2, 5)).astype("float32")
    layer = SwitchNormalization()
    layer.build(x.shape)
    layer.mean_weight.assign(np.log([0.9, 0.1]))
    layer.var_weight.assign(np.log([0.2, 0.8]))
    voxels = x.reshape(-1, 5).astype("float64")
    m, v = voxels.mean(0), voxels.var(0, ddof=1)
    of_all = m.mean()
    spread = (v + m**2).mean() - of_all**2
    expected = (x - 0.9 * m - 0.1 * of_all) / np.sqrt(0.2 * v + 0.8 * spread + 1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), expected, atol=1e-5)


def test_far_from_zero_the_variance_stays_exact() -> None:
    x = np.random.default_rng(0).normal(0.0, 1.0, (1, 8, 8, 8, 2)).astype("float32")
    layer = SwitchNormalization()
    layer.build(x.shape)
    for variable in (layer.mean_weight, layer.var_weight):
        variable.assign([30.0, -30.0])  # each channel by itself
    near, far = (ops.convert_to_numpy(layer(x + offset)) for offset in (np.float32(0), np.float32(1000)))
    np.testing.assert_allclose(far, near, atol=5e-4)


def test_single_voxel_has_no_variance() -> None:
    assert np.isnan(ops.convert_to_numpy(SwitchNormalization()(np.ones((1, 1, 1, 1, 2), "float32")))).all()


@pytest.mark.training
def test_batch_statistics_are_used_and_remembered_in_training(arrays: dict[str, np.ndarray]) -> None:
    layer = original_layer(arrays, BATCH)
    x = np.moveaxis(arrays["2/x"], 1, -1)
    before = ops.convert_to_numpy(layer.moving_mean).copy()
    trained = ops.convert_to_numpy(layer(x, training=True))
    mean = x.mean(axis=(0, 1, 2, 3))
    after = ops.convert_to_numpy(layer.moving_mean)
    np.testing.assert_allclose(after, 0.9 * before + 0.1 * mean, atol=1e-6)
    variance = (x.var(axis=(1, 2, 3), ddof=1) + x.mean(axis=(1, 2, 3)) ** 2).mean(0) - mean**2
    start = arrays["2/running_var"].reshape(-1)
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer.moving_variance), 0.9 * start + 0.1 * variance, atol=1e-5
    )
    assert np.abs(np.moveaxis(trained, -1, 1) - arrays["2/y"]).max() > 1e-3


@pytest.mark.training
def test_without_the_batch_training_is_inference(arrays: dict[str, np.ndarray]) -> None:
    layer = original_layer(arrays, 0)
    x = np.moveaxis(arrays["0/x"], 1, -1)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(layer(x, training=True)), ops.convert_to_numpy(layer(x, training=False))
    )


def test_layer_survives_its_config() -> None:
    layer = SwitchNormalization(epsilon=1e-3, batch_statistics=True, momentum=0.8, name="norm")
    again = SwitchNormalization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.epsilon, again.batch_statistics, again.momentum) == (1e-3, True, 0.8)
