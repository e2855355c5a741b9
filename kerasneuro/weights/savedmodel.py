"""Read the variables of a TensorFlow SavedModel without TensorFlow; its graph is never run.

``variables/variables.index`` names every variable with its type, shape, place and checksum;
``variables/variables.data-*`` hold the values. Formats: tensorflow/tensorflow,
core/protobuf/tensor_bundle.proto and core/framework/types.proto.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kerasneuro.errors import WeightsCorrupt, WeightsNotFound
from kerasneuro.weights import wire
from kerasneuro.weights.crc32c import crc32c, masked
from kerasneuro.weights.sorted_table import read_table
from kerasneuro.weights.store import LazyArray, WeightStore

FORMAT = "savedmodel"
INDEX = Path("variables") / "variables.index"
MOST_INDEX_BYTES = 64 << 20
MOST_SHARDS = 100_000
MOST_AXES = 32
STRING = 7
BFLOAT16 = 14
# Numbers of tensorflow.DataType.
DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    8: "complex64",
    9: "int64",
    10: "bool",
    17: "uint16",
    18: "complex128",
    19: "float16",
    22: "uint32",
    23: "uint64",
}


@dataclass(frozen=True)
class _Header:
    """What the index says about all variables."""

    shards: int
    order: Literal["<", ">"]


@dataclass(frozen=True)
class _Place:
    """One variable: its type, shape and bytes."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    nbytes: int
    crc: int


def is_savedmodel(path: Path) -> bool:
    """Say whether a folder is a SavedModel (or its folder of variables)."""
    return (path / INDEX).exists() or (path / INDEX).is_symlink() or (path / INDEX.name).is_file()


def open_savedmodel(path: Path) -> WeightStore:
    """List the variables of a SavedModel.

    Parameters
    ----------
    path : Path
        The folder, or the folder ``variables`` in it.

    Returns
    -------
    WeightStore
        Variable name -> array, in the order of the index (sorted); its ``path`` is the SavedModel folder.
        Texts (the object graph of TensorFlow 2) are left out.

    Raises
    ------
    WeightsNotFound
        If a file is missing.
    WeightsCorrupt
        If the index is damaged or names bytes that no file has; arrays are compared with their checksum when
        they are read.
    """
    folder = path if (path / INDEX.name).is_file() else path / INDEX.parent
    index = folder / INDEX.name
    try:
        header, places = _read_index(read_bounded(index, MOST_INDEX_BYTES))
        sizes = _shard_sizes(folder, header, places)
        _check_places(places, sizes)
    except WeightsCorrupt as error:
        raise WeightsCorrupt(f"{index} {error}; fetch it again") from error
    arrays = {
        name: _lazy(name, place, _shard(folder, header, place.shard), header.order)
        for name, place in places.items()
        if place.dtype != STRING
    }
    top = folder.parent if folder.name == INDEX.parent.name else folder
    return WeightStore(top, FORMAT, arrays)


