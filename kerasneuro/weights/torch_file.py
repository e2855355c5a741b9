"""Read PyTorch weights without PyTorch and without running anything: zip, legacy and TorchScript files.

Layouts: pytorch/pytorch@v2.4.0, torch/serialization.py (zip, legacy), torch/csrc/jit/docs/serialization.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.weights.store import LazyArray, WeightStore
from kerasneuro.weights.torch_legacy import read_legacy
from kerasneuro.weights.torch_records import Record, Storage, Tensor, itemsize
from kerasneuro.weights.torch_zip import Block, ByteOrder, read_zip

MOST_DEPTH = 100
MOST_NODES = 500_000
MOST_TEXT = 4096


def open_torch(path: Path, format: str) -> WeightStore:
    """List the tensors of a PyTorch file.

    Parameters
    ----------
    path : Path
        The file.
    format : str
        "zip" (plain or TorchScript) or "legacy", as the first bytes tell.

    Returns
    -------
    WeightStore
        Keys join the names of dictionaries and modules with ".", as in the file: a checkpoint
        ``{"model": state}`` gives ``model.conv.weight``; `WeightStore.sub` takes the first name off.

    Raises
    ------
    WeightsCorrupt
        If the file is damaged, or asks for anything but tensors and settings.
    """
    file = path.open("rb")
    try:
        contents = read_zip(file) if format == "zip" else read_legacy(file)
        tensors = _tensors(contents.value)
        for tensor in tensors.values():
            _check_storage(tensor.storage, contents.blocks)
        arrays = {
            key: _lazy(key, tensor, contents.blocks[tensor.storage.key], file, contents.byte_order)
            for key, tensor in tensors.items()
        }
    except WeightsCorrupt as error:
        file.close()
        raise WeightsCorrupt(f"{path} {error}") from error
    except BaseException:
        file.close()
        raise
    return WeightStore(path, contents.format, arrays, attributes=_texts(contents.value), close=file.close)


@dataclass
class _Walk:
    """Count of the nodes seen, since shared parts could make a small pickle an endless tree."""

    nodes: int = 0

    def pairs(self, value: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        self.nodes += 1
        if depth > MOST_DEPTH or self.nodes > MOST_NODES:
            raise WeightsCorrupt("nests its contents too deeply, or in a cycle")
        if isinstance(value, Tensor):
            yield prefix, value
        for name, child in _children(value):
            yield from self.pairs(child, f"{prefix}.{name}" if prefix else str(name), depth + 1)


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Record):
        yield from _named(value.items)
        if isinstance(value.state, dict):
            yield from _named(value.state)
    elif isinstance(value, dict):
        yield from _named(value)
    elif isinstance(value, list | tuple):
        yield from enumerate(value)


def _named(mapping: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    return ((key, value) for key, value in mapping.items() if isinstance(key, str | int))


def _tensors(value: Any) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for key, tensor in _Walk().pairs(value, "", 0):
        if key in tensors:
            raise WeightsCorrupt(f"holds two tensors named {key!r}")
        tensors[key] = tensor
    return tensors


def _texts(value: Any) -> dict[str, str]:
    """Return the numbers and short texts at the top of a checkpoint: epoch, metrics, versions."""
    if not isinstance(value, dict):
        return {}
    plain = (str, int, float)
    return {
        key: str(item)[:MOST_TEXT]
        for key, item in value.items()
        if isinstance(key, str) and isinstance(item, plain) and (type(item) is not int or abs(item) < 1 << 63)
    }


def _check_storage(storage: Storage, blocks: Mapping[str, Block]) -> None:
    block = blocks.get(storage.key)
    if block is None:
        raise WeightsCorrupt(f"is not complete: the storage {storage.key!r} is missing; fetch it again")
    declared = storage.total * itemsize(storage.dtype)
    if declared != block.nbytes:
        raise WeightsCorrupt(
            f"declares {declared} bytes for the storage {storage.key!r}, found {block.nbytes}; fetch it again"
        )


def _lazy(key: str, tensor: Tensor, block: Block, file: IO[bytes], byte_order: ByteOrder) -> LazyArray:
    half = tensor.dtype == "bfloat16"
    stored = np.dtype("uint16" if half else tensor.dtype).newbyteorder(byte_order)
    returned = np.dtype("float32") if half else stored.newbyteorder("=")
    start = tensor.storage.start * itemsize(tensor.storage.dtype) + tensor.offset * stored.itemsize
    empty = 0 in tensor.shape
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)) + 1
    whole = not empty and start == 0 and reach * stored.itemsize == block.nbytes
    strides = tuple(stride * stored.itemsize for stride in tensor.strides)

    def load(selection: Any) -> np.ndarray:
        if empty:
            return np.zeros(tensor.shape, returned)[selection]
        if file.closed:
            raise ValueError("the file is closed")
        flat = np.memmap(file, stored, "r", offset=block.start + start, shape=(reach,))
        if whole and block.crc is not None and selection is ... and zlib.crc32(flat.data) != block.crc:
            raise WeightsCorrupt(f"the array {key!r} is damaged (its checksum differs); fetch the file again")
        view = np.asarray(
            np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)[selection]
        )
        if half:  # the upper half of a float32
            return np.asarray(view.astype(np.uint32, order="C") << np.uint32(16)).view(np.float32)
        return np.array(view, dtype=returned, order="C", subok=False)

    return LazyArray(key, tensor.shape, returned, load)
