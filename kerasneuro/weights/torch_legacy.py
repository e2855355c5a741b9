"""Find the pickle and the storages of a file written by ``torch.save`` before PyTorch 1.6 (no zip)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import IO

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.weights import torch_pickle
from kerasneuro.weights.torch_records import Storage, itemsize
from kerasneuro.weights.torch_zip import Block, Contents

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def read_legacy(file: IO[bytes]) -> Contents:
    """Read the pickle of a legacy file and locate its storages, which follow it.

    Five pickles: magic number, protocol, type sizes, object, order of the storages. Then for each storage its
    number of elements (int64) and the elements, little endian.

    Parameters
    ----------
    file : binary file
        Open for reading.

    Returns
    -------
    Contents
        Format "torch-legacy".

    Raises
    ------
    WeightsCorrupt
        If it is no such file, or is damaged.
    """
    end = file.seek(0, 2)
    file.seek(0)
    if _next(file).value != MAGIC:
        raise WeightsCorrupt(
            "is a Python pickle but not a PyTorch file; expected a state dict written by torch.save"
        )
    protocol, writer, pickle, keys = _next(file).value, _next(file).value, _next(file), _next(file).value
    if protocol != PROTOCOL or not isinstance(writer, dict):
        raise WeightsCorrupt(f"has the unknown PyTorch protocol {str(protocol)[:50]}")
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or len(set(keys)) != len(keys)
    ):
        raise WeightsCorrupt("does not list its storages")
    blocks = _locate(file, keys, _element_sizes(pickle.storages), end)
    if file.tell() != end:
        raise WeightsCorrupt(f"goes on for {end - file.tell()} bytes after its last storage; fetch it again")
    return Contents("torch-legacy", pickle.value, blocks)


def _locate(file: IO[bytes], keys: list[str], sizes: dict[str, int], end: int) -> dict[str, Block]:
    """Step over the storages from the current position, and note where each lies."""
    blocks = {}
    for key in keys:
        header = file.read(8)
        if len(header) < 8 or key not in sizes:
            raise WeightsCorrupt(f"is not complete: the storage {key[:50]!r} is missing; fetch it again")
        count = struct.unpack("<q", header)[0]
        start = file.tell()
        nbytes = count * sizes[key]
        if count < 0 or start + nbytes > end:
            raise WeightsCorrupt(
                f"is not complete: the storage {key[:50]!r} reaches past its end; fetch it again"
            )
        blocks[key] = Block(start, nbytes)
        file.seek(start + nbytes)
    return blocks


def _next(file: IO[bytes]) -> torch_pickle.Pickle:
    """Interpret the pickle at the current position and move behind it."""
    start = file.tell()
    pickle = torch_pickle.load(file.read(torch_pickle.MOST_BYTES))
    file.seek(start + pickle.length)
    return pickle


def _element_sizes(storages: Iterable[Storage]) -> dict[str, int]:
    """Return the bytes per element of each storage that the object mentions."""
    sizes: dict[str, int] = {}
    for storage in storages:
        size = itemsize(storage.dtype)
        if sizes.setdefault(storage.key, size) != size:
            raise WeightsCorrupt(f"gives the storage {storage.key[:50]!r} two types")
    return sizes
