"""The weight table of the nobrainer U-Net: every file variant, and the files of others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from kerasneuro.errors import WeightsCorrupt, WeightsMismatch
from kerasneuro.models.nobrainer.graph import build
from kerasneuro.models.nobrainer.weights import infer_config, table
from kerasneuro.weights import assign, read, write_flat

# File -> filters, classes, batch normalisation.
FILES = {
    "unet_b2_full.h5": (2, 1, False),
    "unet_b2_weights.h5": (2, 1, False),
    "unet_b2_2019full.h5": (2, 1, False),
    "unet_b2_2019suffix.h5": (2, 1, False),
    "unet_b2_2019weights_scoped.h5": (2, 1, False),
    "unet_b2_bn_full.h5": (2, 1, True),
    "unet_b2_bn_weights.h5": (2, 1, True),
    "unet_b1_full.h5": (1, 1, False),
    "unet_b1_2019adam.h5": (1, 1, False),
    "unet_b1_c6_full.h5": (1, 6, False),
    "pipe_unet_b2.h5": (2, 1, False),
    "pipe_unet_b1_c6.h5": (1, 6, False),
}


def load(path: Path):
    with read(path) as store:
        model = build(**infer_config(store))
        assign(model, store, table(store, model))
    return model


@pytest.mark.parametrize("file", FILES)
def test_configuration_is_read_off_the_shapes(fixtures: Path, file: str) -> None:
    filters, n_classes, batchnorm = FILES[file]
    with read(fixtures / "nobrainer" / file) as store:
        config = infer_config(store)
    assert config == {
        "filters": filters,
        "n_classes": n_classes,
        "batchnorm": batchnorm,
        "input_shape": (None, None, None, 1),
    }


@pytest.mark.parametrize("file", FILES)
def test_table_gives_the_weights_of_stock_load_weights(fixtures: Path, file: str) -> None:
    path = fixtures / "nobrainer" / file
    ours = load(path)
    filters, n_classes, batchnorm = FILES[file]
    stock = build(filters=filters, n_classes=n_classes, batchnorm=batchnorm)
    stock.load_weights(path)
    for found, expected in zip(ours.variables, stock.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(found.numpy()), np.asarray(expected.numpy()))


def test_flat_file_in_any_order_is_matched_by_name(tmp_path: Path) -> None:
    model = build(filters=1, batchnorm=True)
    for index, variable in enumerate(model.variables):
        variable.assign(np.full(variable.shape, index + 1, np.float32))
    arrays = {variable.path: np.asarray(variable.numpy()) for variable in reversed(model.variables)}
    write_flat(tmp_path / "flat.h5", arrays, {"format": "test"})
    for found, expected in zip(load(tmp_path / "flat.h5").variables, model.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(found.numpy()), np.asarray(expected.numpy()))


def keras2_file(path: Path, layers: dict[str, dict[str, np.ndarray]]) -> Path:
    """Write arrays in the layout of a Keras 2 weight file."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, arrays in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{name}:0".encode() for name in arrays]
            for name, array in arrays.items():
                group[f"{layer}/{name}:0"] = array
    return path


def test_layers_renamed_by_a_user_are_matched_in_file_order(tmp_path: Path) -> None:
    model = build(filters=1)
    layers = [layer for layer in model.layers if layer.variables]
    names = [f"my_{name}" for name in "qwertyuiopasdfghjk"]
    arrays = {
        name: {variable.name: np.asarray(variable.numpy()) for variable in layer.variables}
        for name, layer in zip(names, layers, strict=True)
    }
    again = load(keras2_file(tmp_path / "renamed.h5", arrays))
    for found, expected in zip(again.variables, model.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(found.numpy()), np.asarray(expected.numpy()))


def test_another_network_is_refused(tmp_path: Path) -> None:
    kernel, bias = np.zeros((3, 3, 3, 1, 4), np.float32), np.zeros(4, np.float32)
    path = keras2_file(tmp_path / "other.h5", {"conv3d": {"kernel": kernel, "bias": bias}})
    with read(path) as store, pytest.raises(WeightsMismatch, match=r"15 convolutions.*found 1 conv3d"):
        infer_config(store)


def test_a_deepbet_like_file_is_refused(tmp_path: Path) -> None:
    write_flat(tmp_path / "deepbet.h5", {"init.0.weight": np.zeros((4, 1, 7, 7, 7), np.float32)}, {})
    with (
        read(tmp_path / "deepbet.h5") as store,
        pytest.raises(WeightsMismatch, match="not a nobrainer U-Net"),
    ):
        infer_config(store)


def test_a_kwyk_folder_is_refused(fixtures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kwyk_bwn"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    with pytest.raises((WeightsMismatch, WeightsCorrupt)), read(folder) as store:
        infer_config(store)


def test_a_kernel_of_another_width_is_refused(fixtures: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.h5"
    path.write_bytes((fixtures / "nobrainer" / "unet_b2_weights.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        group = file["conv3d_6/conv3d_6"]
        del group["bias:0"]
        group["bias:0"] = np.zeros(3, np.float32)
    with pytest.raises(WeightsMismatch, match="conv3d_6/bias"):
        load(path)


def test_a_first_kernel_of_another_size_is_refused(tmp_path: Path) -> None:
    model = build(filters=1)
    arrays = {variable.path: np.asarray(variable.numpy()) for variable in model.variables}
    arrays["conv3d/kernel"] = np.zeros((5, 5, 5, 1, 1), np.float32)
    write_flat(tmp_path / "five.h5", arrays, {})
    with read(tmp_path / "five.h5") as store, pytest.raises(WeightsMismatch, match="3 x 3 x 3"):
        infer_config(store)


@pytest.mark.parametrize("part", [0.1, 0.6, 0.97])
def test_a_truncated_file_is_called_corrupt(fixtures: Path, tmp_path: Path, part: float) -> None:
    whole = fixtures / "nobrainer" / "unet_b2_full.h5"
    path = tmp_path / "truncated.h5"
    path.write_bytes(whole.read_bytes())
    os.truncate(path, int(part * whole.stat().st_size))
    with pytest.raises(WeightsCorrupt):
        load(path)


def test_full_size_manifest_is_matched_completely(fixtures: Path) -> None:
    manifest = json.loads((fixtures / "nobrainer" / "unet_full_manifest.json").read_text())
    for entry, batchnorm in (("unet_1class_128", False), ("unet_1class_128_batchnorm", True)):
        keys = {
            f"{row['layer']}/{weight['name'].split('/')[-1].removesuffix(':0')}": weight["shape"]
            for row in manifest[entry]["layers"]
            for weight in row["weights"]
        }
        store = ShapesOnly(keys)
        model = build(batchnorm=batchnorm)
        assert infer_config(store)["batchnorm"] == batchnorm
        found = table(store, model)
        assert sorted(found.values()) == sorted(keys)
        assert all(list(variable.shape) == keys[found[variable.path]] for variable in model.variables)


class ShapesOnly(dict):
    """A store of shapes without values."""

    path = Path("manifest.json")

    def __init__(self, shapes: dict[str, list[int]]) -> None:
        super().__init__({key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()})
