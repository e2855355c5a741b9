"""Read the table of sorted keys in which TensorFlow writes the index of its variables (LevelDB's format)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.weights.crc32c import crc32c, masked
from kerasneuro.weights.wire import read_varint

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
TRAILER = struct.Struct("<BI")  # after each block: kind of compression, masked checksum
COMPRESSIONS = {1: "Snappy"}


def read_table(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Go through the keys and values of a table.

    Parameters
    ----------
    data : bytes
        The whole file.

    Yields
    ------
    key : bytes
        Strictly ascending.
    value : memoryview
        A view of `data`.

    Raises
    ------
    WeightsCorrupt
        If it is no such table, is cut off, or a checksum differs.
    """
    if len(data) < FOOTER_BYTES or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise WeightsCorrupt("is not an index of TensorFlow variables, or is cut off at its end")
    view = memoryview(data)
    _, position = _handle(view[-FOOTER_BYTES:], 0)
    handle, _ = _handle(view[-FOOTER_BYTES:], position)
    previous = None
    for _, value in _entries(_block(view, *handle)):
        for key, entry in _entries(_block(view, *_handle(value, 0)[0])):
            if previous is not None and key <= previous:
                raise WeightsCorrupt("is damaged: its keys are not in ascending order")
            yield key, entry
            previous = key


def _handle(view: memoryview, start: int) -> tuple[tuple[int, int], int]:
    """Return offset and size of a block, and where the next thing starts."""
    offset, start = read_varint(view, start)
    size, start = read_varint(view, start)
    return (offset, size), start


def _block(view: memoryview, offset: int, size: int) -> memoryview:
    end = offset + size
    if end + TRAILER.size > len(view) - FOOTER_BYTES:
        raise WeightsCorrupt("is damaged: a block reaches past its end")
    compression, stored = TRAILER.unpack(view[end : end + TRAILER.size])
    if masked(crc32c(view[offset : end + 1])) != stored:
        raise WeightsCorrupt("is damaged: the checksum of a block differs")
    if compression:
        name = COMPRESSIONS.get(compression, f"method {compression}")
        raise WeightsCorrupt(f"is compressed ({name}), which TensorFlow does not do for variables")
    return view[offset:end]


def _entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Go through a block: each key is stored as what differs from the one before it."""
    if len(block) < 4:
        raise WeightsCorrupt("is damaged: a block is too short")
    (restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise WeightsCorrupt("is damaged: a block is shorter than its list of restarts")
    key, position = b"", 0
    while position < end:
        shared, position = read_varint(block, position)
        own, position = read_varint(block, position)
        length, position = read_varint(block, position)
        if shared > len(key) or own + length > end - position:
            raise WeightsCorrupt("is damaged: an entry reaches past its block")
        key = key[:shared] + bytes(block[position : position + own])
        position += own
        yield key, block[position : position + length]
        position += length
