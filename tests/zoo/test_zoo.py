"""Every model of the registry goes through these by itself; those with status ``planned`` are counted."""

from __future__ import annotations

import functools
import json
import math
import random
from collections.abc import Callable
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
from kerasneuro.weights import LazyArray, WeightStore, assign, match

Whole = Callable[[keras.Model], Callable[[Any], list[np.ndarray]]]

WIDE = 10**5  # parameters of a network that takes long
HUGE = 3 * 10**7  # parameters that no test gives values to
NAMES = registry.names()
PLANNED = [name for name in NAMES if registry.get(name).status == "planned"]
AVAILABLE = [name for name in NAMES if name not in PLANNED]


def graph_of(name: str, part: str) -> str:
    """Name the graph of a network; models that differ in their weights alone share one."""
    card = registry.get(name)
    return f"{card.family} {json.dumps(loading.part_config(card.config, part), sort_keys=True)}"


def distinct_networks() -> dict[str, tuple[str, str]]:
    """Choose a model and a part for every graph."""
    graphs: dict[str, tuple[str, str]] = {}
    for name in AVAILABLE:
        for part in registry.get(name).parts or ("",):
            graphs.setdefault(graph_of(name, part), (name, part))
    return graphs


GRAPHS = distinct_networks()
each_graph = pytest.mark.parametrize(
    ("name", "part"), GRAPHS.values(), ids=[" ".join(filter(None, chosen)) for chosen in GRAPHS.values()]
)


def networks(name: str, **config: Any) -> dict[str, keras.Model]:
    """Build a model; tasks with one network give the part ``""``."""
    built = kerasneuro.build(name, **config)
    return built if isinstance(built, dict) else {"": built}


def sketches(name: str) -> dict[str, keras.Model]:
    """Build the graphs of a model in full size without values, so that they take no memory."""
    return {part: sketch(*GRAPHS[graph_of(name, part)]) for part in kerasneuro.info(name).parts or ("",)}


@functools.cache
def sketch(name: str, part: str) -> keras.Model:
    """Build one graph in full size without values."""
    card = kerasneuro.info(name)
    return loading.sketch_graph(card, loading.family_module(card, "graph"), {}, part)


def small_network(name: str, part: str, fixtures: Path) -> keras.Model:
    """Build a network that a test can compute: as registered, or smaller where its evidence says how."""
    card = registry.get(name)
    config = evidence(fixtures, name).get("small", {})
    return loading.build_graph(card, loading.family_module(card, "graph"), config, part)


def small_input(model: keras.Model, card: registry.ModelCard) -> Any:
    """Make a random batch of the smallest size that the card's contract allows, twice over; one per input.

    Two images are registered at once: those for a wide network are of the smallest size itself.
    """
    wide = card.task == "registration" and model.count_params() > WIDE
    size = (1 if wide else 2) * int(card.input["multiple"])
    rng = np.random.default_rng(0)
    shapes = [[size if axis is None else axis for axis in tensor.shape[1:]] for tensor in model.inputs]
    batches = [rng.normal(size=(1, *shape)).astype("float32") for shape in shapes]
    return batches if len(batches) > 1 else batches[0]


def symbol(batch: np.ndarray) -> keras.KerasTensor:
    """Stand in for an array of this shape."""
    return keras.KerasTensor(batch.shape, "float32")


def image(array: np.ndarray) -> np.ndarray:
    """Make a batch of an image that is stored in 8 bits, with or without its axis of channels."""
    return (array if array.ndim == 4 else array[..., None])[None].astype(np.float32) / 255


def evidence(fixtures: Path, name: str) -> dict[str, Any]:
    """Read what the original says of a model; every model that can be built needs this file.

    ``manifest``: part -> array of the published file -> shape; the one part of a bag stands for all.
    ``references``: outputs of the original. ``like``: the model whose files have the same layout, and whose
    references are not computed again.
    """
    record = json.loads((fixtures / "zoo" / f"{name}.json").read_text(encoding="utf-8"))
    return {**evidence(fixtures, record["like"]), "references": []} if "like" in record else record


def published_file(record: dict[str, Any], part: str) -> WeightStore:
    """Stand in for the published file: the names and shapes of its arrays, and small numbers in them."""

    def array(key: str, shape: list[int]) -> LazyArray:
        return LazyArray(key, tuple(shape), np.dtype("float32"), lambda _: np.full(shape, 0.01, "float32"))

    manifest = record["manifest"]
    shapes = manifest[part] if part in manifest else manifest["bag0"]
    arrays = {key: array(key, shape) for key, shape in shapes.items()}
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
    models = sketches(name).values()
    everything = sum(model.count_params() for model in models)
    trainable = sum(math.prod(variable.shape) for model in models for variable in model.trainable_variables)
    # Some authors count the statistics of normalisations, others do not.
    assert card.parameters in (everything, trainable)


