"""Tables are followed backwards, and networks are found inside training checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from kerasneuro.errors import InvalidOption, WeightsMismatch
from kerasneuro.weights import Entry, Original, read, unwrap, write_original
from kerasneuro.weights.torch_writer import write_torch

pytestmark = pytest.mark.backend_free

VALUES = {"a/kernel": np.arange(6, dtype="f4").reshape(2, 3), "a/scale": np.array([2, 8], "f4")}


def halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values / 2, np.full_like(values, 2)


def test_entries_are_inverted_in_the_order_of_the_file(tmp_path: Path) -> None:
    table = {
        "a/scale": Entry(("a.g", "a.h"), lambda g, h: g * h, invert=halves),
        "a/kernel": Entry(("a.weight",), np.transpose, invert=np.transpose),
    }
    write_original(tmp_path / "state.pth", Original("torch", table), VALUES.__getitem__)
    with read(tmp_path / "state.pth") as store:
        assert list(store) == ["a.g", "a.h", "a.weight"]
        assert store["a.g"].read().tolist() == [1, 4]
        np.testing.assert_array_equal(store["a.weight"].read(), VALUES["a/kernel"].T)


def test_entry_without_a_way_back(tmp_path: Path) -> None:
    original = Original("torch", {"a/kernel": Entry(("a.weight",), np.transpose)})
    with pytest.raises(InvalidOption, match=r"no way back from a/kernel to a\.weight"):
        write_original(tmp_path / "state.pth", original, VALUES.__getitem__)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("prefix", ["", "module.", "state_dict.", "state_dict.model.net."])
def test_network_is_found_by_its_anchor(prefix: str, tmp_path: Path) -> None:
    state = {f"{prefix}first.weight": np.ones(2), f"{prefix}last.weight": np.ones(3)}
    rest = {"optimizer.state.0.exp_avg": np.ones(2)} if prefix else {}
    write_torch(tmp_path / "checkpoint", (state | rest).items())
    with read(tmp_path / "checkpoint") as store:
        assert list(unwrap(store, "first.weight")) == ["first.weight", "last.weight"]
        assert list(unwrap(store, None)) == list(unwrap(store, "other.weight")) == list(store)


def test_two_networks_are_ambiguous(tmp_path: Path) -> None:
    state = {f"{prefix}.first.weight": np.ones(2) for prefix in ("model", "averaged")}
    write_torch(tmp_path / "checkpoint", state.items())
    with (
        read(tmp_path / "checkpoint") as store,
        pytest.raises(WeightsMismatch, match=r"several networks \(model\., averaged\."),
    ):
        unwrap(store, "first.weight")
