"""Find the bytes of one tensor of an ONNX file, prove that they are those of its shape, and read them.

Layout: onnx/onnx@v1.17.0, onnx/onnx.proto (TensorProto) and docs/ExternalData.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from kerasneuro.errors import WeightsCorrupt, WeightsNotFound
from kerasneuro.weights import wire
from kerasneuro.weights.store import LazyArray

MOST_AXES = 32
# Numbers of onnx.TensorProto.DataType; texts, complex numbers and those of less than a byte are no weights.
BOOL, FLOAT16, BFLOAT16 = 9, 10, 16
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    BOOL: "bool",
    FLOAT16: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    BFLOAT16: "float32",  # what it is returned as
}
# Numbers of the fields of onnx.TensorProto, and the types of which each list may hold values.
DIMS, DATA_TYPE, SEGMENT, TEXTS, NAME, EXTERNAL, LOCATION = 1, 2, 3, 6, 8, 13, 14
FLOATS, INTEGERS, LONGS, RAW, DOUBLES, UNSIGNED = 4, 5, 7, 9, 10, 11
LISTS = {
    FLOATS: {1},
    INTEGERS: {2, 3, 4, 5, 6, BOOL, FLOAT16, BFLOAT16},
    LONGS: {7},
    DOUBLES: {11},
    UNSIGNED: {12, 13},
}
VARIABLE_LENGTH = {INTEGERS, LONGS, UNSIGNED}
EMPTY = memoryview(b"")
Fields = Callable[[memoryview], Iterator[tuple[int, int | memoryview]]]
Place = Callable[[memoryview], tuple[int, int]]


@dataclass
class _Parts:
    """The fields of a TensorProto as they stand in the file."""

    name: str = ""
    dtype: int = 0
    location: int = 0
    shape: list[int] = field(default_factory=list)
    external: dict[str, str] = field(default_factory=dict)
    pieces: list[tuple[int, memoryview]] = field(default_factory=list)


@dataclass(frozen=True)
class _Bytes:
    """Where the values lie: pieces of a file by first byte and length, of fixed or of variable length."""

    path: Path
    spans: tuple[tuple[int, int], ...]
    variable_length: bool = False


def read_tensor(message: memoryview, path: Path, place: Place, fields: Fields = wire.fields) -> LazyArray:
    """Read the description of a tensor and check it; no value is read yet.

    Parameters
    ----------
    message : memoryview
        A serialised TensorProto.
    path : Path
        The ONNX file; external data must lie in its folder, or below.
    place : callable
        Returns the first byte and the length of a part of `message` in the file.
    fields : callable, optional
        `wire.fields`, or one that also counts.

    Returns
    -------
    LazyArray
        The values in C order; bfloat16 is returned as float32.

    Raises
    ------
    WeightsCorrupt
        If type, shape and bytes do not belong together, or the bytes lie outside the folder.
    WeightsNotFound
        If the file of external data is missing.
    """
    parts = _read_parts(message, fields)
    what = repr(parts.name[:200])
    nbytes = _declared_bytes(what, parts)
    if parts.location == 1 and not parts.pieces:
        source = _external_bytes(what, parts.external, path, nbytes)
    elif parts.location == 0:
        source = _own_bytes(what, parts, path, place, nbytes)
    else:
        raise WeightsCorrupt(f"is damaged: the place of {what} is neither this file nor another")
    return _lazy(parts.name, parts.dtype, tuple(parts.shape), source)


def _read_parts(message: memoryview, fields: Fields) -> _Parts:
    parts = _Parts()
    for key, value in fields(message):
        if key == DIMS:
            packed = not isinstance(value, int)
            parts.shape += _varints(bytes(value)).tolist() if packed else [wire.number(value)]
        elif key == DATA_TYPE:
            parts.dtype = wire.number(value)
        elif key == LOCATION:
            parts.location = wire.number(value)
        elif key == NAME:
            parts.name = wire.text(value)
        elif key == EXTERNAL:
            pair = dict(fields(wire.content(value)))
            parts.external[wire.text(pair.get(1, EMPTY))] = wire.text(pair.get(2, EMPTY))
        elif key == SEGMENT:
            raise WeightsCorrupt("holds a tensor in segments, which is not supported: save it whole")
        elif key in (RAW, TEXTS) or key in LISTS:
            parts.pieces.append((key, wire.content(value)))
    return parts


def _declared_bytes(what: str, parts: _Parts) -> int:
    """Return the bytes that the shape needs when each value has its plain width."""
    if parts.dtype not in DTYPES:
        raise WeightsCorrupt(f"holds {what} of the type {parts.dtype}, expected real numbers")
    # The product of the other axes must fit, too: an axis of no length does not make an array possible.
    extent = math.prod(size for size in parts.shape if size)
    if len(parts.shape) > MOST_AXES or extent * 8 >= 1 << 63:
        raise WeightsCorrupt(f"declares an impossible shape for {what}: {parts.shape[:MOST_AXES]}")
    return math.prod(parts.shape) * _stored(parts.dtype).itemsize


def _stored(dtype: int) -> np.dtype[Any]:
    """Return the type of the plain bytes."""
    name = {BOOL: "uint8", BFLOAT16: "uint16"}.get(dtype, DTYPES[dtype])
    return np.dtype(name).newbyteorder("<")


def _own_bytes(what: str, parts: _Parts, path: Path, place: Place, nbytes: int) -> _Bytes:
    kinds = {kind for kind, _ in parts.pieces}
    kind = kinds.pop() if kinds else RAW
    if kinds or (kind == RAW and len(parts.pieces) > 1) or (kind != RAW and parts.dtype not in LISTS[kind]):
        raise WeightsCorrupt(f"is damaged: {what} has its values twice, or as another type")
    pieces = [piece for _, piece in parts.pieces]
    variable_length = kind in VARIABLE_LENGTH
    found = sum(map(_count_varints, pieces)) if variable_length else sum(map(len, pieces))
    expected = math.prod(parts.shape) if variable_length else nbytes
    if found != expected:
        unit = "values" if variable_length else "bytes"
        raise WeightsCorrupt(
            f"is damaged: {what} of shape {parts.shape} needs {expected} {unit}, has {found}; fetch it again"
        )
    return _Bytes(path, tuple(place(piece) for piece in pieces if len(piece)), variable_length)


def _external_bytes(what: str, external: Mapping[str, str], path: Path, nbytes: int) -> _Bytes:
    target = _inside(what, external.get("location", ""), path.parent)
    numbers = [external.get("offset", "0"), external.get("length", str(nbytes))]
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in numbers):
        raise WeightsCorrupt(f"is damaged: the place of {what} in {target.name} is {numbers}")
    (offset, length), size = map(int, numbers), target.stat().st_size
    if length != nbytes:
        raise WeightsCorrupt(f"is damaged: {what} needs {nbytes} bytes, {length} are listed in {target.name}")
    if offset + nbytes > size:
        raise WeightsCorrupt(
            f"does not fit {target.name} of {size} bytes: {what} would end at byte {offset + nbytes}; "
            "fetch both files again"
        )
    return _Bytes(target, ((offset, nbytes),) if nbytes else ())


def _inside(what: str, location: str, folder: Path) -> Path:
    """Return the file of external data; refuse every way out of the folder, that of a link included."""
    parts = PurePosixPath(location).parts
    rooted = location.startswith("/") or PureWindowsPath(location).anchor
    if not parts or rooted or ".." in parts or "\\" in location or "\0" in location:
        raise WeightsCorrupt(f"keeps {what} in {location[:200]!r}, which leads outside its folder")
    target = folder / location
    if not target.exists():
        hint = "its content has not been fetched (datalad get)" if target.is_symlink() else "fetch it, too"
        raise WeightsNotFound(f"{target}, which holds the values of {what}, is missing: {hint}")
    real = target.resolve()
    if not real.is_relative_to(folder.resolve()) or not real.is_file():
        raise WeightsCorrupt(
            f"keeps {what} in {location[:200]!r}, a link that leads outside its folder; "
            "copy both files into one folder"
        )
    return real


def _lazy(name: str, dtype: int, shape: tuple[int, ...], source: _Bytes) -> LazyArray:
    returned = np.dtype(DTYPES[dtype])

    def load(selection: Any) -> np.ndarray:
        if not source.spans:
            return np.array(np.zeros(shape, returned)[selection])
        if source.variable_length:
            return np.array(_from_varints(_join(source), dtype).reshape(shape)[selection])
        stored = _map(source, _stored(dtype), shape)
        return _as_returned(np.asarray(stored[selection]), dtype)

    return LazyArray(name, shape, returned, load)


def _map(source: _Bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Map the file, so that only what is selected is read; values in several pieces are read whole."""
    if len(source.spans) > 1:
        return np.frombuffer(_join(source), dtype).reshape(shape)
    return np.memmap(source.path, dtype, "r", offset=source.spans[0][0], shape=shape)


