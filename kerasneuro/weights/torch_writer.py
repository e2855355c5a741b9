"""Write a PyTorch state dict without PyTorch: tensors alone, readable by ``torch.load(weights_only=True)``.

The layout is that of pytorch/pytorch@v2.4.0, torch/serialization.py (zip); `torch_zip` reads it. The pickle
is put together from its few instructions, and names nothing but tensors, storages and an ordered dictionary.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.weights.torch_records import STORAGES
from kerasneuro.weights.whole_file import whole_file

ROOT = "archive"
VERSION = b"3\n"
# NumPy type -> torch.<name>Storage.
STORAGE_OF = {dtype: name for name, dtype in STORAGES.items() if name != "UntypedStorage"}
# PyTorch lets the numbers of a tensor begin at a multiple of this, so that they can be mapped into memory.
ALIGNMENT = 64
LOCAL_HEADER_BYTES = 30
PADDING_HEADER = struct.Struct("<2sH")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # A zip file needs a date; a fixed one makes equal weights equal files.
UNIX = 3


def write_torch(path: str | Path, arrays: Iterable[tuple[str, np.ndarray]], *, root: str = "") -> None:
    """Write a state dict, one tensor at a time.

    Parameters
    ----------
    path : str or Path
        Target; an existing file is replaced once the new one is complete.
    arrays : iterable of (str, numpy.ndarray)
        Keys such as ``conv.weight`` and values, in the order of the state dict.
    root : str
        Name under which a dictionary holds the state dict, such as ``model_state_dict``; empty for the state
        dict alone.

    Raises
    ------
    InvalidOption
        If a key is repeated, or an array has a type that PyTorch lacks.
    OutputError
        If the file can not be written.
    """
    with (
        whole_file(Path(path)) as partial,
        partial.open("wb") as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        items: dict[str, bytes] = {}
        for number, (key, array) in enumerate(arrays):
            values = np.asarray(array)
            if key in items or values.dtype.name not in STORAGE_OF:
                raise InvalidOption(
                    f"the array {key!r} ({values.dtype}) is given twice, or has a type that PyTorch lacks"
                )
            items[key] = pickle_tensor(number, values.shape, STORAGE_OF[values.dtype.name])
            little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            _add(archive, file, f"data/{number}", little.reshape(-1).view(np.uint8).data)
        state = pickle_dictionary(items)
        value = pickle_dictionary({root: state}) if root else state
        _add(archive, file, "data.pkl", b"\x80\x02" + value + b".")
        _add(archive, file, "byteorder", b"little")
        _add(archive, file, "version", VERSION)


def _add(archive: zipfile.ZipFile, file: IO[bytes], name: str, data: bytes | memoryview) -> None:
    """Write one member, unpacked, its bytes at a multiple of the alignment."""
    info = zipfile.ZipInfo(f"{ROOT}/{name}", EARLIEST)
    info.create_system = UNIX
    start = file.tell() + LOCAL_HEADER_BYTES + len(info.filename) + PADDING_HEADER.size
    padding = -start % ALIGNMENT
    info.extra = PADDING_HEADER.pack(b"FB", padding) + b"Z" * padding
    archive.writestr(info, data)


def pickle_dictionary(items: dict[str, bytes]) -> bytes:
    """Pickle an ordered dictionary of values that are pickled already."""
    pairs = b"".join(pickle_text(key) + value for key, value in items.items())
    return _empty_dictionary() + b"(" + pairs + b"u"


def pickle_tensor(number: int, shape: tuple[int, ...], storage: str) -> bytes:
    """Pickle a contiguous tensor that fills its storage."""
    strides = [int(np.prod(shape[axis + 1 :], dtype=object)) for axis in range(len(shape))]
    size = pickle_integer(int(np.prod(shape, dtype=object)))
    where = _gather(
        pickle_text("storage"), _mention("torch", storage), pickle_text(str(number)), pickle_text("cpu"), size
    )
    axes = [_gather(*map(pickle_integer, numbers)) for numbers in (shape, strides)]
    no_gradient = b"\x89"
    arguments = _gather(where + b"Q", pickle_integer(0), *axes, no_gradient, _empty_dictionary())
    return _mention("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def pickle_text(text: str) -> bytes:
    """Pickle a text."""
    encoded = text.encode("utf-8")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def pickle_integer(number: int) -> bytes:
    """Pickle an integer that is not negative."""
    if number < 1 << 31:
        return b"J" + struct.pack("<i", number)
    encoded = number.to_bytes(number.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(encoded)]) + encoded


def _mention(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _gather(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _empty_dictionary() -> bytes:
    return _mention("collections", "OrderedDict") + b")R"
