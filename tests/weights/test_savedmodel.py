"""Variables of TensorFlow SavedModels, read without TensorFlow, and files made to deceive the reader."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kerasneuro.errors import WeightsCorrupt, WeightsNotFound
from kerasneuro.weights import read, wire
from kerasneuro.weights.crc32c import crc32c, masked
from kerasneuro.weights.graph_constants import scalar_constants
from kerasneuro.weights.sorted_table import MAGIC, read_table

NAMES = ("kwyk_bwn", "kwyk_bwn_multi", "kwyk_bvwn_multi_prior")
DATA = "variables.data-00000-of-00001"


# --- a writer, for what no honest program writes -------------------------------------------------------


def varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def header(shards: int = 1, order: int = 0) -> bytes:
    return field(1, shards) + (field(2, order) if order else b"")


def entry(
    values: np.ndarray,
    dtype: int = 1,
    offset: int = 0,
    size: int | None = None,
    shape: tuple[int, ...] | None = None,
    shard: int = 0,
    extra: bytes = b"",
) -> bytes:
    axes = b"".join(field(2, field(1, length)) for length in (values.shape if shape is None else shape))
    places = b"".join(field(key, value) for key, value in ((3, shard), (4, offset)) if value)
    crc = varint(6 << 3 | 5) + struct.pack("<I", masked(crc32c(values.tobytes())))
    return (
        field(1, dtype)
        + field(2, axes)
        + places
        + field(5, values.nbytes if size is None else size)
        + crc
        + extra
    )


def block(entries: list[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    body = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in entries)
    body += struct.pack("<II", 0, 1)
    kind = bytes([compression])
    return body + kind + struct.pack("<I", masked(crc32c(body + kind)))


def sorted_table(entries: list[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    data = block(entries, compression)
    meta = block([])
    handle = varint(0) + varint(len(data) - 5)
    index = block([(b"\xff", handle)])
    footer = varint(len(data)) + varint(len(meta) - 5)
    footer += varint(len(data) + len(meta)) + varint(len(index) - 5)
    return data + meta + index + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def write_model(folder: Path, entries: list[tuple[bytes, bytes]], data: bytes, compression: int = 0) -> Path:
    variables = folder / "variables"
    variables.mkdir(parents=True, exist_ok=True)
    (variables / "variables.index").write_bytes(sorted_table(entries, compression))
    (variables / DATA).write_bytes(data)
    return folder


VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


# --- what is read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_equals_what_tensorflow_stored(fixtures: Path, name: str) -> None:
    expected = np.load(fixtures / "nobrainer" / f"{name}.npz")
    keys = [key for key in expected.files if "|" in key or key == "global_step"]
    with read(fixtures / "nobrainer" / name) as store:
        assert store.format == "savedmodel" and store.path.name == name
        assert sorted(store) == list(store) == sorted(key.replace("|", "/") for key in keys)
        for key in keys:
            found = store[key.replace("|", "/")]
            np.testing.assert_array_equal(found.read(), expected[key])
            assert (found.shape, found.dtype) == (expected[key].shape, expected[key].dtype)


def test_the_folder_of_variables_is_accepted_and_parts_are_read(fixtures: Path) -> None:
    with read(fixtures / "nobrainer" / "kwyk_bwn" / "variables") as store:
        assert store.path.name == "kwyk_bwn"
        whole = store["layer_2/conv3d/v"].read()
        np.testing.assert_array_equal(store["layer_2/conv3d/v"].read((1, ..., 2)), whole[1, ..., 2])
        whole[:] = 0  # a fresh array, not a view of the file
        assert store["layer_2/conv3d/v"].read().any()


@pytest.mark.parametrize(("variant", "size"), [("bwn", 12_011_744), ("bvwn_multi_prior", 12_014_432)])
def test_a_full_size_model_has_the_published_bytes(
    fixtures: Path, tmp_path: Path, variant: str, size: int
) -> None:
    manifest = json.loads((fixtures / "nobrainer" / "kwyk_full_manifest.json").read_text())[variant]
    codes = {"float32": 1, "int64": 9}
    entries, offset, data = [(b"", header())], 0, bytearray()
    for index, (name, shape, dtype) in enumerate(sorted(manifest["variables"])):
        values = np.full(shape, index, dtype)
        entries.append((name.removesuffix(":0").encode(), entry(values, codes[dtype], offset)))
        data += values.tobytes()
        offset += values.nbytes
    assert offset == manifest["data_bytes"] == size
    with read(write_model(tmp_path, entries, bytes(data))) as store:
        assert store.nbytes == size and len(store) == manifest["n"]
        for index, key in enumerate(store):
            assert (store[key].read() == index).all()


def test_types_byte_orders_and_texts(tmp_path: Path) -> None:
    half = np.array([1.5, -2], np.float16)
    brain = np.array([0x3FC0, 0xC000], np.uint16)  # 1.5 and -2 as bfloat16
    text = np.frombuffer(b"abcd", np.uint8)
    entries = [
        (b"", header()),
        (b"a", entry(brain, 14)),
        (b"b", entry(half, 19, 4)),
        (b"c", entry(text, 7, 8, shape=())),
    ]
    with read(write_model(tmp_path / "little", entries, brain.tobytes() + half.tobytes() + b"abcd")) as store:
        assert list(store) == ["a", "b"]
        assert store["a"].dtype == np.float32 and store["b"].dtype == np.float16
        assert store["a"].read().tolist() == store["b"].read().tolist() == [1.5, -2]
    big = VALUES.astype(">f4")
    path = write_model(tmp_path / "big", [(b"", header(order=1)), (b"v", entry(big))], big.tobytes())
    np.testing.assert_array_equal(read(path)["v"].read(), VALUES)


def test_several_data_files(tmp_path: Path) -> None:
    entries = [(b"", header(2)), (b"a", entry(VALUES)), (b"b", entry(VALUES + 1, shard=1))]
    folder = write_model(tmp_path, entries, b"") / "variables"
    (folder / "variables.data-00000-of-00002").write_bytes(VALUES.tobytes())
    with pytest.raises(WeightsNotFound, match="00001-of-00002"):
        read(tmp_path)
    (folder / "variables.data-00001-of-00002").write_bytes((VALUES + 1).tobytes())
    np.testing.assert_array_equal(read(tmp_path)["b"].read(), VALUES + 1)


def test_keep_probability_is_found_in_the_graph(fixtures: Path) -> None:
    constants = scalar_constants(fixtures / "nobrainer" / "kwyk_bwn_multi")
    assert constants["layer_1/bernoulli/cond/scalar"] == pytest.approx(0.9)
    assert scalar_constants(fixtures / "nobrainer" / "kwyk_bvwn_multi_prior")[
        "layer_3/concrete_dropout/clip_by_value/Minimum/y"
    ] == pytest.approx(0.95)
    assert scalar_constants(fixtures) == {}


# --- the checksum --------------------------------------------------------------------------------------


def test_checksum_of_rfc_3720() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("length", [0, 1, 2048 * 16 - 1, 2048 * 16, 2048 * 16 + 5, 99_999])
def test_lanes_give_the_checksum_of_one_byte_after_the_other(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    assert crc32c(data) == state ^ 0xFFFFFFFF


# --- what is refused -----------------------------------------------------------------------------------

LIES: dict[str, tuple[list[tuple[bytes, bytes]], str]] = {
    "offset beyond the file": ([(b"v", entry(VALUES, offset=8))], "does not fit its data file"),
    "offset of 2^63": ([(b"v", entry(VALUES, offset=1 << 63))], "does not fit its data file"),
    "size beyond the file": ([(b"v", entry(VALUES, size=1 << 40, shape=(1 << 38,)))], "does not fit"),
    "size is not that of the shape": ([(b"v", entry(VALUES, size=20))], "needs 24 bytes"),
    "shape of absurd length": ([(b"v", entry(VALUES, shape=(1 << 62, 1 << 62)))], "needs"),
    "shape of many axes": ([(b"v", entry(VALUES, shape=(1,) * 40))], "40 axes"),
    "negative length": ([(b"v", entry(VALUES, shape=(2**64 - 1, 3)))], "impossible shape"),
    "unknown type": ([(b"v", entry(VALUES, dtype=99))], "unknown type 99"),
    "two variables share bytes": ([(b"a", entry(VALUES)), (b"b", entry(VALUES))], "overlaps"),
    "names twice": ([(b"a", entry(VALUES)), (b"a", entry(VALUES))], "ascending order"),
    "names not sorted": ([(b"b", entry(VALUES)), (b"a", entry(VALUES))], "ascending order"),
    "data file that is not there": ([(b"v", entry(VALUES, shard=3))], "data file 3 of 1"),
    "slices": ([(b"v", entry(VALUES, extra=field(7, b"")))], "slices"),
    "name that is no text": ([(b"\xff\xfe", entry(VALUES))], "not a text"),
    "field beyond its message": ([(b"v", field(1, 1) + b"\x12\x7f")], "past the end"),
    "old kind of field": ([(b"v", b"\x0b")], "unknown kind"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_lies_is_refused(tmp_path: Path, lie: str) -> None:
    entries, reason = LIES[lie]
    path = write_model(tmp_path, [(b"", header()), *entries], VALUES.tobytes())
    with pytest.raises(WeightsCorrupt, match=reason) as caught:
        read(path)
    assert "variables.index" in str(caught.value)


def test_header_is_needed_and_must_be_possible(tmp_path: Path) -> None:
    for index, head in enumerate(([], [(b"", header(0))], [(b"", header(1 << 30))])):
        path = write_model(tmp_path / str(index), [*head, (b"v", entry(VALUES))], VALUES.tobytes())
        with pytest.raises(WeightsCorrupt, match=r"no header|data files"):
            read(path)


def test_compressed_blocks_are_refused_by_name(tmp_path: Path) -> None:
    path = write_model(tmp_path, [(b"", header()), (b"v", entry(VALUES))], VALUES.tobytes(), compression=1)
    with pytest.raises(WeightsCorrupt, match="Snappy"):
        read(path)


@pytest.fixture
def copy(fixtures: Path, tmp_path: Path) -> Path:
    shutil.copytree(fixtures / "nobrainer" / "kwyk_bwn", tmp_path / "model", copy_function=shutil.copyfile)
    return tmp_path / "model"


@pytest.mark.parametrize(
    "cut",
    [lambda n: 0, lambda n: 10, lambda n: n // 2, lambda n: n - 1, lambda n: n - 48],
    ids=["to nothing", "to 10 bytes", "to one half", "by 1 byte", "by the footer"],
)
def test_a_truncated_index_is_refused(copy: Path, cut: Callable[[int], int]) -> None:
    path = copy / "variables" / "variables.index"
    data = path.read_bytes()
    path.write_bytes(data[: cut(len(data))])
    with pytest.raises(WeightsCorrupt):
        read(copy)


def test_no_changed_byte_of_the_index_goes_unnoticed(fixtures: Path) -> None:
    data = (fixtures / "nobrainer" / "kwyk_bwn" / "variables" / "variables.index").read_bytes()
    whole = [(key, bytes(value)) for key, value in read_table(data)]
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 0x55
        try:
            found = [(key, bytes(value)) for key, value in read_table(bytes(changed))]
        except WeightsCorrupt:
            continue
        assert found == whole  # only padding and the unused block of metadata may differ


def test_a_changed_value_is_refused_when_it_is_read(copy: Path) -> None:
    path = copy / "variables" / DATA
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with read(copy) as store:
        store["global_step"].read()
        with pytest.raises(WeightsCorrupt, match=r"checksum of 'logits/conv3d/v' differs"):
            store["logits/conv3d/v"].read()


def test_missing_and_cut_data_files(copy: Path) -> None:
    path = copy / "variables" / DATA
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsCorrupt, match="does not fit its data file"):
        read(copy)
    path.unlink()
    with pytest.raises(WeightsNotFound, match="missing beside the index"):
        read(copy)
    path.symlink_to("nowhere")
    with pytest.raises(WeightsNotFound, match="datalad get"):
        read(copy)


def test_an_index_that_was_not_fetched_is_named(copy: Path) -> None:
    index = copy / "variables" / "variables.index"
    index.unlink()
    index.symlink_to("nowhere")
    with pytest.raises(WeightsNotFound, match="datalad get"):
        read(copy)
    index.unlink()
    with pytest.raises(WeightsCorrupt, match="is a folder"):
        read(copy)


def test_a_damaged_graph_is_refused(copy: Path) -> None:
    graph = copy / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-5])
    with pytest.raises(WeightsCorrupt, match=r"saved_model\.pb is damaged"):
        scalar_constants(copy)


def test_numbers_of_protocol_buffers() -> None:
    assert wire.read_varint(varint(300), 0) == (300, 2)
    assert wire.read_varint(varint(2**64 - 1), 0) == (2**64 - 1, 10)
    for bad in (b"", b"\x80", b"\xff" * 10, b"\xff" * 9 + b"\x02"):
        with pytest.raises(WeightsCorrupt):
            wire.read_varint(bad, 0)
    assert math.isclose(
        struct.unpack("<f", bytes(dict(wire.fields(b"\x0d" + struct.pack("<f", 0.5)))[1]))[0], 0.5
    )