def read_bounded(path: Path, most: int) -> bytes:
    """Read a whole file that must not be large.

    Raises
    ------
    WeightsNotFound
        If it can not be read.
    WeightsCorrupt
        If it has more than `most` bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        hint = "its content has not been fetched (datalad get)" if path.is_symlink() else "check the path"
        raise WeightsNotFound(f"{path} can not be read ({error.strerror or error}): {hint}") from error
    if len(data) > most:
        raise WeightsCorrupt(f"has more than {most} bytes, too many for what it should be")
    return data


def _read_index(data: bytes) -> tuple[_Header, dict[str, _Place]]:
    header, places = None, {}
    for key, value in read_table(data):
        if key == b"":
            header = _read_header(value)
        else:
            places[wire.text(memoryview(key))] = _read_place(value)
    if header is None:
        raise WeightsCorrupt("is damaged: it has no header")
    return header, places


def _read_header(message: memoryview) -> _Header:
    values = {key: value for key, value in wire.fields(message) if isinstance(value, int)}
    shards, big = values.get(1, 0), values.get(2, 0)
    if not 0 < shards <= MOST_SHARDS or big > 1:
        raise WeightsCorrupt(f"is damaged: {shards} data files, byte order {big}")
    return _Header(shards, ">" if big else "<")


def _read_place(message: memoryview) -> _Place:
    values: dict[int, int] = dict.fromkeys((1, 3, 4, 5), 0)
    shape: tuple[int, ...] = ()
    crc = 0
    for key, value in wire.fields(message):
        if key == 2:
            shape = _read_shape(wire.content(value))
        elif key == 6:
            crc = int.from_bytes(wire.content(value), "little")
        elif key == 7:
            raise WeightsCorrupt("holds a variable in slices, which is not supported: save it whole")
        elif key in values:
            values[key] = wire.number(value)
    return _Place(values[1], shape, values[3], values[4], values[5], crc)


def _read_shape(message: memoryview) -> tuple[int, ...]:
    shape = []
    for key, value in wire.fields(message):
        if key == 3 and value:
            raise WeightsCorrupt("holds a variable without a shape")
        if key == 2:
            dimension = {k: v for k, v in wire.fields(wire.content(value)) if isinstance(v, int)}
            shape.append(dimension.get(1, 0))
    if len(shape) > MOST_AXES or any(size >= 1 << 63 for size in shape):
        raise WeightsCorrupt(f"holds a variable of an impossible shape: {len(shape)} axes")
    return tuple(shape)


def _itemsize(dtype: int) -> int:
    return 2 if dtype == BFLOAT16 else np.dtype(DTYPES[dtype]).itemsize


def _shard(folder: Path, header: _Header, shard: int) -> Path:
    return folder / f"variables.data-{shard:05d}-of-{header.shards:05d}"


def _shard_sizes(folder: Path, header: _Header, places: Mapping[str, _Place]) -> dict[int, int]:
    sizes = {}
    for shard in sorted({place.shard for place in places.values()}):
        if shard >= header.shards:
            raise WeightsCorrupt(f"is damaged: it names data file {shard} of {header.shards}")
        path = _shard(folder, header, shard)
        try:
            sizes[shard] = path.stat().st_size
        except OSError as error:
            hint = "its content has not been fetched (datalad get)" if path.is_symlink() else "fetch it, too"
            raise WeightsNotFound(f"{path} is missing beside the index of variables: {hint}") from error
    return sizes


def _check_places(places: Mapping[str, _Place], sizes: Mapping[int, int]) -> None:
    """Prove that every variable lies inside its file, has the bytes of its shape, and shares none of them."""
    free = dict.fromkeys(sizes, 0)
    for name, place in sorted(places.items(), key=lambda item: (item[1].shard, item[1].offset)):
        if place.dtype not in DTYPES and place.dtype not in (STRING, BFLOAT16):
            raise WeightsCorrupt(f"is damaged: {name[:200]!r} is of the unknown type {place.dtype}")
        if place.offset + place.nbytes > sizes[place.shard]:
            raise WeightsCorrupt(
                f"does not fit its data file of {sizes[place.shard]} bytes: {name[:200]!r} would end at byte "
                f"{place.offset + place.nbytes}"
            )
        if place.nbytes and place.offset < free[place.shard]:
            raise WeightsCorrupt(f"is damaged: {name[:200]!r} overlaps another variable")
        free[place.shard] = max(free[place.shard], place.offset + place.nbytes)
        if place.dtype == STRING:
            continue
        expected = math.prod(place.shape) * _itemsize(place.dtype)
        if place.nbytes != expected:
            raise WeightsCorrupt(
                f"is damaged: {name[:200]!r} of shape {place.shape} needs {expected} bytes, "
                f"has {place.nbytes}"
            )


def _lazy(name: str, place: _Place, path: Path, order: Literal["<", ">"]) -> LazyArray:
    def load(selection: Any) -> np.ndarray:
        with path.open("rb") as file:
            file.seek(place.offset)
            data = file.read(place.nbytes)
        if len(data) != place.nbytes or masked(crc32c(data)) != place.crc:
            raise WeightsCorrupt(
                f"{path}: the checksum of {name!r} differs; the file is damaged, fetch it again"
            )
        if place.dtype == BFLOAT16:
            values = (np.frombuffer(data, f"{order}u2").astype(np.uint32) << 16).view(np.float32)
        else:
            dtype = np.dtype(DTYPES[place.dtype])
            values = np.frombuffer(data, dtype.newbyteorder(order)).astype(dtype)
        return np.array(values.reshape(place.shape)[selection])

    dtype = np.dtype("float32" if place.dtype == BFLOAT16 else DTYPES[place.dtype])
    return LazyArray(name, place.shape, dtype, load)
