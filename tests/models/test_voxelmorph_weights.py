"""VoxelMorph's files: what they state, what their shapes tell, where their arrays go; nothing is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerasneuro import networks, registry
from kerasneuro.errors import WeightsCorrupt, WeightsMismatch
from kerasneuro.models.voxelmorph import graph, weights
from kerasneuro.weights import LazyArray, WeightStore, match, read, write_original

pytestmark = pytest.mark.backend_free

NETWORKS = ("vxmdense_brains", "vxmdense_t1", "vxmdense_svf4", "hypervxmdense")
EXPECTED: dict[str, dict[str, Any]] = {
    "vxmdense_brains": {
        "nb_unet_features": ((5,) * 4, (5,) * 6),
        "svf_resolution": 2,  # stated as unet_half_res
        "int_resolution": 2,  # stated as int_downsize
        "int_steps": 5,
        "bidir": True,
    },
    "vxmdense_t1": {
        "nb_unet_features": ((4, 6, 6, 6), (6, 6, 6, 6, 6, 4, 4)),
        "svf_resolution": 1,
        "int_steps": 7,
        "reg_field": "warp",
        "bidir": False,
    },
    "vxmdense_svf4": {
        "nb_unet_features": ((4, 5), (5, 4, 3)),
        "svf_resolution": 4,
        "fill_value": 0,
        "reg_field": "svf",
    },
    "hypervxmdense": {
        "nb_unet_features": ((4, 5), (5, 4, 3)),
        "svf_resolution": 2,
        "hyper": {"parameters": 1, "layers": 3, "units": 7},
    },
}
FULL_SIZE = {
    "synthmorph-brains": ("vxmdense_brains_256f", 21_270_787),
    "synthmorph-shapes": ("vxmdense_brains_256f", 21_270_787),
    "voxelmorph-t1": ("voxelmorph_t1_halfres", 313_507),
}


def store_of(shapes: Mapping[str, tuple[int, ...]], model_config: Any = None) -> WeightStore:
    """Make an open file whose arrays count up, without one on disk."""

    def array(key: str, shape: tuple[int, ...], number: int) -> LazyArray:
        return LazyArray(key, shape, np.dtype("float32"), lambda _: np.full(shape, number, "float32"))

    arrays = {key: array(key, tuple(shape), number) for number, (key, shape) in enumerate(shapes.items())}
    text = model_config if isinstance(model_config, str) else json.dumps(model_config)
    attributes = {} if model_config is None else {"model_config": text}
    return WeightStore(Path("file.h5"), "keras-h5", arrays, attributes=attributes)


def stored(fixtures: Path, name: str, **changes: Any) -> WeightStore:
    """Open a stored network with changes of what it states."""
    with read(fixtures / "synthmorph" / f"{name}.h5") as store:
        record = json.loads(store.attributes["model_config"])
        record["config"] |= changes
        return store_of({key: array.shape for key, array in store.items()}, record)


def sketch(store: WeightStore, name: str = "voxelmorph-t1") -> Any:
    """Build the network of a file without values, and prove that the file fits it."""
    model = networks.sketch_graph(registry.get(name), graph, weights.infer_config(store), "")
    match(model, store, weights.table(store, model))
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_states_its_network(fixtures: Path, name: str) -> None:
    store = stored(fixtures, name)
    found = weights.infer_config(store)
    assert {key: found[key] for key in EXPECTED[name]} == EXPECTED[name]
    sketch(store)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_alone_show_the_network_by_their_shapes(fixtures: Path, name: str) -> None:
    with read(fixtures / "synthmorph" / f"{name}.h5") as file:
        shapes = {key: array.shape for key, array in file.items()}
    found = weights.infer_config(store_of(shapes))
    told = ("nb_unet_features", "svf_resolution", "hyper")
    assert {key: found[key] for key in told if key in found} == {
        key: EXPECTED[name][key] for key in told if key in EXPECTED[name]
    }
    sketch(store_of(shapes))


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_from_shapes_without_values(fixtures: Path, name: str) -> None:
    manifest, count = FULL_SIZE[name]
    record = json.loads((fixtures / "synthmorph" / f"{manifest}.fullsize.json").read_text())
    shapes = {
        "/".join(row["path"].removesuffix(":0").split("/")[-2:]): tuple(row["shape"])
        for row in record["weights"]
    }
    model = sketch(store_of(shapes), name)
    assert model.count_params() == count == registry.get(name).parameters


def test_older_words_and_what_is_not_needed(fixtures: Path) -> None:
    expected = weights.infer_config(stored(fixtures, "vxmdense_brains"))
    older = stored(
        fixtures,
        "vxmdense_brains",
        nb_unet_features=None,
        enc_nf=[5] * 4,
        dec_nf=[5] * 6,
        int_resolution=None,
        svf_resolution=None,
        input_model={"class_name": "Functional", "config": {"layers": ["code"]}},
        hyp_model={"class_name": "Lambda"},
        something_new=[1, 2],
    )
    assert weights.infer_config(older) == expected


def test_widths_come_from_the_arrays_whatever_the_text_says(fixtures: Path) -> None:
    huge = stored(fixtures, "vxmdense_t1", nb_unet_features=[[10**6] * 4, [10**6] * 7])
    assert weights.infer_config(huge) == weights.infer_config(stored(fixtures, "vxmdense_t1"))


def test_the_text_decides_where_shapes_do_not() -> None:
    """Without skip connections, one convolution follows the other whichever level it is on."""
    chain = [(2, 4), (4, 4), (4, 4), (4, 4), (4, 3)]
    shapes = {}
    for number, (inputs, outputs) in enumerate(chain):
        shapes |= {f"conv3d_{number}/kernel": (3, 3, 3, inputs, outputs), f"conv3d_{number}/bias": (outputs,)}
    assert weights.infer_config(store_of(shapes))["nb_unet_features"] == ((4, 4), (4, 4))
    config = {"nb_unet_features": [[4], [4, 4, 4]], "svf_resolution": 2}
    found = weights.infer_config(store_of(shapes, {"class_name": "VxmDense", "config": config}))
    assert found["nb_unet_features"] == ((4,), (4, 4, 4))
    config = {"nb_unet_features": [[4, 4], [4, 4]], "nb_unet_conv_per_level": 2, "svf_resolution": 2}
    found = weights.infer_config(store_of(shapes, {"class_name": "VxmDense", "config": config}))
    assert (found["nb_unet_conv_per_level"], found["svf_resolution"]) == (2, 2)


def test_layers_are_paired_by_order_not_by_name(fixtures: Path) -> None:
    with read(fixtures / "synthmorph" / "hypervxmdense.h5") as file:
        layers: dict[str, str] = {}
        shapes = {}
        for key, array in file.items():
            layer, _, weight = key.rpartition("/")
            name = layers.setdefault(layer, f"model_3/any_{7 + len(layers)}")
            shapes[f"{name}/{weight}"] = array.shape
    store = store_of(shapes)
    model = sketch(store)
    ours = {variable.path.split("/")[-2]: key for variable, key in paired(model, store)}
    for layer, name in layers.items():
        assert ours[layer].startswith(f"{name}/")


def paired(model: Any, store: WeightStore) -> list[tuple[Any, str]]:
    table = weights.table(store, model)
    return [(variable, table[variable.path]) for variable in model.weights]


def test_the_original_reads_what_is_written_back(fixtures: Path, tmp_path: Path) -> None:
    with read(fixtures / "synthmorph" / "vxmdense_t1.h5") as file:
        model = sketch(file)
        table = weights.table(file, model)
        write_original(tmp_path / "back.h5", weights.original(model), lambda path: file[table[path]].read())
        with read(tmp_path / "back.h5") as back:
            assert list(back) == list(file)
            for key, array in file.items():
                np.testing.assert_array_equal(back[key].read(), array.read())


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ({"class_name": "Unet", "config": {}}, WeightsMismatch, "holds a model of class 'Unet'"),
        ("{", WeightsCorrupt, "model_config is damaged"),
        ("[" * 100_000, WeightsCorrupt, "model_config is damaged"),
        ({"class_name": "VxmDense", "config": []}, WeightsCorrupt, "model_config is damaged"),
        ({"class_name": "VxmDense"}, WeightsCorrupt, "model_config is damaged"),
    ],
)
def test_other_texts_are_refused(fixtures: Path, text: Any, error: type, message: str) -> None:
    shapes = {key: array.shape for key, array in stored(fixtures, "vxmdense_t1").items()}
    with pytest.raises(error, match=message) as caught:
        weights.infer_config(store_of(shapes, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"int_steps": 10**9},
        {"int_steps": "7"},
        {"svf_resolution": 0.5},
        {"int_downsize": 10**6},
        {"bidir": "yes"},
        {"fill_value": float("inf")},
        {"reg_field": "code"},
        {"src_feats": -1},
    ],
)
def test_options_that_no_network_has_are_refused(fixtures: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(WeightsMismatch, match=f"states {next(iter(changes))} = .* no VxmDense has"):
        weights.infer_config(stored(fixtures, "vxmdense_t1", **changes))


def test_other_networks_are_refused(fixtures: Path) -> None:
    with (
        read(fixtures / "nobrainer" / "pipe_unet_b2.h5") as file,
        pytest.raises(WeightsMismatch, match="VxmDense"),
    ):
        weights.infer_config(file)
    with pytest.raises(WeightsMismatch, match="layer 'norm' has the weights gamma"):
        weights.infer_config(store_of({"norm/gamma": (4,)}))
    with pytest.raises(WeightsMismatch, match="found 0 convolutions"):
        weights.infer_config(store_of({}))
    many = {f"conv{n}/{w}": s for n in range(101) for w, s in (("kernel", (3, 3, 3, 3, 3)), ("bias", (3,)))}
    with pytest.raises(WeightsMismatch, match="found 101 convolutions"):
        weights.infer_config(store_of(many))


def test_a_missing_array_is_told(fixtures: Path) -> None:
    with read(fixtures / "synthmorph" / "vxmdense_t1.h5") as file:
        shapes = {key: array.shape for key, array in file.items()}
    gone = next(key for key in shapes if "dec_conv_1_0" in key)
    layer = gone.rpartition("/")[0]
    with pytest.raises(WeightsMismatch, match="is not a VxmDense"):
        weights.infer_config(store_of({key: s for key, s in shapes.items() if not key.startswith(layer)}))
