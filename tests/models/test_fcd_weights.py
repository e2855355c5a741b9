"""FCD checkpoints: both forms, prefixes, strictness, configuration read off the shapes, and the way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

import kerasneuro
from kerasneuro import networks, registry
from kerasneuro.errors import WeightsMismatch, WeightsNotFound
from kerasneuro.models.fcd import graph, weights
from kerasneuro.weights import LazyArray, WeightStore, assign, read, unwrap, write_original


@pytest.fixture(scope="module")
def manifest(fixtures: Path) -> list[dict]:
    return json.loads((fixtures / "fcd" / "fcd_manifest.json").read_text())["weights"]


def store_of(arrays: dict[str, np.ndarray]) -> WeightStore:
    """Make an open file of arrays."""

    def lazy(key: str, array: np.ndarray) -> LazyArray:
        return LazyArray(key, array.shape, array.dtype, lambda selection: array[selection])

    lazies = {key: lazy(key, each) for key, each in arrays.items()}
    return WeightStore(Path("checkpoint"), "torch-zip", lazies)


def small_arrays(manifest: list[dict], channels: Callable[[int], int], **heads: int) -> dict[str, np.ndarray]:
    """Make the arrays of a narrower network."""
    fixed = {"stem.0.weight": heads.get("in_channels", 2), "classifier.3.weight": heads.get("classes", 2)}
    arrays = {}
    for row in manifest:
        key, shape = row["key"], list(row["shape"])
        if shape:
            shape[0] = fixed["classifier.3.weight"] if key.startswith("classifier.3") else channels(shape[0])
        if len(shape) > 1 and shape[1] > 1:
            shape[1] = fixed["stem.0.weight"] if key == "stem.0.weight" else channels(shape[1])
        arrays[key] = np.full(shape, 0.5, row["dtype"])
    return arrays


def test_checkpoint_with_model_key_is_read_without_pytorch(fixtures: Path) -> None:
    path = fixtures / "fcd" / "ckpt_model_key.pth"
    with read(path) as store:
        inner = unwrap(store, weights.ANCHOR, weights.ROOT)
        assert len(inner) == 186
        assert weights.infer_config(inner) == {"in_channels": 2, "classes": 2, "width": 1.0}
    task = kerasneuro.load("fcd-mobilenet", weights=path)
    assert task.provenance[""]["registered"].startswith("user file, sha256")


def test_prefixes_of_training_programs_are_taken_off(fixtures: Path) -> None:
    with read(fixtures / "fcd" / "ckpt_model_key.pth") as store:
        bare = {key: array.read() for key, array in unwrap(store, weights.ANCHOR).items()}
    for prefix in ("module.", "model.", "model.module.", "state_dict.module."):
        wrapped = store_of({f"{prefix}{key}": array for key, array in bare.items()})
        assert list(unwrap(wrapped, weights.ANCHOR, weights.ROOT)) == list(bare)
    two = store_of({f"{root}.{key}": array for root in ("ema", "model") for key, array in bare.items()})
    assert unwrap(two, weights.ANCHOR, weights.ROOT)[weights.ANCHOR].name == f"model.{weights.ANCHOR}"


def test_configuration_is_read_off_the_shapes(manifest: list[dict]) -> None:
    arrays = small_arrays(manifest, lambda n: max(1, n // 2), in_channels=1, classes=3)
    config = weights.infer_config(store_of(arrays))
    assert config == {"in_channels": 1, "classes": 3, "width": 0.5}
    store = store_of(arrays)
    model = graph.build(**config)
    assign(model, store, weights.table(store, model), ignore=weights.IGNORED)


@pytest.mark.parametrize("width", [0.125, 0.3, 1 / 3, 0.75, 1.0, 1.25])
def test_width_is_found_again(width: float) -> None:
    head = graph.scaled(graph.HEAD_WIDTH, width)
    found = weights.shortest_factor(head, weights.PUBLISHED_HEAD)
    assert graph.scaled(graph.HEAD_WIDTH, found) == head
    assert len(str(found)) <= len(str(width))


@pytest.mark.parametrize("fault", ["missing", "more", "shape"])
def test_other_arrays_are_refused(manifest: list[dict], fault: str) -> None:
    arrays = small_arrays(manifest, lambda n: max(1, n // 4))
    if fault == "missing":
        del arrays["blocks.4.conv.4.se.3.bias"]
    elif fault == "more":
        arrays["blocks.8.conv.0.weight"] = np.ones(3, "float32")
    else:
        arrays["fusion.axial.weight"] = np.ones((24, 1, 1, 3, 1), "float32")
    store = store_of(arrays)
    model = graph.build(**weights.infer_config(store))
    with pytest.raises(WeightsMismatch, match="1 differences"):
        assign(model, store, weights.table(store, model), ignore=weights.IGNORED)


@pytest.mark.parametrize("file", ["fastsurfer/net_small_axial.pkl", "nobrainer/unet_b1_full.h5"])
def test_checkpoint_of_another_network_is_refused_in_one_sentence(fixtures: Path, file: str) -> None:
    with pytest.raises(WeightsMismatch, match="is not a checkpoint of the FCD classifier") as caught:
        kerasneuro.load("fcd-mobilenet", weights=fixtures / file)
    assert "\n" not in str(caught.value)


def test_without_weights_it_says_to_bring_them() -> None:
    with pytest.raises(WeightsNotFound, match="weights=PATH"):
        kerasneuro.load("fcd-mobilenet")


def test_way_back_to_the_original(fixtures: Path, tmp_path: Path) -> None:
    card = registry.get("fcd-mobilenet")
    path = fixtures / "fcd" / "ckpt_model_key.pth"
    model = networks.load_part(card, graph, weights, "", path, {}, "way-back")
    values = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.weights}
    write_original(tmp_path / "again.pth", weights.original(model), values.__getitem__)
    with read(path) as first, read(tmp_path / "again.pth") as second:
        inner = unwrap(first, weights.ANCHOR, weights.ROOT)
        wanted = [key for key in inner if not key.endswith("num_batches_tracked")]
        assert list(second) == wanted
        for key in wanted:
            np.testing.assert_array_equal(second[key].read(), inner[key].read())
