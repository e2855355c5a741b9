"""Every layout of SynthMorph's weight files is read, and wrong files are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from kerasneuro import networks, registry
from kerasneuro.errors import InvalidOption, WeightsCorrupt, WeightsMismatch
from kerasneuro.models.synthmorph import graph, weights
from kerasneuro.models.synthmorph.arrays import file_layers, network_arrays
from kerasneuro.weights import WeightStore, assign, read

WIDTHS = {"num_chan": 1, "per_level": 1, "in_shape": (None, None, None)}
DETECTOR = {**WIDTHS, "num_feat": 16, "enc_nf": (6, 6), "dec_nf": (), "add_nf": (6, 6)}
DEFORM = {
    **WIDTHS,
    "hyp_num": 1,
    "hyp_units": (6, 5, 6),
    "enc_nf": (5, 4),
    "dec_nf": (4, 5),
    "add_nf": (5, 4),
}
FILES = {
    "affine.inner": ("affine", DETECTOR),
    "affine.full": ("affine", DETECTOR),
    "affine.wrapped": ("affine", DETECTOR),
    "rigid.full": ("rigid", DETECTOR),
    "deform.deform.inner": ("deform", DEFORM),
    "deform.deform.full": ("deform", DEFORM),
}

Arrays = Mapping[str, Mapping[str, np.ndarray]]


def write(path: Path, layers: Arrays) -> Path:
    """Write a file of Keras 2: layer -> name of the array -> values."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name in layers])
        for layer, arrays in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name in arrays])
            for name, array in arrays.items():
                group.create_dataset(name, data=array)
    return path


def contents(path: Path) -> dict[str, np.ndarray]:
    with read(path) as store:
        return {key: array.read() for key, array in store.items()}


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {variable.path: np.asarray(keras.ops.convert_to_numpy(variable)) for variable in model.variables}


def load(path: Path, network: str, **config: Any) -> keras.Model:
    """Load a file the way `kerasneuro.load` does, and keep the hypernetwork."""
    card = registry.get(f"synthmorph-{network}")
    config = {"network": network, **config}
    with read(path) as store:
        inner = network_arrays(store, network)
        model = networks.build_graph(card, graph, {**weights.infer_config(inner), **config}, "")
        assign(model, inner, weights.table(inner, model))
    return model


@pytest.fixture(scope="module")
def folder(fixtures: Path) -> Path:
    return fixtures / "synthmorph"


