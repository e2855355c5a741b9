"""The initialisers of ONNX files: every type and layout, data in other files, files of real exporters."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasneuro.errors import WeightsCorrupt, WeightsNotFound
from kerasneuro.weights import onnx_file, read

pytestmark = pytest.mark.backend_free
MAKE = runpy.run_path(str(Path(__file__).parents[1] / "hostile" / "onnx_files.py"))
model, tensor, part, number, varint, external = (
    MAKE[name] for name in ("model", "tensor", "part", "number", "varint", "external")
)
EXPORTED = ("arunet_v4_dyn.onnx", "arunet_v4_dynamo_static_opset18.onnx", "unet3d_bn_resize_dyn.onnx")
BFLOAT16 = 16


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(*tensors: bytes, **options: bytes) -> Path:
        path = tmp_path / "model"
        path.write_bytes(model(*tensors, **options))
        return path

    return write


def only(path: Path) -> np.ndarray:
    with read(path) as store:
        (array,) = store.values()
        values = array.read()
        assert (values.dtype, values.shape) == (array.dtype, array.shape)
        return values


# --- real exporters ------------------------------------------------------------------------------------


def test_initialisers_equal_the_exported_state_dict(fixtures: Path) -> None:
    folder = fixtures / "hsf"
    with read(folder / EXPORTED[0]) as store, read(folder / "arunet_v4_dyn.state_dict.pth") as state:
        assert (store.format, len(store)) == ("onnx", 251)
        assert store.attributes == {"producer": "pytorch 2.13.0", "ir_version": "8", "opset": "ai.onnx 17"}
        shared = [name for name in store if name in state]
        assert len(shared) == 131  # The exporter renames what it has transposed or merged.
        for name in shared:
            np.testing.assert_array_equal(store[name].read(), state[name].read())


@pytest.mark.optional
@pytest.mark.parametrize("name", EXPORTED)
def test_values_equal_those_of_the_package_onnx(fixtures: Path, name: str) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(fixtures / "hsf" / name).graph
    with read(fixtures / "hsf" / name) as store:
        assert list(store) == [item.name for item in graph.initializer]
        for item in graph.initializer:
            expected = onnx.numpy_helper.to_array(item)
            assert store[item.name].dtype == expected.dtype
            np.testing.assert_array_equal(store[item.name].read(), expected)


# --- types and layouts ---------------------------------------------------------------------------------

VALUES = {
    1: np.array([0, -1.5, np.inf, 3e-40], "<f4"),
    2: np.array([0, 1, 127, 255], "<u1"),
    3: np.array([0, -1, 127, -128], "<i1"),
    4: np.array([0, 1, 300, 65535], "<u2"),
    5: np.array([0, -1, 300, -32768], "<i2"),
    6: np.array([0, -1, 1 << 20, -(1 << 31)], "<i4"),
    7: np.array([0, -1, 1 << 40, -(1 << 63)], "<i8"),
    9: np.array([False, True, True, False]),
    10: np.array([0, -1.5, 65504, 6e-8], "<f2"),
    11: np.array([0, -1.5, np.inf, 1e-310], "<f8"),
    12: np.array([0, 1, 1 << 20, (1 << 32) - 1], "<u4"),
    13: np.array([0, 1, 1 << 40, (1 << 64) - 1], "<u8"),
}
LIST_FIELDS = {1: 4, 7: 7, 11: 10, 12: 11, 13: 11}  # the others are in int32_data


def typed(dtype: int, values: np.ndarray) -> bytes:
    """The values in the list that belongs to their type."""
    if values.dtype.kind == "f" and dtype != 10:
        return part(LIST_FIELDS[dtype], values.tobytes())
    bits = values.view(np.uint16) if dtype == 10 else values
    return part(LIST_FIELDS.get(dtype, 5), b"".join(varint(int(value)) for value in bits))


@pytest.mark.parametrize("layout", ["raw", "typed"])
@pytest.mark.parametrize("dtype", VALUES)
def test_every_type(write: Callable[..., Path], dtype: int, layout: str) -> None:
    values = VALUES[dtype]
    field = part(9, values.tobytes()) if layout == "raw" else typed(dtype, values)
    path = write(tensor(2, 2, dtype=dtype, values=field))
    np.testing.assert_array_equal(only(path), values.reshape(2, 2))
    assert only(path).dtype == values.dtype


@pytest.mark.parametrize("layout", ["raw", "typed"])
def test_bfloat16_becomes_float32(write: Callable[..., Path], layout: str) -> None:
    expected = np.array([0, -1.5, 3.0e38, 1e-38], "<f4").view("<u4") & 0xFFFF0000
    bits = (expected >> 16).astype("<u2")
    field = part(9, bits.tobytes()) if layout == "raw" else part(5, b"".join(map(varint, bits.tolist())))
    found = only(write(tensor(4, dtype=BFLOAT16, values=field)))
    np.testing.assert_array_equal(found, expected.view("<f4"))


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=40))
def test_lists_of_integers(tmp_path_factory: pytest.TempPathFactory, values: list[int]) -> None:
    path = tmp_path_factory.mktemp("onnx") / "model"
    path.write_bytes(model(tensor(len(values), dtype=7, values=part(7, b"".join(map(varint, values))))))
    np.testing.assert_array_equal(only(path), np.array(values, "i8"))


def test_scalars_empty_arrays_and_pieces(write: Callable[..., Path]) -> None:
    four = VALUES[1].tobytes()
    pieces = part(4, four[:8]) + part(4, four[8:])
    packed_shape = part(1, b"\2\2") + number(2, 1) + part(8, "packed") + part(9, four)
    path = write(
        tensor(name="scalar", values=part(9, four[:4])),
        tensor(3, 0, name="empty", values=b""),
        tensor(4, name="pieces", values=pieces),
        packed_shape,
    )
    with read(path) as store:
        shapes = {name: array.read().shape for name, array in store.items()}
        assert shapes == {"scalar": (), "empty": (3, 0), "pieces": (4,), "packed": (2, 2)}
        np.testing.assert_array_equal(store["pieces"].read(), VALUES[1])
        np.testing.assert_array_equal(store["packed"].read((slice(None), 1)), VALUES[1].reshape(2, 2)[:, 1])


@pytest.mark.parametrize(
    ("dtype", "value"), [(2, 256), (2, -1), (3, 128), (6, 1 << 31), (10, 1 << 16), (BFLOAT16, -1)]
)
def test_a_number_that_its_type_cannot_hold(write: Callable[..., Path], dtype: int, value: int) -> None:
    path = write(tensor(1, dtype=dtype, values=part(5, varint(value))))
    with pytest.raises(WeightsCorrupt, match="can not be read: a number"):
        only(path)


def test_unknown_fields_and_other_opsets_are_passed_over(write: Callable[..., Path]) -> None:
    other = part(8, part(1, "com.example") + number(2, 3))
    path = write(tensor(4), graph=part(2, "main") + part(1, b"\x22\2If"), more=other + number(99, 1))
    with read(path) as store:
        assert store.attributes["opset"] == "ai.onnx 17, com.example 3"
        assert store.attributes["producer"] == "maker 1.0"


def test_the_number_of_fields_is_bounded(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tensor(4), graph=part(1, b"") * 50)
    read(path).close()
    monkeypatch.setattr(onnx_file, "MOST_FIELDS", 40)
    with pytest.raises(WeightsCorrupt, match="more than 40 fields"):
        read(path)


def test_a_file_that_became_shorter(write: Callable[..., Path]) -> None:
    path = write(tensor(4))
    with read(path) as store:
        path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(WeightsCorrupt, match="can not be read"):
            store["weight"].read()


def test_saved_model_protocol_buffer_is_not_taken_for_onnx(tmp_path: Path) -> None:
    path = tmp_path / "saved_model.pb"
    path.write_bytes(number(1, 1) + part(2, b"graph"))
    with pytest.raises(WeightsCorrupt, match="unknown kind"):
        read(path)


# --- data in other files -------------------------------------------------------------------------------


def test_external_data(write: Callable[..., Path], tmp_path: Path) -> None:
    four = VALUES[1].tobytes()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "data.bin").write_bytes(b"head" + four)
    path = write(
        tensor(4, name="a", values=external("inner/data.bin", offset="4")),
        tensor(2, name="b", values=external("inner/data.bin", offset="12", length=None)),
        tensor(0, name="none", values=external("inner/data.bin", length="0")),
    )
    with read(path) as store:
        np.testing.assert_array_equal(store["a"].read(), VALUES[1])
        np.testing.assert_array_equal(store["b"].read(slice(1, 2)), VALUES[1][3:])
        assert store["none"].read().shape == (0,)


def test_missing_external_data(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(tensor(4, values=external("data.bin")))
    with pytest.raises(WeightsNotFound, match=r"data\.bin, which holds the values of 'weight', is missing"):
        read(path)
    (tmp_path / "data.bin").symlink_to(tmp_path / ".git/annex/objects/none")
    with pytest.raises(WeightsNotFound, match="datalad get"):
        read(path)


def test_a_link_inside_the_folder_is_followed(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(VALUES[1].tobytes())
    (tmp_path / "data.bin").symlink_to("real.bin")
    np.testing.assert_array_equal(only(write(tensor(4, values=external("data.bin")))), VALUES[1])
