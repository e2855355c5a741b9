"""HSF's files: every exporter, checkpoints, bags of any size, files that are something else, conversions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import kerasneuro
from kerasneuro import registry
from kerasneuro.converting import convert_weights
from kerasneuro.errors import InvalidOption, WeightsCorrupt, WeightsMismatch, WeightsNotFound
from kerasneuro.inference import Engine
from kerasneuro.models.hsf import graph, weights
from kerasneuro.models.hsf.exported import arrays_of, prefix_of
from kerasneuro.networks import lay_out, sketch_graph
from kerasneuro.weights import LazyArray, WeightStore, match, read
from kerasneuro.weights.onnx_graph import read_graph

CARD = registry.get("hsf-single-fast")
NARROW = {"generation": 4, "filters": [4, 6, 8, 12], "n_classes": 6}
NORM = "_model.encoders.0.basic_module.conv2.SwitchNorm3d"
FULL = {"arunet_v4": 4, "arunet_v3_from_2021_training_code": 3}


@pytest.fixture(scope="module")
def folder(fixtures: Path) -> Path:
    return fixtures / "hsf"


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """Return the state dict that the exported files were made from."""
    with read(folder / "arunet_v4_dyn.state_dict.pth") as store:
        return {key.removeprefix("_model."): array.read() for key, array in store.items()}


def opened(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays of a file under the names of a checkpoint, and its configuration."""
    with read(path) as store:
        layout = lay_out(CARD, weights, "", store)
        return {key: array.read() for key, array in layout.store.items()}, dict(layout.config)


def softmax(pair: np.ndarray) -> np.ndarray:
    powers = np.exp(pair.astype(np.float64))
    return powers / powers.sum()


def same_network(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    """Compare arrays; of the weights of a mixture only the softmax counts."""
    assert set(found) == set(expected)
    for key, array in expected.items():
        mixture = key.endswith(("mean_weight", "var_weight"))
        first, second = (softmax(found[key]), softmax(array)) if mixture else (found[key], array)
        np.testing.assert_allclose(first, second, rtol=0, atol=tolerance if mixture else 0, err_msg=key)


@pytest.mark.backend_free
@pytest.mark.parametrize("name", ["arunet_v4_dyn.onnx", "arunet_v4_dynamo_static_opset18.onnx"])
def test_exported_file_is_the_checkpoint(folder: Path, checkpoint: dict[str, np.ndarray], name: str) -> None:
    found, config = opened(folder / name)
    assert config == NARROW
    same_network(found, checkpoint, 1.2e-7)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("arunet_v4_dyn.state_dict.pth", NARROW),
        ("arunet_v4_bf16.ckpt", NARROW),
        ("arunet_v3_dyn_opset13.onnx", {**NARROW, "generation": 3}),
        ("arunet_v4_static_uneven.onnx", {"generation": 4, "filters": [3, 5, 8, 12], "n_classes": 8}),
    ],
)
def test_file_tells_generation_widths_and_classes(folder: Path, name: str, config: dict[str, Any]) -> None:
    found, inferred = opened(folder / name)
    assert inferred == config
    assert len(found) == (191 if config["generation"] == 4 else 188)


@pytest.mark.backend_free
def test_checkpoint_in_bfloat16_is_the_state_dict_rounded(
    folder: Path, checkpoint: dict[str, np.ndarray]
) -> None:
    found, _ = opened(folder / "arunet_v4_bf16.ckpt")
    for key, array in checkpoint.items():
        np.testing.assert_allclose(found[key], array, rtol=2.0**-8, err_msg=key)


# Other ways to write the same graph -------------------------------------------------------------------------