def _join(source: _Bytes) -> bytes:
    pieces = []
    with source.path.open("rb") as file:
        for start, length in source.spans:
            file.seek(start)
            pieces.append(file.read(length))
    if sum(map(len, pieces)) != sum(length for _, length in source.spans):
        raise ValueError(f"{source.path} became shorter meanwhile")
    return b"".join(pieces)


def _as_returned(stored: np.ndarray, dtype: int) -> np.ndarray:
    if dtype == BFLOAT16:  # the upper half of a float32
        return np.asarray(stored.astype(np.uint32, order="C") << np.uint32(16)).view(np.float32)
    return np.array(stored, dtype=DTYPES[dtype], order="C", subok=False)


def _from_varints(data: bytes, dtype: int) -> np.ndarray:
    """Decode a list of integers, or of the bit patterns of half-precision numbers."""
    values = _varints(data)
    if dtype in (FLOAT16, BFLOAT16):
        bits = values.astype(np.uint16)
        if not np.array_equal(bits, values):
            raise ValueError("a number has more than 16 bits")
        return bits.view(np.float16) if dtype == FLOAT16 else _as_returned(bits, BFLOAT16)
    wide = values if np.dtype(DTYPES[dtype]).kind == "u" else values.view(np.int64)
    narrow = wide.astype(DTYPES[dtype])
    if not np.array_equal(narrow, wide):
        raise ValueError(f"a number does not fit {DTYPES[dtype]}")
    return narrow


def _count_varints(data: memoryview) -> int:
    """Count the numbers of a list by their last bytes, which alone are less than 128."""
    values = np.frombuffer(data, np.uint8)
    if len(values) and values[-1] >= 128:
        raise WeightsCorrupt("is damaged: a number reaches past its end")
    return int(np.count_nonzero(values < 128))


def _varints(data: bytes) -> np.ndarray:
    """Decode a list of variable-length numbers: 64 bits, without sign."""
    stored = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(stored < 128)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.intp)[: len(ends)]
    lengths = ends - starts + 1
    most = int(lengths.max(initial=0))
    if most > wire.LONGEST_VARINT or (len(ends) and ends[-1] + 1 != len(stored)):
        raise WeightsCorrupt("is damaged: a number reaches past its end or is too large")
    values = np.zeros(len(ends), np.uint64)
    for place in range(most):
        longer = np.flatnonzero(lengths > place)
        low = stored[starts[longer] + place].astype(np.uint64) & np.uint64(127)
        values[longer] |= low << np.uint64(7 * place)
    return values
