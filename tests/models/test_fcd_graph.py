"""The FCD network: every stage of the original on even, odd and batched inputs, and its configuration."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import kerasneuro
from kerasneuro.errors import InvalidOption
from kerasneuro.inference import Engine
from kerasneuro.models.fcd import graph, weights
from kerasneuro.weights import LazyArray, WeightStore, assign, read, unwrap

STAGES = ("stem", *(f"block{index}" for index in range(8)), "fusion", "conv_head")
OTHER_NAMES = {"pooled_embedding_576": "pool", "penultimate_256": "penultimate", "logits": "classifier_3"}
RELATIVE = 1e-5
SUBSAMPLED = {"stem": 8, "block0": 4, "block1": 2}


def formula(shape: tuple[int, ...], phase: float) -> np.ndarray:
    """Make the two channels of a reference input."""
    i, j, k = np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij")
    channels = [
        0.5
        + 0.35 * np.sin(0.11 * (c + 1) * i + 0.3 + phase) * np.cos(0.07 * j - 0.2 * c + phase)
        + 0.15 * np.sin(0.05 * k * (1 + 0.5 * c) + 0.02 * i + phase)
        for c in range(2)
    ]
    return np.stack(channels, axis=-1).astype("float32")


def formula_weights(shape: list[int], name: str, position: int) -> np.ndarray:
    """Make one array of the reference network without a file: mixed integers, scaled by the kind of array."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint64)
    x = (2654435761 * x + np.uint64(40503 * 65537 * position + 12345)) % 2**32
    for _ in range(2):
        x ^= x >> np.uint64(16)
        x = (x * np.uint64(0x45D9F3B)) % 2**32
    u = ((x ^ (x >> np.uint64(16))) / 2**32).reshape(shape)
    if name.endswith("running_mean"):
        return 0.2 * (u - 0.5)
    if name.endswith("running_var"):
        return 0.5 + u
    if name.endswith("bias"):
        return 0.4 * (u - 0.5)
    return 0.6 + 0.8 * u if len(shape) == 1 else (2 * u - 1) * np.sqrt(6 / np.prod(shape[1:]))


@pytest.fixture(scope="module")
def task(fixtures: Path):
    return kerasneuro.load("fcd-mobilenet", weights=fixtures / "fcd" / "ckpt_model_key.pth")


