"""Nobrainer's TFRecord files, read and written without TensorFlow.

A file is a sequence of records (length, checksum, ``tf.train.Example``, checksum), as a rule compressed by
gzip. An example holds ``feature/value`` and ``label/value`` (float32, C order), their shapes and affines.
Source: neuronets/nobrainer@0039cf8, ``nobrainer/tfrecord.py``.
"""

from __future__ import annotations

import glob
import gzip
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import nibabel
import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption, OutputError, WeightsCorrupt
from kerasneuro.training.scans.pairs import Pair
from kerasneuro.weights.crc32c import crc32c, masked
from kerasneuro.weights.wire import content, fields, read_varint, text

GZIP = b"\x1f\x8b"
MOST_BYTES = 1 << 33  # of one record
BYTES_LIST, INT_LIST = 1, 3


@dataclass(frozen=True, eq=False)
class Record:
    """One labelled scan.

    Attributes
    ----------
    image : numpy.ndarray
        Shape ``(X, Y, Z)``, float32.
    labels : numpy.ndarray
        Shape ``(X, Y, Z)``, or ``()`` for a single number, float32.
    affine : numpy.ndarray
        Shape ``(4, 4)``, float64; the identity where the record has none.
    """

    image: np.ndarray
    labels: np.ndarray
    affine: np.ndarray


def read_tfrecords(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], shape: Sequence[int] | None = None
) -> Iterator[Record]:
    """Go through the labelled scans of TFRecord files.

    Parameters
    ----------
    files : path, pattern or sequence of paths
        Such as ``"data_shard-*.tfrec"``.
    shape : sequence of int, optional
        Shape of the scans; by default the one that each record tells.

    Yields
    ------
    Record
        One at a time, in the order of the files.

    Raises
    ------
    InvalidImage
        If a file is missing, damaged, or holds something else.
    """
    for path in _list_files(files):
        try:
            for payload in _payloads(path):
                yield _record(payload, shape)
        except (WeightsCorrupt, InvalidImage, EOFError, zlib.error, OSError) as error:
            raise InvalidImage(f"{path} cannot be read as TFRecords of Nobrainer: {error}") from error


def unpack_tfrecords(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    shape: Sequence[int] | None = None,
) -> list[Pair]:
    """Write the labelled scans of TFRecord files as NIfTI, which can be read in any order.

    Parameters
    ----------
    files, shape
        As for `read_tfrecords`.
    folder : path
        Gets ``scan-00000.nii`` and ``scan-00000_labels.nii``, and so on.

    Returns
    -------
    list of Pair
        For `PatchDataset`.

    Raises
    ------
    InvalidImage
        If a file cannot be read, or its labels are single numbers.
    OutputError
        If a file cannot be written.
    """
    pairs, folder = [], Path(folder)
    for number, record in enumerate(read_tfrecords(files, shape)):
        if record.labels.ndim != 3:
            raise InvalidImage(
                "these TFRecords have one number per scan as label; expected label maps to train segmentation"
            )
        paths = folder / f"scan-{number:05d}.nii", folder / f"scan-{number:05d}_labels.nii"
        kinds = np.float32, np.float32 if (record.labels % 1).any() else np.int32
        for path, array, kind in zip(paths, (record.image, record.labels), kinds, strict=True):
            _save(nibabel.Nifti1Image(array.astype(kind), record.affine), path)
        pairs.append(Pair(paths[:1], paths[1], f"scan-{number:05d}"))
    return pairs


