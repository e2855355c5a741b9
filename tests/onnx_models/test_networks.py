"""Whole networks give the probabilities of onnxruntime, save, load and train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasneuro

TOLERANCE = 5e-5
AGREEMENT = 0.999
NETWORKS = {
    "arunet_v4_dyn": ["x0", "x1"],
    "arunet_v4_static_uneven": ["x0"],
    "arunet_v4_dynamo_static_opset18": ["x0"],
    "arunet_v3_dyn_opset13": ["x0"],
    "unet3d_bn_resize_dyn": ["x0"],
    "unet3d_in_elu_dyn": ["x0"],
}
Run = Callable[[Any, list[np.ndarray]], list[np.ndarray]]


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


@pytest.fixture(scope="module")
def models(hsf: Path) -> dict[str, Any]:
    return {name: kerasneuro.convert(hsf / f"{name}.onnx") for name in NETWORKS}


@pytest.mark.parametrize(("name", "given"), [(name, x) for name, inputs in NETWORKS.items() for x in inputs])
def test_probabilities_and_labels(name: str, given: str, models: dict[str, Any], hsf: Path, run: Run) -> None:
    if given == "x1" and keras.backend.backend() == "jax":
        pytest.skip("JAX would compile the same graph a second time")
    with np.load(hsf / f"{name}.npz") as stored:
        x, expected = channels_last(stored[given]), channels_last(stored[given.replace("x", "y")])
    (found,) = run(models[name], [x])
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= AGREEMENT


def test_summary_reads_as_the_network_was_written(models: dict[str, Any]) -> None:
    layers = models["arunet_v4_dyn"].layers
    kinds = Counter(type(layer).__name__ for layer in layers)
    assert (kinds["Conv3D"], kinds["DoublingConv3DTranspose"], kinds["SwitchNormalization"]) == (34, 3, 30)
    assert not {"Permute", "OnnxTranspose", "OnnxReshape", "OnnxReduce"} & set(kinds)
    assert layers[1].name == "model_encoders_0_basic_module_conv1_conv_Conv"
    assert all(not set(layer.name) & set("./") for layer in layers)
    trained = models["unet3d_in_elu_dyn"].trainable_variables
    assert sum(int(np.prod(variable.shape)) for variable in trained) == 17778


def test_free_sizes_stay_free(models: dict[str, Any], run: Run) -> None:
    model = models["unet3d_bn_resize_dyn"]
    assert model.input_shape == (None, None, None, None, 1)
    x = np.random.default_rng(0).normal(size=(2, 8, 20, 12, 1)).astype(np.float32)
    both = np.asarray(model.predict(x, batch_size=2, verbose=0))
    assert both.shape == (2, 8, 20, 12, 6)
    np.testing.assert_allclose(run(model, [x[1:]])[0], both[1:], atol=1e-5)


def test_saved_model_is_read_in_safe_mode(models: dict[str, Any], run: Run, tmp_path: Path) -> None:
    model = models["unet3d_in_elu_dyn"]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    x = np.random.default_rng(1).normal(size=(1, 8, 4, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(run(model, [x])[0], run(again, [x])[0])


@pytest.mark.training
def test_one_step_of_training_lowers_the_loss(hsf: Path) -> None:
    model = kerasneuro.convert(hsf / "unet3d_in_elu_dyn.onnx")
    with np.load(hsf / "unet3d_in_elu_dyn.npz") as stored:
        x = channels_last(stored["x0"])
    target = np.zeros((*x.shape[:-1], 6), np.float32)
    target[..., 2] = 1
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss="categorical_crossentropy")
    before = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    first = model.train_on_batch(x, target)
    assert model.train_on_batch(x, target) < first
    after = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    changed = [not np.array_equal(one, other) for one, other in zip(before, after, strict=True)]
    # The biases of convolutions before a normalisation have no effect, and so no gradient but rounding.
    assert sum(changed) >= len(changed) - 10