@pytest.fixture(scope="module")
def both(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as a whole joint model gives it: two networks, and counters that went on before."""
    arrays = {**contents(folder / "joint.affine.inner.h5"), **contents(folder / "joint.deform.inner.h5")}
    layers: dict[str, dict[str, np.ndarray]] = {"input_4": {}, "model_2": {}, "vec_int": {}, "model_3": {}}
    counts = {"conv3d": 8, "dense": 9, "hyper_conv_from_dense": 97}
    for key, array in arrays.items():
        layer, weight = key.split("/")
        kind, _, number = layer.rpartition("_") if layer[-1].isdigit() else (layer, "", "0")
        renamed = f"{kind}_{int(number) + counts[kind]}/{weight}:0"
        layers["model_2" if kind == "conv3d" else "model_3"][renamed] = array
    return write(tmp_path_factory.mktemp("both") / "joint.h5", layers)


@pytest.mark.backend_free
@pytest.mark.parametrize("name", FILES)
def test_widths_and_levels_are_read_off_the_file(folder: Path, name: str) -> None:
    with read(folder / f"{name}.h5") as store:
        assert weights.infer_config(store) == FILES[name][1]


def test_all_layouts_hold_the_same_network(folder: Path) -> None:
    layouts = ("inner", "full", "wrapped")
    models = [values(load(folder / f"affine.{layout}.h5", "affine")) for layout in layouts]
    inner = contents(folder / "affine.inner.h5")
    for model in models:
        assert model.keys() == inner.keys()
        for path, array in model.items():
            np.testing.assert_array_equal(array, inner[path])


def test_the_hypernetwork_is_read_from_both_layouts(folder: Path) -> None:
    inner = contents(folder / "deform.deform.inner.h5")
    for layout in ("inner", "full"):
        model = values(load(folder / f"deform.deform.{layout}.h5", "deform"))
        assert model.keys() == inner.keys()
        for path, array in model.items():
            np.testing.assert_array_equal(array, inner[path])


@pytest.mark.parametrize(("network", "part"), [("affine", "affine"), ("deform", "deform")])
def test_a_file_of_both_networks_is_split(folder: Path, both: Path, network: str, part: str) -> None:
    expected = contents(folder / f"joint.{part}.inner.h5")
    found = values(load(both, network))
    assert found.keys() == expected.keys()
    for path, array in found.items():
        np.testing.assert_array_equal(array, expected[path])


def test_a_file_of_both_networks_is_one_joint_graph(folder: Path, both: Path) -> None:
    affine = {key: DETECTOR[key] for key in ("num_feat", "enc_nf", "dec_nf", "add_nf")}
    model = graph.build("joint", **DEFORM, affine=affine)
    with read(both) as store:
        assign(model, store, weights.table(store, model))
        with pytest.raises(WeightsMismatch, match="5 convolutions, 3 dense layers, 7 conv"):
            weights.infer_config(store)


def test_counters_are_ordered_as_numbers(tmp_path: Path, folder: Path) -> None:
    """The tenth layer follows the ninth, whatever the alphabet says."""
    arrays = contents(folder / "affine.inner.h5")
    names = {name: f"conv3d_{index + 8}" for index, name in enumerate(file_order(arrays))}
    renamed: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        layer, weight = key.split("/")
        renamed.setdefault(names[layer], {})[f"{names[layer]}/{weight}:0"] = array
    path = write(tmp_path / "later.h5", {"input_9": {}, **renamed})
    found = values(load(path, "affine"))
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key], array)


def file_order(arrays: Mapping[str, np.ndarray]) -> list[str]:
    return list(dict.fromkeys(key.split("/")[0] for key in arrays))


@pytest.mark.parametrize(
    "config",
    [
        {"enc_nf": (2, 3), "dec_nf": (4, 2), "add_nf": (3,), "per_level": 2},
        {"enc_nf": (2, 2, 2), "dec_nf": (2, 2, 2), "add_nf": (), "hyp_units": (2,), "hyp_num": 3},
        {"enc_nf": (3,), "dec_nf": (2,), "add_nf": (2, 2), "num_chan": 2, "in_shape": (None, None)},
        {"enc_nf": (3, 2), "dec_nf": (2, 2), "add_nf": (2,), "specialised": True},
    ],
)
def test_any_deformable_network_is_recognised(config: dict[str, Any]) -> None:
    hyper = {} if "specialised" in config else {"hyp_units": (3, 2)}
    model = graph.build("deform", **{**hyper, **config})
    store = in_memory(values(model))
    found = weights.infer_config(store)
    assert {key: found[key] for key in config} == config
    assert weights.table(store, model) == {path: path for path in store}


@pytest.mark.parametrize(
    "config",
    [
        {"enc_nf": (2, 3, 4), "dec_nf": (3, 2), "add_nf": (2,), "per_level": 2, "num_feat": 3},
        {"enc_nf": (2, 3), "dec_nf": (), "add_nf": (2, 4), "num_feat": 5, "num_chan": 2},
    ],
)
def test_any_detector_is_recognised(config: dict[str, Any]) -> None:
    store = in_memory(values(graph.build("affine", **config)))
    found = weights.infer_config(store)
    assert {key: found[key] for key in config} == config


def in_memory(arrays: Mapping[str, np.ndarray]) -> WeightStore:
    from kerasneuro.models.synthmorph.specialise import store_of

    return store_of(arrays, Path("memory"))


def test_original_file_is_written_again(folder: Path, tmp_path: Path) -> None:
    for name, network in (("affine.full", "affine"), ("deform.deform.full", "deform")):
        model = load(folder / f"{name}.h5", network)
        described = weights.original(model)
        manifest = json.loads((folder / f"{name.replace('full', 'inner')}.manifest.json").read_text())
        stored = [row["weight_name"].removesuffix(":0") for row in manifest["weights"]]
        assert list(described.table.values()) == stored
    with pytest.raises(InvalidOption, match="no place in the original's file"):
        weights.original(graph.build("deform", specialised=True, enc_nf=(2,), dec_nf=(2,), add_nf=(2,)))


def drop(layers: dict[str, dict[str, np.ndarray]]) -> None:
    del layers["hyper_conv_from_dense_3"]


def cut(layers: dict[str, dict[str, np.ndarray]]) -> None:
    layer = layers["hyper_conv_from_dense_2"]
    name = next(key for key in layer if "hyperkernel_bias" in key)
    layer[name] = layer[name][:-1]


def no_dense(layers: dict[str, dict[str, np.ndarray]]) -> None:
    for name in [name for name in layers if name.startswith("dense")]:
        del layers[name]


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "its channels"),
        (cut, "the layer 'hyper_conv_from_dense_2' makes"),
        (no_dense, "has no dense layers"),
    ],
)
def test_broken_hypernetworks_are_refused(
    folder: Path,
    tmp_path: Path,
    change: Callable[[dict[str, dict[str, np.ndarray]]], None],
    message: str,
) -> None:
    layers: dict[str, dict[str, np.ndarray]] = {}
    for key, array in contents(folder / "deform.deform.inner.h5").items():
        layers.setdefault(key.split("/")[0], {})[f"{key}:0"] = array
    change(layers)
    with read(write(tmp_path / "broken.h5", layers)) as store, pytest.raises(WeightsMismatch, match=message):
        weights.infer_config(store)


def test_wrong_files_are_named(folder: Path) -> None:
    with read(folder / "affine.inner.h5") as store:
        with pytest.raises(WeightsMismatch, match="holds 5 convolutions, expected a deformable network"):
            network_arrays(store, "deform")
        assert not file_layers(store)["hyper"]
    with (
        read(folder / "deform.deform.inner.h5") as store,
        pytest.raises(WeightsMismatch, match="expected the convolutions of a rigid network"),
    ):
        network_arrays(store, "rigid")
    with (
        read(folder / "vxmdense_t1.h5") as store,
        pytest.raises(WeightsMismatch, match=r"does not fit the model"),
    ):
        model = graph.build("affine", **DETECTOR)
        assign(model, store, weights.table(store, model))
    with pytest.raises(WeightsMismatch, match="does not fit the model"):
        load(folder / "affine.inner.h5", "affine", num_feat=3)


def test_a_truncated_file_is_refused(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "affine.full.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsCorrupt, match="damaged"):
        load(tmp_path / "cut.h5", "affine")
