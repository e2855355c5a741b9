"""Every model of the registry goes through these by itself; those with status ``planned`` are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasneuro
from kerasneuro import networks as loading
from kerasneuro import registry
from kerasneuro.errors import ModelNotReady
from kerasneuro.inference import Engine
from kerasneuro.weights import LazyArray, WeightStore, assign

NAMES = registry.names()
PLANNED = [name for name in NAMES if registry.get(name).status == "planned"]
AVAILABLE = [name for name in NAMES if name not in PLANNED]


def networks(name: str, **config) -> dict[str, keras.Model]:
    """Build a model; tasks with one network give the part ``""``."""
    built = kerasneuro.build(name, **config)
    return built if isinstance(built, dict) else {"": built}


def small_input(model: keras.Model, card: registry.ModelCard) -> np.ndarray:
    """Make a random batch of the smallest size that the card's contract allows, twice over."""
    size = 2 * int(card.input["multiple"])
    shape = tuple(size if axis is None else axis for axis in model.input_shape[1:])
    return np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")


def evaluate(model: keras.Model, batch: np.ndarray) -> np.ndarray:
    """Run a model once, in float32, on any backend."""
    return np.asarray(keras.ops.convert_to_numpy(model(batch, training=False)))


def evidence(fixtures: Path, name: str) -> dict[str, Any]:
    """Read what the original says of a model; every model that can be built needs this file.

    ``manifest``: part -> array of the published file -> shape. ``references``: outputs of the original.
    """
    return json.loads((fixtures / "zoo" / f"{name}.json").read_text(encoding="utf-8"))


def published_file(record: dict[str, Any], part: str) -> WeightStore:
    """Stand in for the published file: the names and shapes of its arrays, and small numbers in them."""

    def array(key: str, shape: list[int]) -> LazyArray:
        return LazyArray(key, tuple(shape), np.dtype("float32"), lambda _: np.full(shape, 0.01, "float32"))

    arrays = {key: array(key, shape) for key, shape in record["manifest"][part].items()}
    layers: dict[str, list[str]] = {}
    for key in arrays:
        layers.setdefault(key.rpartition("/")[0], []).append(key)
    pairs = tuple((layer, tuple(keys)) for layer, keys in layers.items())
    return WeightStore(Path("published"), record["format"], arrays, layers=pairs)


@pytest.mark.parametrize("name", PLANNED)
def test_planned_model_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(ModelNotReady, match=f"^{name} is registered") as caught:
        kerasneuro.build(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", AVAILABLE)
def test_full_size_graph_has_the_published_parameter_count(name: str) -> None:
    card = kerasneuro.info(name)
    assert sum(model.count_params() for model in networks(name).values()) == card.parameters


@pytest.mark.parametrize("name", AVAILABLE)
def test_full_size_graph_takes_every_array_of_the_published_file(name: str, fixtures: Path) -> None:
    card, record = kerasneuro.info(name), evidence(fixtures, name)
    weights = loading.family_module(card, "weights")
    for part, model in networks(name).items():
        store = published_file(record, part)
        found = weights.infer_config(store)
        registered = loading.part_config(card.config, part)
        assert {key: found[key] for key in found if key in registered} == {
            key: value for key, value in registered.items() if key in found
        }
        # Proves the bijection and every shape.
        assign(model, store, weights.table(store, model), ignore=getattr(weights, "IGNORED", ()))
        assert all(
            np.allclose(keras.ops.convert_to_numpy(variable), 0.01)
            for variable in loading.weights_of(model)
            if variable.trainable
        )


@pytest.mark.parametrize("name", AVAILABLE)
def test_output_of_the_original(name: str, fixtures: Path, request: pytest.FixtureRequest) -> None:
    for reference in evidence(fixtures, name)["references"]:
        if reference["weights"] is None:
            weights = request.getfixturevalue(f"{name}_weights")
        else:
            weights = {part: fixtures / path for part, path in reference["weights"].items()}
        model = kerasneuro.load(name, weights=weights).models[reference["part"]]
        arrays = np.load(fixtures / reference["arrays"])
        output = Engine(model)(arrays[reference["x"]])
        if reference.get("softmax"):
            output = keras.ops.convert_to_numpy(keras.ops.softmax(output, axis=-1))
        step = slice(None, None, reference.get("stride", 1))
        difference = np.abs(output[:, step, step, step] - arrays[reference["y"]]).max()
        assert difference <= reference["tolerance"]


@pytest.mark.parametrize("name", AVAILABLE)
def test_small_input_gives_finite_output_on_the_same_grid(name: str) -> None:
    card = kerasneuro.info(name)
    for model in networks(name).values():
        batch = small_input(model, card)
        output = evaluate(model, batch)
        assert np.isfinite(output).all()
        assert output.shape[:-1] == batch.shape[:-1]
        assert output.std() > 0


@pytest.mark.parametrize("name", AVAILABLE)
def test_keras_file_round_trip_in_safe_mode(name: str, tmp_path: Path) -> None:
    card = kerasneuro.info(name)
    part, model = next(iter(networks(name).items()))
    path = tmp_path / f"{part or 'model'}.keras"
    model.save(path)
    again = keras.saving.load_model(path, safe_mode=True, compile=False)
    batch = small_input(model, card)
    np.testing.assert_allclose(evaluate(again, batch), evaluate(model, batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", AVAILABLE)
def test_every_layer_survives_its_own_config(name: str) -> None:
    for model in networks(name).values():
        for layer in model.layers:
            again = type(layer).from_config(layer.get_config())
            assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("name", AVAILABLE)
def test_layer_names_hold_no_separator(name: str) -> None:
    for model in networks(name).values():
        assert not [layer.name for layer in model.layers if "." in layer.name or "/" in layer.name]


@pytest.mark.training
@pytest.mark.parametrize("name", AVAILABLE)
def test_one_training_step_changes_every_kernel(name: str) -> None:
    card = kerasneuro.info(name)
    model = next(iter(networks(name).values()))
    batch = small_input(model, card)
    target = np.random.default_rng(1).random(evaluate(model, batch).shape).astype("float32")
    before = [keras.ops.convert_to_numpy(kernel).copy() for kernel in kernels(model)]
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse", jit_compile=False)
    model.train_on_batch(batch, target)
    for kernel, old in zip(kernels(model), before, strict=True):
        assert np.abs(keras.ops.convert_to_numpy(kernel) - old).max() > 0, kernel.path


def kernels(model: keras.Model) -> list[keras.Variable]:
    """List the kernels of a model."""
    return [variable for variable in model.trainable_variables if variable.path.endswith("kernel")]


def test_every_name_is_tested_or_counted_as_planned() -> None:
    assert len(AVAILABLE) + len(PLANNED) == len(NAMES)
    assert AVAILABLE
