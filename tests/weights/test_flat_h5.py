"""Our own file: what is written is read back, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kerasneuro.errors import InvalidOption, OutputError
from kerasneuro.weights import read, write_flat


@given(
    content=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20),
        arrays.arrays(
            st.sampled_from(["f4", "f8", "f2", "i8", "u1"]), arrays.array_shapes(min_dims=0, min_side=0)
        ),
        max_size=4,
    )
)
def test_round_trip(content: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("flat") / "weights.h5"
    write_flat(path, content, {"source": "made here"})
    with read(path) as store:
        assert store.format == "kerasneuro-h5"
        assert list(store) == list(content)
        assert store.attributes == {"source": "made here"}
        for name, array in content.items():
            assert store[name].dtype == array.dtype
            np.testing.assert_array_equal(store[name].read(), array)


def test_pairs_are_written_one_at_a_time(tmp_path: Path) -> None:
    alive: list[str] = []

    def pairs() -> Iterator[tuple[str, np.ndarray]]:
        for name in ("b/kernel", "a.weight", "b"):
            alive.append(name)
            yield name, np.full(3, len(alive), "f4")

    write_flat(tmp_path / "weights.h5", pairs(), {})
    with read(tmp_path / "weights.h5") as store:
        assert {name: array.read()[0] for name, array in store.items()} == {
            "b/kernel": 1,
            "a.weight": 2,
            "b": 3,
        }


def test_long_provenance(tmp_path: Path) -> None:
    text = "µ" * 200_000
    write_flat(tmp_path / "weights.h5", {}, {"licence": text})
    with read(tmp_path / "weights.h5") as store:
        assert store.attributes["licence"] == text


def test_more_than_ten_arrays_keep_their_order(tmp_path: Path) -> None:
    names = [f"layer_{number}" for number in range(25, 0, -1)]
    write_flat(tmp_path / "weights.h5", {name: np.ones(1) for name in names}, {})
    with read(tmp_path / "weights.h5") as store:
        assert list(store) == names


@pytest.mark.parametrize(
    "pairs",
    [
        [("a", np.ones(1)), ("a", np.ones(1))],
        [("", np.ones(1))],
        [("a", np.array(["text"]))],
        [("a", np.array([None]))],
        [("a", np.ones(1, complex))],
    ],
)
def test_failure_leaves_the_old_file(pairs: list[tuple[str, np.ndarray]], tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    write_flat(path, {"old": np.ones(2)}, {})
    with pytest.raises(InvalidOption):
        write_flat(path, pairs, {})
    assert [item.name for item in tmp_path.iterdir()] == ["weights.h5"]
    with read(path) as store:
        assert list(store) == ["old"]


def test_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can not be written"):
        write_flat(tmp_path / "none" / "weights.h5", {}, {})


@pytest.mark.parametrize("attributes", [{"kerasneuro_format": "2"}, {"number": 3}])
def test_attributes_are_texts_of_the_user(attributes: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InvalidOption):
        write_flat(tmp_path / "weights.h5", {}, attributes)
    assert list(tmp_path.iterdir()) == []