@pytest.fixture(scope="module")
def bare_task(fixtures: Path, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("fcd") / "bare.pth"
    with gzip.open(fixtures / "fcd" / "ckpt_bare.pth.gz") as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return kerasneuro.load("fcd-mobilenet", weights=path)


def stages_of(model: keras.Model, names: list[str]) -> keras.Model:
    """Cut a model that returns some layers of another one."""
    return keras.Model(model.input, [model.get_layer(OTHER_NAMES.get(name, name)).output for name in names])


def run(part: keras.Model, batch: np.ndarray) -> list[np.ndarray]:
    """Compute all outputs in one pass, channels first as in the reference."""
    backend = keras.backend.backend()
    if backend == "jax":  # else it compiles every layer alone
        found = part.predict_on_batch(batch)
    elif backend == "openvino":  # else it compiles the way to every output anew
        found = run_on_openvino(part, batch)
    else:
        found = [keras.ops.convert_to_numpy(each) for each in part(batch, training=False)]
    return [np.moveaxis(np.asarray(each), -1, 1) for each in found]


def run_on_openvino(part: keras.Model, batch: np.ndarray) -> list[np.ndarray]:
    import openvino
    from keras.src.backend.openvino.core import OpenVINOKerasTensor

    entry = openvino.opset16.parameter(shape=list(batch.shape), dtype=openvino.Type.f32)
    tensors = part(OpenVINOKerasTensor(entry.output(0)), training=False)
    exits = [openvino.opset16.result(tensor.output) for tensor in tensors]
    model = openvino.Model(results=exits, parameters=[entry])
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled([batch])
    return [found[index] for index in range(len(exits))]


def outputs(model: keras.Model, names: list[str], batch: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(names, run(stages_of(model, names), batch), strict=True))


def assert_equal(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    assert found.shape == expected.shape, name
    if name.endswith("logits"):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert np.abs(found - expected).max() <= RELATIVE * np.abs(expected).max(), name


def compare(model: keras.Model, batch: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
    """Compare every stage that the reference holds."""
    names = [name for name in arrays if name in STAGES or name in OTHER_NAMES]
    for name, found in outputs(model, names, batch).items():
        assert_equal(found, arrays[name], name)


def test_every_stage_and_every_step_of_three_blocks(task, fixtures: Path) -> None:
    arrays = dict(np.load(fixtures / "fcd" / "forward_model_key.npz"))
    batch = np.ascontiguousarray(np.moveaxis(arrays["input"], 1, -1))
    layers = {
        name: name.replace("block", "blocks_").replace(".conv", "_conv_") for name in arrays if "." in name
    }
    # The first step of a block with an expansion ends with its activation.
    layers = {name: f"{layer}_2" if name.endswith("conv0") else layer for name, layer in layers.items()}
    layers |= {name: name for name in arrays if name in STAGES or name in OTHER_NAMES}
    found = outputs(task.model, list(layers.values()), batch)
    assert len(found) == 33
    for name, layer in layers.items():
        assert_equal(found[layer], arrays[name], name)


def test_odd_sizes_with_other_weights(bare_task, fixtures: Path) -> None:
    arrays = dict(np.load(fixtures / "fcd" / "forward_bare.npz"))
    batch = formula((45, 37, 50), 0.4)[np.newaxis]
    compare(bare_task.model, batch, arrays)
    np.testing.assert_allclose(Engine(bare_task.model)(batch), arrays["logits"], rtol=1e-5, atol=1e-4)


def test_batch_of_three(task, fixtures: Path) -> None:
    arrays = dict(np.load(fixtures / "fcd" / "forward_batch3.npz"))
    compare(task.model, np.stack([formula((40, 36, 33), phase) for phase in (0.1, 0.2, 0.9)]), arrays)


def formula_store(fixtures: Path) -> WeightStore:
    """Open the weights of a formula as if they were a file."""
    rows = json.loads((fixtures / "fcd" / "fcd_manifest.json").read_text())["weights"]

    def lazy(position: int, key: str, shape: list[int]) -> LazyArray:
        values = formula_weights(shape, key, position).astype("float32")
        return LazyArray(key, values.shape, values.dtype, lambda selection: values[selection])

    arrays = {row["key"]: lazy(position, row["key"], row["shape"]) for position, row in enumerate(rows)}
    return WeightStore(Path("formula"), "torch-zip", arrays)


def test_full_size_with_two_sets_of_weights(fixtures: Path) -> None:
    batch = formula((128, 128, 128), 0.0)[np.newaxis]
    model = graph.build()
    part = stages_of(model, [*STAGES, *OTHER_NAMES])
    with read(fixtures / "fcd" / "ckpt_model_key.pth") as file:
        stores = {
            "forward_128_model_key.npz": unwrap(file, weights.ANCHOR),
            "forward_128_formula_weights.npz": formula_store(fixtures),
        }
        for name, store in stores.items():
            assign(model, store, weights.table(store, model), ignore=weights.IGNORED)
            found = dict(zip([*STAGES, *OTHER_NAMES], run(part, batch), strict=True))
            arrays = dict(np.load(fixtures / "fcd" / name))
            del arrays["probabilities"]
            for key, expected in arrays.items():
                stage = key.removesuffix("_sub")
                step = slice(None, None, SUBSAMPLED[stage]) if key != stage else slice(None)
                array = found[stage][(..., *(step,) * (found[stage].ndim - 2))]
                assert_equal(array, expected, f"{name}: {key}")


def count(model: keras.Model) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [({}, 800_692), ({"in_channels": 1}, 800_260), ({"in_channels": 3}, 801_124), ({"classes": 1}, 800_435)],
)
def test_trainable_parameters_are_those_of_the_original(config: dict[str, int], parameters: int) -> None:
    model = kerasneuro.build("fcd-mobilenet", **config)
    assert count(model) == parameters
    assert model.count_params() == parameters + 7232


def test_dropped_branches_grow_with_depth_and_need_a_residual() -> None:
    model = graph.build(width=0.125)
    rates = {layer.name: layer.rate for layer in model.layers if "drop" in layer.name}
    assert list(rates) == ["blocks_2_drop", "blocks_4_drop", "blocks_7_drop"]
    np.testing.assert_allclose(list(rates.values()), [0.4 / 7, 0.8 / 7, 0.2])
    branches = np.ones((100, 1, 1, 1, 12), "float32")
    dropped = np.asarray(
        keras.ops.convert_to_numpy(model.get_layer("blocks_7_drop")(branches, training=True))
    )
    assert 4 <= (dropped == 0).all(axis=(1, 2, 3, 4)).sum() <= 40
    still = graph.build(width=0.125, stochastic_depth=0.0)
    assert not [layer for layer in still.layers if "drop" in layer.name]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"in_channels": 0}, "in_channels"),
        ({"width": 0}, "width"),
        ({"dropout": 1.0}, "dropout"),
        ({"stochastic_depth": -0.1}, "stochastic_depth"),
        ({"input_shape": (32, 32)}, "input_shape"),
        ({"n_channels": 1}, "no configuration n_channels"),
    ],
)
def test_wrong_configuration_is_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        kerasneuro.build("fcd-mobilenet", **config)