@pytest.mark.parametrize("name", AVAILABLE)
def test_full_size_graph_takes_every_array_of_the_published_file(name: str, fixtures: Path) -> None:
    card, record = kerasneuro.info(name), evidence(fixtures, name)
    weights = loading.family_module(card, "weights")
    huge = (card.parameters or 0) > HUGE
    for part, model in (sketches(name) if huge else networks(name)).items():
        store = published_file(record, part)
        found = weights.infer_config(store)
        registered = loading.part_config(card.config, part)
        assert {key: found[key] for key in found if key in registered} == {
            key: value for key, value in registered.items() if key in found
        }
        # Proves the bijection and every shape.
        table, ignored = weights.table(store, model), getattr(weights, "IGNORED", ())
        if huge:
            assert len(match(model, store, table, ignore=ignored)) == len(model.variables)
            continue
        assign(model, store, table, ignore=ignored)
        assert all(
            np.allclose(keras.ops.convert_to_numpy(variable), 0.01)
            for variable in loading.weights_of(model)
            if variable.trainable
        )


@pytest.mark.parametrize("name", AVAILABLE)
def test_output_of_the_original(
    name: str, fixtures: Path, request: pytest.FixtureRequest, whole: Whole
) -> None:
    for reference in evidence(fixtures, name)["references"]:
        if reference["weights"] is None:
            weights = request.getfixturevalue(f"{name}_weights")
        else:
            weights = {part: fixtures / path for part, path in reference["weights"].items()}
        model = kerasneuro.load(name, weights=weights).models[reference["part"]]
        arrays = np.load(fixtures / reference["arrays"])
        if isinstance(reference["x"], list):
            output = whole(model)([image(arrays[key]) for key in reference["x"]])[0]
        else:
            output = Engine(model)(arrays[reference["x"]])
        if reference.get("softmax"):
            output = keras.ops.convert_to_numpy(keras.ops.softmax(output, axis=-1))
        step = slice(None, None, reference.get("stride", 1))
        spatial = (step,) * min(3, output.ndim - 2)
        difference = np.abs(output[(slice(None), *spatial)] - arrays[reference["y"]]).max()
        assert difference <= reference["tolerance"]


@each_graph
def test_small_input_gives_finite_output_and_the_same_once_saved(
    name: str, part: str, fixtures: Path, tmp_path: Path, whole: Whole
) -> None:
    card, model = kerasneuro.info(name), small_network(name, part, fixtures)
    batch = small_input(model, card)
    output = whole(model)(batch)[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True, compile=False)
    np.testing.assert_allclose(whole(again)(batch)[0], output, rtol=1e-5, atol=1e-6)
    batch = batch[0] if isinstance(batch, list) else batch
    assert np.isfinite(output).all()
    if card.task == "classification":
        assert output.shape == (1, card.output["classes"])
    elif output.ndim == 3:
        assert output.shape == (1, 3, 4)  # an affine matrix
    else:
        assert output.shape[:-1] == batch.shape[:-1]
    assert output.std() > 0


@each_graph
def test_every_layer_survives_its_own_config(name: str, part: str, fixtures: Path) -> None:
    for layer in small_network(name, part, fixtures).layers:
        again = type(layer).from_config(layer.get_config())
        assert again.get_config() == layer.get_config()


@each_graph
def test_layer_names_hold_no_separator(name: str, part: str) -> None:
    model = sketches(name)[part]
    assert not [layer.name for layer in model.layers if "." in layer.name or "/" in layer.name]


@pytest.mark.training
@each_graph
def test_one_training_step_changes_every_kernel(
    name: str, part: str, fixtures: Path, single_step: dict[str, bool]
) -> None:
    card = kerasneuro.info(name)
    random.seed(0)  # so that no branch is dropped for all samples
    model = small_network(name, part, fixtures)
    batch = small_input(model, card)
    if card.task == "classification":
        # The last grid has one voxel: its batch statistics need several samples.
        batch = np.random.default_rng(2).normal(size=(4, *batch.shape[1:])).astype("float32")
    rng = np.random.default_rng(1)
    outputs = keras.tree.flatten(model(keras.tree.map_structure(symbol, batch)))
    target = [rng.random(output.shape).astype("float32") for output in outputs]
    before = [keras.ops.convert_to_numpy(kernel).copy() for kernel in kernels(model)]
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse", **single_step)
    model.train_on_batch(batch, target if len(target) > 1 else target[0])
    for kernel, old in zip(kernels(model), before, strict=True):
        assert np.abs(keras.ops.convert_to_numpy(kernel) - old).max() > 0, kernel.path


def kernels(model: keras.Model) -> list[keras.Variable]:
    """List the kernels of a model."""
    return [variable for variable in model.trainable_variables if variable.path.endswith("kernel")]


def test_every_name_is_tested_or_counted_as_planned() -> None:
    assert len(AVAILABLE) + len(PLANNED) == len(NAMES)
    assert AVAILABLE
