"""Keras 2 files in all their layouts give the same arrays under the same keys."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from kerasneuro.weights import read
from kerasneuro.weights.keras_h5 import short_key

VARIANTS = ["unet_b2_weights", "unet_b2_2019full", "unet_b2_2019suffix", "unet_b2_2019weights_scoped"]
ORDER = [*(f"conv3d_{n}" if n else "conv3d" for n in range(8)), "conv3d_transpose", "conv3d_8", "conv3d_9"]
NAMES = [
    "unet_b1_2019adam",
    "unet_b1_c6_full",
    "unet_b1_full",
    "unet_b1_trained_legacyadam",
    "unet_b2_bn_full",
    "unet_b2_bn_weights",
    "unet_b2_full",
    "pipe_unet_b1_c6",
    "pipe_unet_b2",
    *VARIANTS,
]


def every_float_dataset(path: Path) -> dict[str, np.ndarray]:
    """Arrays of the file by their last two names, found by walking it, apart from those of the optimizer."""
    found = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and "optimizer_weights" not in name:
            found["/".join(name.removesuffix(":0").split("/")[-2:])] = item[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_all_arrays_of_the_file_are_found_once(name: str, fixtures: Path) -> None:
    path = fixtures / "nobrainer" / f"{name}.h5"
    expected = every_float_dataset(path)
    with read(path) as store:
        assert store.format == "keras-h5"
        assert store.keys() == expected.keys()
        assert [key for _, keys in store.layers for key in keys] == list(store)
        for key, array in store.items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array.read(), expected[key])


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_one_network_hold_equal_arrays(name: str, fixtures: Path) -> None:
    with (
        read(fixtures / "nobrainer" / "unet_b2_full.h5") as full,
        read(fixtures / "nobrainer" / f"{name}.h5") as variant,
    ):
        assert len(full) == len(variant) == 36
        for one, other in zip(full.values(), variant.values(), strict=True):
            np.testing.assert_array_equal(one.read(), other.read())


def test_order_is_that_of_the_network(fixtures: Path) -> None:
    with read(fixtures / "nobrainer" / "unet_b2_full.h5") as store:
        assert [layer for layer, _ in store.layers][:11] == ORDER
        assert list(store)[:2] == ["conv3d/kernel", "conv3d/bias"]
        assert store["conv3d/kernel"].shape == (3, 3, 3, 1, 2)
    with read(fixtures / "nobrainer" / "unet_b2_2019suffix.h5") as store:
        assert [layer for layer, _ in store.layers][:2] == ["conv3d_30", "conv3d_31"]


def test_batch_normalisation_has_four_arrays(fixtures: Path) -> None:
    with read(fixtures / "nobrainer" / "unet_b2_bn_full.h5") as store:
        keys = dict(store.layers)["batch_normalization_1"]
        assert keys == tuple(
            f"batch_normalization_1/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")
        )


def test_number_of_parameters_is_that_of_the_network(fixtures: Path) -> None:
    meta = json.loads((fixtures / "nobrainer" / "unet_meta.json").read_text())
    for name, file in (("unet_b2", "unet_b2_full"), ("unet_b1_c6", "unet_b1_c6_full")):
        with read(fixtures / "nobrainer" / f"{file}.h5") as store:
            assert sum(array.size for array in store.values()) == meta[name]["params"]


def test_configuration_is_text(fixtures: Path) -> None:
    with read(fixtures / "nobrainer" / "unet_b2_2019full.h5") as store:
        assert json.loads(store.attributes["model_config"])["class_name"] == "Model"
        assert store.attributes["keras_version"] == "2.2.4-tf"
    with read(fixtures / "nobrainer" / "unet_b2_weights.h5") as store:
        assert "model_config" not in store.attributes


@pytest.mark.parametrize(
    "name",
    [
        "affine.full",
        "affine.inner",
        "affine.wrapped",
        "deform.deform.full",
        "deform.deform.inner",
        "hypervxmdense",
    ],
)
def test_nested_and_hypernetwork_files(name: str, fixtures: Path) -> None:
    manifest = json.loads((fixtures / "synthmorph" / f"{name}.manifest.json").read_text())
    with read(fixtures / "synthmorph" / f"{name}.h5") as store:
        expected = [(entry["path"], tuple(entry["shape"])) for entry in manifest["weights"]]
        assert [array.shape for array in store.values()] == [shape for _, shape in expected]
        for key, (path, _) in zip(store, expected, strict=True):
            parts = path.removesuffix(":0").strip("/").split("/")
            assert key.split("/")[-2:] == parts[-2:]


def test_layouts_of_one_detector_differ_in_the_outer_name_only(fixtures: Path) -> None:
    folder = fixtures / "synthmorph"
    with (
        read(folder / "affine.full.h5") as full,
        read(folder / "affine.wrapped.h5") as wrapped,
        read(folder / "affine.inner.h5") as inner,
    ):
        for store in (full.sub("model_1"), wrapped.sub("vxm_affine_feature_detector")):
            assert list(store) == list(inner)
            for key in inner:
                np.testing.assert_array_equal(store[key].read(), inner[key].read())


@pytest.mark.parametrize(
    ("layer", "weight", "key"),
    [
        ("conv3d_1", "conv3d_1/kernel:0", "conv3d_1/kernel"),
        ("conv3d", "unet/conv3d/kernel:0", "conv3d/kernel"),
        ("conv3d", "kernel:0", "conv3d/kernel"),
        ("model_1", "conv3d/bias:0", "model_1/conv3d/bias"),
        ("model_1", "model_1/conv3d/bias:0", "model_1/conv3d/bias"),
        ("a/b", "a/b/kernel:0", "a/b/kernel"),
        ("lstm", "lstm/lstm_cell/kernel:0", "lstm/lstm_cell/kernel"),
        ("conv3d", "conv3d/kernel:1", "conv3d/kernel:1"),
    ],
)
def test_short_key(layer: str, weight: str, key: str) -> None:
    assert short_key(layer, weight) == key


def write_keras(
    path: Path, layers: dict[str, dict[str, np.ndarray]], split: int = 0, bytes_: bool = True
) -> None:
    """Write a weights-only file as Keras 2 does; `split` names per attribute where it is not 0."""

    def put(attributes: h5py.AttributeManager, name: str, values: list[str]) -> None:
        encoded = [value.encode() for value in values] if bytes_ else values
        if not split:
            attributes[name] = encoded
        for part in range(0, len(encoded) if split else 0, split or 1):
            attributes[f"{name}{part // split}"] = encoded[part : part + split]

    with h5py.File(path, "w") as file:
        put(file.attrs, "layer_names", list(layers))
        for layer, weights in layers.items():
            group = file.create_group(layer)
            put(group.attrs, "weight_names", list(weights))
            for name, value in weights.items():
                group[name] = value


@pytest.mark.parametrize("bytes_", [True, False])
@pytest.mark.parametrize("split", [0, 1, 2])
def test_attributes_in_parts_and_both_kinds_of_text(split: int, bytes_: bool, tmp_path: Path) -> None:
    layers = {
        name: {f"{name}/{part}:0": np.full(2, number, "f4") for part in ("w", "b", "c")}
        for number, name in enumerate(["z", "a_10", "a_2"])
    }
    write_keras(tmp_path / "weights.h5", layers, split, bytes_)
    with read(tmp_path / "weights.h5") as store:
        assert list(store) == [f"{name}/{part}" for name in layers for part in ("w", "b", "c")]
        assert store["a_2/w"].read().tolist() == [2, 2]


def test_names_that_would_collide_are_kept_whole(tmp_path: Path) -> None:
    weights = {"m/kernel:0": np.zeros(1, "f4"), "kernel:0": np.ones(1, "f4")}
    write_keras(tmp_path / "weights.h5", {"m": weights})
    with read(tmp_path / "weights.h5") as store:
        assert list(store) == ["m/m/kernel", "m/kernel"]
        assert store["m/kernel"].read() == [1]


def test_weights_of_the_model_itself_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    write_keras(path, {"a": {"a/w:0": np.zeros(2, "f4")}})
    with h5py.File(path, "a") as file:
        group = file.create_group("top_level_model_weights")
        group.attrs["weight_names"] = [b"scale:0"]
        group["scale:0"] = np.float32(3)
    with read(path) as store:
        assert list(store) == ["a/w", "top_level_model_weights/scale"]
        assert store["top_level_model_weights/scale"].read() == 3


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<f2", "<i8", "u1"])
@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_number_types_and_filters(dtype: str, compression: str | None, tmp_path: Path) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "weights.h5"
    write_keras(path, {"a": {}})
    with h5py.File(path, "a") as file:
        file["a"].attrs["weight_names"] = [b"a/w:0"]
        options = {"compression": compression, "shuffle": True, "fletcher32": True} if compression else {}
        file["a"].create_dataset("a/w:0", data=values, **options)
    with read(path) as store:
        array = store["a/w"].read()
    assert array.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(array, values)
