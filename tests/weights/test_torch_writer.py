"""State dicts written without PyTorch are read by it, tensors alone, and by our own reader."""

from __future__ import annotations

import os
import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kerasneuro.errors import InvalidOption, OutputError
from kerasneuro.weights import read
from kerasneuro.weights.torch_writer import pickle_integer, write_torch

backend_free = pytest.mark.backend_free
with_torch = pytest.mark.skipif(os.environ.get("KERAS_BACKEND") != "torch", reason="PyTorch reads the files")

TYPES = ("f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1")
STATE = {
    "conv.weight": np.arange(12, dtype="f4").reshape(2, 3, 2, 1)[:, ::-1],
    "conv.bias": np.array([1.5, -2], "f8"),
    "norm.num_batches_tracked": np.array(7),
    "nothing": np.zeros((0, 3), "f2"),
    "flags": np.array([True, False]),
    "größe": np.array([[1]], "u1"),
}


@backend_free
@given(
    content=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20),
        arrays.arrays(st.sampled_from(TYPES), arrays.array_shapes(min_dims=0, min_side=0)),
        max_size=4,
    )
)
def test_round_trip(content: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("torch") / "state.pth"
    write_torch(path, content.items())
    with read(path) as store:
        assert store.format == "torch-zip"
        assert list(store) == list(content)
        for name, array in content.items():
            assert (store[name].dtype, store[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(store[name].read(), array)


@backend_free
def test_root_holds_the_state_dict(tmp_path: Path) -> None:
    write_torch(tmp_path / "state.pkl", STATE.items(), root="model_state_dict")
    with read(tmp_path / "state.pkl") as store:
        assert list(store) == [f"model_state_dict.{name}" for name in STATE]


@backend_free
def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_torch(tmp_path / name, STATE.items())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@backend_free
def test_numbers_begin_at_multiples_of_64(tmp_path: Path) -> None:
    write_torch(tmp_path / "state.pth", STATE.items())
    content = (tmp_path / "state.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "state.pth") as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            name, extra = (
                int.from_bytes(content[info.header_offset + at : info.header_offset + at + 2], "little")
                for at in (26, 28)
            )
            assert (info.header_offset + 30 + name + extra) % 64 == 0


@backend_free
def test_pickle_names_nothing_but_tensors_and_a_dictionary(tmp_path: Path) -> None:
    write_torch(tmp_path / "state.pth", STATE.items())
    with zipfile.ZipFile(tmp_path / "state.pth") as archive:
        instructions = list(pickletools.genops(archive.read("archive/data.pkl")))
    names = {str(argument) for code, argument, _ in instructions if code.name == "GLOBAL"}
    kinds = ("Float", "Double", "Half", "Long", "Bool", "Byte")
    storages = {f"torch {kind}Storage" for kind in kinds}
    assert names == {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"} | storages
    assert instructions[0][0].name == "PROTO" and instructions[0][1] == 2


@backend_free
@pytest.mark.parametrize("number", [0, 1, 255, 2**31 - 1, 2**31, 2**32, 2**40 + 3, 2**63 - 1])
def test_integers(number: int) -> None:
    assert pickle.loads(b"\x80\x02" + pickle_integer(number) + b".") == number


@backend_free
@pytest.mark.parametrize(
    "pairs",
    [
        [("a", np.ones(2)), ("a", np.ones(2))],
        [("a", np.ones(2)), ("b", np.ones(2, "u2"))],
        [("a", np.array(["text"]))],
        [("a", np.array([None]))],
    ],
)
def test_what_pytorch_lacks_is_refused_and_nothing_is_left(pairs: list, tmp_path: Path) -> None:
    path = tmp_path / "state.pth"
    path.write_bytes(b"mine")
    with pytest.raises(InvalidOption, match="given twice, or has a type that PyTorch lacks"):
        write_torch(path, pairs)
    assert path.read_bytes() == b"mine" and os.listdir(tmp_path) == ["state.pth"]


@backend_free
def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can not be written"):
        write_torch(tmp_path / "none" / "state.pth", [])


@backend_free
def test_arrays_are_taken_one_at_a_time(tmp_path: Path) -> None:
    def pairs() -> Iterator[tuple[str, np.ndarray]]:
        array = np.zeros(3, "f4")
        for number in range(3):
            array[:] = number
            yield f"w{number}", array

    write_torch(tmp_path / "state.pth", pairs())
    with read(tmp_path / "state.pth") as store:
        assert [array.read().tolist() for array in store.values()] == [[0] * 3, [1] * 3, [2] * 3]


@with_torch
@pytest.mark.parametrize("mmap", [False, True])
def test_pytorch_reads_it_as_weights_only(mmap: bool, tmp_path: Path) -> None:
    import torch

    write_torch(tmp_path / "state.pth", STATE.items())
    state = torch.load(tmp_path / "state.pth", weights_only=True, mmap=mmap)
    assert list(state) == list(STATE)
    for name, array in STATE.items():
        assert state[name].numpy().dtype == array.dtype
        np.testing.assert_array_equal(state[name].numpy(), array)


@with_torch
def test_module_loads_it_strictly(tmp_path: Path) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 1), torch.nn.BatchNorm3d(3))
    state = {
        name: np.full(value.shape, 2, value.numpy().dtype) for name, value in module.state_dict().items()
    }
    write_torch(tmp_path / "state.pth", state.items(), root="model")
    module.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True)["model"], strict=True)
    assert all(bool((value == 2).all()) for value in module.state_dict().values())
    # Files of before PyTorch counted batches lack the counter; a state dict without version may, too.
    del state["1.num_batches_tracked"]
    write_torch(tmp_path / "state.pth", state.items())
    module.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True), strict=True)