def fold_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the four products with a folded number in the normalisation NORM."""
    users = {name: node for node in model.graph.node for name in node.input}
    inside = NORM.replace(".encoders", "/encoders").replace(".basic_module.conv2.", "/basic_module/conv2/")
    assert f"{NORM}.weight" in users
    known = {array.name for array in model.graph.initializer}
    found = [
        node
        for node in model.graph.node
        if node.op_type == "Mul" and node.name.startswith(f"/{inside}") and known & set(node.input)
    ]
    return [node for node in found if f"{NORM}.weight" not in node.input]


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(array) for array in model.graph.initializer if array.name == name)


def without(model: onnx.ModelProto, names: set[str]) -> None:
    kept = [array for array in model.graph.initializer if array.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def swap_operands(model: onnx.ModelProto) -> None:
    """Exchange the operands of the products and of the sums that read them."""
    products = fold_nodes(model)
    outputs = {node.output[0] for node in products}
    sums = [node for node in model.graph.node if node.op_type == "Add" and outputs & set(node.input)]
    assert (len(products), len(sums)) == (4, 2)
    for node in products + sums:
        first, second = node.input
        node.input[0], node.input[1] = second, first


def constants_as_nodes(model: onnx.ModelProto) -> None:
    """Write the numbers as nodes, as other exporters do."""
    names = [name for node in fold_nodes(model) for name in node.input if name.startswith("onnx::Mul")]
    assert len(names) == 4
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(constant(model, name)))
        for name in names
    ]
    without(model, set(names))
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


def equal_arrays_once(model: onnx.ModelProto) -> None:
    """Write an array by an Identity node, as PyTorch does where two arrays of a network are equal."""
    nodes = []
    numbers = [name for node in fold_nodes(model) for name in node.input if name.startswith("onnx::Mul")]
    for name in [f"{NORM}.weight", "_model.final_conv.bias", *numbers]:
        copy = numpy_helper.from_array(constant(model, name), f"first of {name}")
        without(model, {name})
        model.graph.initializer.append(copy)
        nodes.append(helper.make_node("Identity", [copy.name], [name]))
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


def weights_kept(model: onnx.ModelProto) -> None:
    """Keep the weights of one mixture and take their softmax in the graph."""
    products = fold_nodes(model)
    names = [next(name for name in node.input if name.startswith("onnx::Mul")) for node in products]
    nodes, arrays = [], []
    for leaf, pair in (("mean_weight", names[:2]), ("var_weight", names[2:])):
        logits = np.log([constant(model, name) for name in pair]).reshape(2).astype(np.float32) + 1
        arrays.append(numpy_helper.from_array(logits, f"{NORM}.{leaf}"))
        nodes.append(helper.make_node("Softmax", [f"{NORM}.{leaf}"], [f"shares of {leaf}"], axis=0))
        for index, name in enumerate(pair):
            arrays.append(numpy_helper.from_array(np.array(index), f"{index} of {leaf}"))
            nodes.append(helper.make_node("Gather", [f"shares of {leaf}", f"{index} of {leaf}"], [name]))
    without(model, set(names))
    model.graph.initializer.extend(arrays)
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


Change = Callable[[onnx.ModelProto], None]


@pytest.mark.backend_free
@pytest.mark.parametrize("change", [swap_operands, constants_as_nodes, equal_arrays_once, weights_kept])
def test_other_ways_to_write_the_graph(
    folder: Path, tmp_path: Path, checkpoint: dict[str, np.ndarray], change: Change
) -> None:
    model = onnx.load(folder / "arunet_v4_dyn.onnx")
    change(model)
    onnx.save(model, tmp_path / "changed.onnx")
    found, config = opened(tmp_path / "changed.onnx")
    assert config == NARROW
    same_network({key: found[key] for key in found if " of " not in key}, checkpoint, 2e-7)


@pytest.mark.backend_free
def test_equal_shares_are_not_mistaken_for_the_half_of_gelu(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "arunet_v4_dyn.onnx")
    for array in model.graph.initializer:
        if array.name.startswith("onnx::Mul"):
            array.CopyFrom(numpy_helper.from_array(np.full(list(array.dims), 0.5, np.float32), array.name))
    onnx.save(model, tmp_path / "untrained.onnx")
    found, _ = opened(tmp_path / "untrained.onnx")
    pairs = [found[key] for key in found if key.endswith(("mean_weight", "var_weight"))]
    assert len(pairs) == 60
    np.testing.assert_allclose([softmax(pair) for pair in pairs], 0.5, atol=1e-7)


@pytest.mark.backend_free
def test_same_names_with_other_operations_are_another_network(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "arunet_v4_dyn.onnx")
    node = next(node for node in model.graph.node if node.op_type == "Erf")
    node.op_type = "Tanh"
    onnx.save(model, tmp_path / "other.onnx")
    assert prefix_of(read_graph(folder / "arunet_v4_dyn.onnx")) == "_model."
    assert prefix_of(read_graph(tmp_path / "other.onnx")) is None
    with (
        read(tmp_path / "other.onnx") as store,
        pytest.raises(WeightsMismatch, match="is not a network of HSF"),
    ):
        arrays_of(store)


# Files in full size -----------------------------------------------------------------------------------------


def full_size(folder: Path, key: str) -> WeightStore:
    """Stand in for a checkpoint in full size: its names and shapes."""
    record = json.loads((folder / "manifest_full_size.json").read_text(encoding="utf-8"))[key]

    def array(name: str, shape: list[int]) -> LazyArray:
        return LazyArray(name, tuple(shape), np.dtype("float32"), lambda _: np.zeros(shape, np.float32))

    arrays = {item["name"]: array(item["name"], item["shape"]) for item in record["weights"]}
    assert sum(array.size for array in arrays.values()) == record["total_parameters"]
    return WeightStore(Path("full"), "torch-zip", arrays)


@pytest.mark.parametrize("key", FULL)
def test_full_size_checkpoint_fits_its_graph(folder: Path, key: str) -> None:
    layout = lay_out(CARD, weights, "", full_size(folder, key))
    assert layout.config == {"generation": FULL[key], "filters": [64, 128, 256, 512], "n_classes": 6}
    model = sketch_graph(CARD, graph, layout.config, "")
    assert len(match(model, layout.store, layout.table(model))) == len(model.variables)
    assert model.count_params() == {4: 37_483_047, 3: 35_160_615}[FULL[key]]


@pytest.mark.backend_free
def test_registry_lists_the_presets_of_the_original(folder: Path) -> None:
    hub = json.loads((folder / "model_hub.json").read_text(encoding="utf-8"))
    checked = 0
    for preset, entry in hub["presets"].items():
        kind, _, quality = preset.removesuffix(".prev").partition("_")
        name = f"hsf-{kind}-{quality}{'-prev' if preset.endswith('.prev') else ''}"
        if quality == "sq":
            assert name not in registry.names()
            continue
        card = registry.get(name)
        ours = [(file.digest.value, file.sources[0].url) for file in card.files if file.digest]
        assert ours == [(model["xxh3_64"], model["url"]) for model in entry["models"]]
        assert {file.digest.algorithm for file in card.files if file.digest} == {"xxh3_64"}
        assert card.input.get("augmented_copies", 0) == (entry["num_aug"] if entry["tta"] else 0)
        assert card.is_bag is (kind == "bagging") and card.status == "ready"
        checked += 1
    assert checked == 8


# Bags -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_bag_of_any_size(folder: Path, count: int) -> None:
    names = ["arunet_v4_dyn.onnx", "arunet_v3_dyn_opset13.onnx", "arunet_v4_bf16.ckpt"]
    paths = [folder / names[index % 3] for index in range(count)]
    task = kerasneuro.load("hsf-bagging-fast", weights=paths)
    assert list(task.models) == [f"bag{index}" for index in range(count)]
    for part, path in zip(task.models, paths, strict=True):
        assert task.provenance[part]["path"] == str(path)
        assert task.provenance[part]["registered"].startswith("user file, sha256 ")
    generations = [
        4 if "encoders_1_pooling/kernel" in paths_of(model) else 3 for model in task.models.values()
    ]
    assert generations == [3 if "v3" in path.name else 4 for path in paths]


def paths_of(model: keras.Model) -> set[str]:
    return {variable.path for variable in model.variables}


def test_single_name_takes_one_file_of_either_generation(folder: Path) -> None:
    task = kerasneuro.load("hsf-single-accurate", weights=folder / "arunet_v3_dyn_opset13.onnx")
    assert list(task.models) == [""] and len(task.model.variables) == 188
    with pytest.raises(InvalidOption, match="takes 1 weight file"):
        kerasneuro.load("hsf-single-accurate", weights=[folder / "arunet_v3_dyn_opset13.onnx"] * 2)


@pytest.mark.parametrize("given", [[], {}, {"bag1": "a.onnx"}, {"left": "a.onnx"}])
def test_bag_needs_files_counted_from_0(given: Any) -> None:
    with pytest.raises(InvalidOption, match="hsf-bagging-fast needs"):
        kerasneuro.load("hsf-bagging-fast", weights=given)


def test_converted_once_whatever_the_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "arunet_v4_static_uneven.onnx"
    first = kerasneuro.load("hsf-bagging-fast", weights=[path]).model
    monkeypatch.setattr("kerasneuro.networks.lay_out", None)  # the original is not opened again
    second = kerasneuro.load("hsf-single-fast", weights=path).model
    for one, other in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))


def test_bag_of_networks_of_any_architecture(folder: Path) -> None:
    paths = [folder / "unet3d_bn_resize_dyn.onnx", folder / "arunet_v3_dyn_opset13.onnx"]
    task = kerasneuro.load("hsf-bagging-fast", weights=paths)
    other, own = task.models.values()
    assert other.input_shape == own.input_shape == (None, None, None, None, 1)
    assert other.output_shape == own.output_shape == (None, None, None, None, 6)
    assert "encoders_0_basic_module_conv1_conv/kernel" not in paths_of(other)


def test_both_routes_give_the_same_network(folder: Path) -> None:
    path = folder / "arunet_v3_dyn_opset13.onnx"
    x = np.ascontiguousarray(np.moveaxis(np.load(path.with_suffix(".npz"))["x0"], 1, -1))
    native = Engine(kerasneuro.load("hsf-single-fast", weights=path).model)(x)
    walked = Engine(kerasneuro.convert(path))(x)
    assert np.abs(walked - native).max() <= 5e-5
    assert (walked.argmax(-1) == native.argmax(-1)).mean() >= 0.999


# Files that are something else ------------------------------------------------------------------------------


def test_truncated_file(folder: Path, tmp_path: Path) -> None:
    content = (folder / "arunet_v4_dyn.onnx").read_bytes()
    for end in (50_000, len(content) - 1000):
        (tmp_path / "cut.onnx").write_bytes(content[:end])
        with pytest.raises(WeightsCorrupt, match=r"cut\.onnx"):
            kerasneuro.load("hsf-single-fast", weights=tmp_path / "cut.onnx")


@pytest.mark.parametrize(
    "other", ["nobrainer/unet_b2_full.h5", "fastsurfer/net_small_axial.pkl", "fcd/ckpt_model_key.pth"]
)
def test_file_of_another_family(fixtures: Path, other: str) -> None:
    with pytest.raises(WeightsMismatch, match="is not a network of HSF") as caught:
        kerasneuro.load("hsf-single-fast", weights=fixtures / other)
    assert "\n" not in str(caught.value)


def test_graph_of_flat_images_is_refused(tmp_path: Path) -> None:
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, None, None]) for name in ("x", "y")
    ]
    flat = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "flat", values[:1], values[1:])
    onnx.save(helper.make_model(flat), tmp_path / "flat.onnx")
    with pytest.raises(WeightsMismatch, match=r"does not segment one image: .*\(N, 1, X, Y, Z\)"):
        kerasneuro.load("hsf-single-fast", weights=tmp_path / "flat.onnx")


def test_file_with_another_digest_is_not_the_registered_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CARD.files[0].name).write_bytes((folder / "arunet_v4_dyn.onnx").read_bytes())
    monkeypatch.setenv("KERASNEURO_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("KERASNEURO_OFFLINE", "1")
    with pytest.raises(WeightsNotFound, match="xxh3_64 da825a3911d09411"):
        kerasneuro.load("hsf-single-fast")


# Conversions ------------------------------------------------------------------------------------------------


def test_conversion_to_our_format_and_back(
    folder: Path, tmp_path: Path, checkpoint: dict[str, np.ndarray]
) -> None:
    ours = convert_weights(folder / "arunet_v4_dyn.onnx", "hsf-bagging-accurate", tmp_path / "net.h5")
    with read(ours) as store:
        assert json.loads(store.attributes["config"]) == NARROW
    model = kerasneuro.load("hsf-single-fast", weights=ours).model
    norm = model.get_layer("final_conv").bias
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(norm), checkpoint["final_conv.bias"])
    again = convert_weights(
        folder / "arunet_v4_dyn.state_dict.pth", "hsf-single-fast", tmp_path / "net.pth", to_original=True
    )
    with read(again) as store:
        found = {key: array.read() for key, array in store.items()}
    assert found.keys() == {f"_model.{key}" for key in checkpoint}
    for key, array in checkpoint.items():
        np.testing.assert_array_equal(found[f"_model.{key}"], array, err_msg=key)
