"""Keras 2 files that we write are those that Keras 2 writes, object by object."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from kerasneuro.errors import InvalidOption, OutputError
from kerasneuro.weights import read
from kerasneuro.weights.keras2_writer import write_keras2

pytestmark = pytest.mark.backend_free


def tree(path: Path) -> dict[str, Any]:
    """List every object of a file with its attributes and values."""
    found: dict[str, Any] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        attributes = {key: decoded(value) for key, value in item.attrs.items()}
        values = (item.dtype, item.shape, item[()].tobytes()) if isinstance(item, h5py.Dataset) else None
        found[name] = (attributes, values)

    with h5py.File(path) as file:
        visit("/", file["/"])
        file.visititems(visit)
    return found


def decoded(value: Any) -> Any:
    """Turn fixed and variable texts, both of which Keras has written, into the same."""
    if isinstance(value, np.ndarray):
        return [decoded(item) for item in value]
    return value.decode() if isinstance(value, bytes) else str(value)


@pytest.mark.parametrize("name", ["unet_b2_weights.h5", "unet_b2_bn_weights.h5"])
def test_file_of_keras_2_is_written_again(name: str, fixtures: Path, tmp_path: Path) -> None:
    original = fixtures / "nobrainer" / name
    layers = tree(original)["/"][0]["layer_names"]
    with read(original) as store:
        write_keras2(tmp_path / name, layers, ((key, array.read()) for key, array in store.items()))
    expected, found = tree(original), tree(tmp_path / name)
    assert found.keys() == expected.keys()
    assert [key for key in expected if found[key] != expected[key]] == []


def test_our_reader_gives_the_same_arrays(tmp_path: Path) -> None:
    arrays = {"conv3d_10/kernel": np.ones((2, 3), "f4"), "conv3d_2/kernel": np.zeros(4, "f8")}
    write_keras2(tmp_path / "w.h5", ["input_1", "conv3d_10", "relu", "conv3d_2"], arrays.items())
    with read(tmp_path / "w.h5") as store:
        assert (store.format, list(store)) == ("keras-h5", list(arrays))
        assert store.attributes == {"backend": "tensorflow", "keras_version": "2.15.0"}
        for key, array in arrays.items():
            np.testing.assert_array_equal(store[key].read(), array)
            assert store[key].dtype == array.dtype


def test_long_lists_of_names_are_split_as_keras_splits_them(tmp_path: Path) -> None:
    layers = [f"layer_{'x' * 50}_{number}" for number in range(3000)]
    write_keras2(tmp_path / "w.h5", layers, [(f"{layers[-1]}/kernel", np.ones(1))])
    with h5py.File(tmp_path / "w.h5") as file:
        pieces = [name for name in file.attrs if name.startswith("layer_names")]
        assert pieces == [f"layer_names{number}" for number in range(len(pieces))] and len(pieces) > 1
    with read(tmp_path / "w.h5") as store:
        assert list(store) == [f"{layers[-1]}/kernel"]


@pytest.mark.parametrize(
    ("layers", "arrays"),
    [
        (["a"], [("b/kernel", np.ones(1))]),
        (["a"], [("kernel", np.ones(1))]),
        (["a"], [("a/kernel", np.ones(1)), ("a/kernel", np.ones(1))]),
        (["a", "a"], []),
    ],
)
def test_what_the_layout_can_not_hold_is_refused(layers: list, arrays: list, tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"mine")
    with pytest.raises(InvalidOption):
        write_keras2(tmp_path / "w.h5", layers, arrays)
    assert (tmp_path / "w.h5").read_bytes() == b"mine" and os.listdir(tmp_path) == ["w.h5"]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can not be written"):
        write_keras2(tmp_path / "none" / "w.h5", [], [])