def write_tfrecords(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """Write labelled scans as Nobrainer does: one file, compressed by gzip.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    path = Path(path)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                with gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed:
                    for record in records:
                        payload = _example(record)
                        length = struct.pack("<Q", len(payload))
                        packed.write(length + _checksum(length) + payload + _checksum(payload))
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}") from error


def _list_files(files: Any) -> list[Path]:
    if isinstance(files, (str, os.PathLike)):
        found = sorted(glob.glob(os.fspath(files))) or [os.fspath(files)]
    else:
        found = [os.fspath(each) for each in files]
    paths = [Path(each) for each in found]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise InvalidImage(f"no TFRecord file at {', '.join(missing) or files}; name existing files")
    return paths


def _payloads(path: Path) -> Iterator[bytes]:
    """Yield the records of a file, their checksums compared."""
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(0)
        stream: IO[bytes] = gzip.GzipFile(fileobj=file) if start == GZIP else file  # type: ignore[assignment]
        while head := stream.read(8):
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length > MOST_BYTES or _checksum(head) != stream.read(4):
                raise InvalidImage("the length of a record is damaged; get the file again")
            payload = stream.read(length)
            if len(payload) < length or _checksum(payload) != stream.read(4):
                raise InvalidImage("a record is truncated or damaged; get the file again")
            yield payload


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked(crc32c(data)))


def _record(payload: bytes, shape: Sequence[int] | None) -> Record:
    features = dict(_features(payload))
    missing = [name for name in ("feature/value", "label/value") if not isinstance(features.get(name), bytes)]
    if missing:
        raise InvalidImage(f"a record has no {' and no '.join(missing)}, found {sorted(features)[:8]}")
    given = tuple(shape) if shape is not None else _shape(features)
    image = _floats(features["feature/value"])
    labels = _floats(features["label/value"])
    scalar = labels.size == 1 and features.get("label/rank", 0) == 0
    if image.size != np.prod(given) or not (scalar or labels.size == image.size):
        raise InvalidImage(
            f"a record has {image.size} voxels and {labels.size} labels, expected the shape {given}; give "
            "the shape of the scans"
        )
    affine = _floats(features.get("feature/affine/value", b""))
    matrix = affine.reshape(4, 4).astype(np.float64) if affine.size == 16 else np.eye(4)
    return Record(image.reshape(given), labels.reshape(() if scalar else given), matrix)


def _floats(value: Any) -> np.ndarray:
    return np.frombuffer(value if isinstance(value, bytes) else b"", dtype="<f4").astype(np.float32)


def _shape(features: dict[str, bytes | int]) -> tuple[int, ...]:
    """Take the shape from whole numbers, or from the floats that Nobrainer writes beside them."""
    sizes = [features.get(f"feature/shape/dim{axis}") for axis in range(3)]
    if all(isinstance(size, int) and size > 0 for size in sizes):
        return tuple(int(size) for size in sizes if size is not None)
    floats = _floats(features.get("feature/shape"))
    if floats.size != 3 or not (floats >= 1).all():
        raise InvalidImage("a record does not tell its shape; give the shape of the scans")
    return tuple(int(size) for size in floats)


def _features(payload: bytes) -> Iterator[tuple[str, bytes | int]]:
    """Yield name and first value of each feature of a ``tf.train.Example``; lists of floats are left out."""
    for _, message in fields(payload):
        for _, entry in fields(content(message)):
            parts = dict(fields(content(entry)))
            name = text(parts[1]) if 1 in parts else ""
            for kind, values in fields(content(parts.get(2, memoryview(b"")))):
                inner = content(values)
                if kind == BYTES_LIST:
                    yield name, bytes(next((content(value) for _, value in fields(inner)), b""))
                elif kind == INT_LIST:
                    value = next((value for _, value in fields(inner)), 0)
                    yield name, value if isinstance(value, int) else read_varint(value, 0)[0]


def _example(record: Record) -> bytes:
    if record.image.ndim != 3 or record.labels.ndim not in (0, 3):
        raise InvalidOption(
            "a record has an image (X, Y, Z) and labels of the same shape or a single number, found "
            f"{record.image.shape} and {record.labels.shape}"
        )
    named = {"feature": record.image, "feature/affine": record.affine, "label": record.labels}
    if record.labels.ndim:
        named["label/affine"] = record.affine
    entries: dict[str, bytes | int] = {}
    for name, array in named.items():
        entries[f"{name}/value"] = array.astype("<f4").tobytes()
        entries[f"{name}/dtype"] = b"float32"
        entries[f"{name}/rank"] = array.ndim
        entries |= {f"{name}/shape/dim{axis}": size for axis, size in enumerate(array.shape)}
    entries["feature/shape"] = np.array(record.image.shape, "<f4").tobytes()
    return _field(1, b"".join(_field(1, _entry(name, value)) for name, value in sorted(entries.items())))


def _entry(name: str, value: bytes | int) -> bytes:
    packed = value if isinstance(value, bytes) else _varint(value)
    kind = BYTES_LIST if isinstance(value, bytes) else INT_LIST
    return _field(1, name.encode()) + _field(2, _field(kind, _field(1, packed)))


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _save(image: Any, path: Path) -> None:
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            nibabel.save(image, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}") from error
