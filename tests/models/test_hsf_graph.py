"""The network of HSF against outputs of the original: every layer, every exporter, both generations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kerasneuro import registry
from kerasneuro.errors import InvalidOption
from kerasneuro.inference import Engine
from kerasneuro.models.hsf import graph, weights
from kerasneuro.networks import lay_out
from kerasneuro.weights import assign, read

CARD = registry.get("hsf-single-fast")
TOLERANCE = 5e-5
AGREEMENT = 0.999
NAMES = {"attention.psi": "attention_psi", "upsampling": "upsampling_upsample", "conv1": "conv1_SwitchNorm3d"}
NAMES |= {f"conv{index}": f"conv{index}_SwitchNorm3d" for index in (2, 3)}


def load(path: Path, **config: Any) -> keras.Model:
    """Build the network of a file, with changes, and give it the file's weights."""
    with read(path) as store:
        layout = lay_out(CARD, weights, "", store)
        model = graph.build(**{**layout.config, **config})
        assign(model, layout.store, layout.table(model))
    return model


def last(array: np.ndarray) -> np.ndarray:
    """Move the channels to the end."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def check(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare probabilities, and the labels they make."""
    assert np.abs(found - expected).max() <= TOLERANCE
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= AGREEMENT


def our_name(layer: str) -> str:
    """Return the layer of ours that gives the output of a module of the original."""
    for theirs, ours in NAMES.items():
        layer = layer.removesuffix(theirs) + ours if layer.endswith(theirs) else layer
    return layer.replace(".", "_")


@pytest.fixture(scope="module")
def reference(fixtures: Path) -> dict[str, np.ndarray]:
    return {key: last(array) for key, array in np.load(fixtures / "hsf" / "arunet_v4_dyn.npz").items()}


@pytest.fixture(scope="module")
def layers(fixtures: Path, reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute the outputs of all layers that the reference has, and that of the network, at once."""
    x = reference["x0"]
    model = load(fixtures / "hsf" / "arunet_v4_dyn.onnx", input_shape=x.shape[1:])
    wanted = [key.removeprefix("act0/") for key in reference if key.startswith("act0/")]
    outputs = [model.get_layer(our_name(name)).output for name in wanted] + [model.output]
    flat = [keras.layers.Flatten()(output) for output in outputs]
    values = Engine(keras.Model(model.input, keras.layers.Concatenate()(flat)))(x)[0]
    ends = np.cumsum([np.prod(output.shape[1:]) for output in outputs])
    parts = np.split(values, ends[:-1])
    names = [*(f"act0/{name}" for name in wanted), "y0"]
    return {
        name: part.reshape(1, *output.shape[1:])
        for name, part, output in zip(names, parts, outputs, strict=True)
    }


def test_every_layer_gives_the_output_of_the_original(
    layers: dict[str, np.ndarray], reference: dict[str, np.ndarray]
) -> None:
    assert len(layers) == 24
    worst = {
        name: float(np.abs(found - reference[name]).max() / max(1.0, np.abs(reference[name]).max()))
        for name, found in layers.items()
    }
    assert {name: error for name, error in worst.items() if error > TOLERANCE} == {}


def test_probabilities_of_the_original(
    layers: dict[str, np.ndarray], reference: dict[str, np.ndarray]
) -> None:
    check(layers["y0"], reference["y0"])
    np.testing.assert_allclose(layers["y0"].sum(-1), 1.0, atol=1e-5)


def test_two_samples_of_another_size(fixtures: Path, reference: dict[str, np.ndarray]) -> None:
    engine = Engine(load(fixtures / "hsf" / "arunet_v4_dyn.state_dict.pth"))
    check(engine(reference["x1"]), reference["y1"])


@pytest.mark.parametrize("name", ["arunet_v3_dyn_opset13", "arunet_v4_static_uneven"])
def test_networks_of_other_generations_and_widths(fixtures: Path, name: str) -> None:
    arrays = np.load(fixtures / "hsf" / f"{name}.npz")
    check(Engine(load(fixtures / "hsf" / f"{name}.onnx"))(last(arrays["x0"])), last(arrays["y0"]))


def test_checkpoint_in_bfloat16(fixtures: Path) -> None:
    arrays = np.load(fixtures / "hsf" / "arunet_v4_bf16.npz")
    model = load(fixtures / "hsf" / "arunet_v4_bf16.ckpt")
    check(Engine(model)(last(arrays["x0"])), last(arrays["y0_torch_float32_of_bf16_weights"]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"generation": 2},
        {"filters": (4, 0)},
        {"n_classes": 0},
        {"input_shape": (16, 16, 12, 1)},
        {"input_shape": (16, 16, 16, 2)},
        {"input_shape": (16, 16, 1)},
    ],
)
def test_impossible_networks_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        graph.build(**wrong)


@pytest.mark.training
def test_every_kind_of_weight_learns(single_step: dict[str, bool]) -> None:
    model = graph.build(filters=(4, 6), n_classes=2, input_shape=(4, 4, 4, 1))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:  # away from the symmetric start
        variable.assign(rng.normal(0.5, 0.3, variable.shape))
    before = {v.path: keras.ops.convert_to_numpy(v).copy() for v in model.trainable_variables}
    x = rng.normal(size=(2, 4, 4, 4, 1)).astype("float32")
    model.compile(optimizer=keras.optimizers.SGD(10.0), loss="mse", **single_step)
    model.train_on_batch(x, rng.random((2, 4, 4, 4, 2)).astype("float32"))
    after = {v.path: keras.ops.convert_to_numpy(v) for v in model.trainable_variables}
    assert all(np.isfinite(values).all() for values in after.values())
    still = {path for path, old in before.items() if np.array_equal(after[path], old)}
    # A gate ends with one channel, whose normalisation undoes the bias before it and has one kind of mean.
    assert not [path for path in still if "attention" not in path or path.endswith("kernel")]
