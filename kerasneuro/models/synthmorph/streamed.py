"""Sum the rows of arrays, each times a factor, while their file streams by and goes into a digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.fetching import digest_file
from kerasneuro.fetching.digest import Hasher, new_hasher
from kerasneuro.weights import LazyArray

BLOCK_BYTES = 1 << 20  # read, hashed and added at a time: fits into a processor's own cache


@dataclass(frozen=True)
class Summand:
    """An array of the file whose rows are added to a total.

    Attributes
    ----------
    array : LazyArray
        (rows, n), or (n,) for a single row.
    factors : numpy.ndarray
        One for each row.
    total : numpy.ndarray
        (n,) float32, changed in place. NaN or infinity in the array remain in it, whatever the factor.
    """

    array: LazyArray
    factors: np.ndarray
    total: np.ndarray

    def add(self, block: np.ndarray, row: int, start: int, scratch: np.ndarray) -> None:
        """Add a part of a row."""
        np.multiply(block, self.factors[row], out=scratch[: block.size])
        self.total[start : start + block.size] += scratch[: block.size]


class HashedFile:
    """Read a file from its first byte to its last, every byte into a digest."""

    def __init__(self, file: FileIO, path: Path, hasher: Hasher) -> None:
        self._file, self._path, self._hasher = file, path, hasher
        self._position = 0
        self._spare = memoryview(bytearray(BLOCK_BYTES))

    def read_into(self, buffer: memoryview) -> None:
        """Fill a buffer with the next bytes."""
        filled = 0
        while filled < len(buffer):
            count = self._file.readinto(buffer[filled:])
            if not count:
                raise WeightsCorrupt(f"{self._path} ends before its last array; fetch it again")
            filled += count
        self._hasher.update(buffer)
        self._position += filled

    def skip_to(self, offset: int) -> None:
        """Pass over the bytes up to a place."""
        if offset < self._position:
            raise WeightsCorrupt(f"{self._path} holds arrays that overlap; fetch it again")
        while self._position < offset:
            self.read_into(self._spare[: min(offset - self._position, BLOCK_BYTES)])

    def finish(self) -> str:
        """Read what is left; return the digest."""
        while count := self._file.readinto(self._spare):
            self._hasher.update(self._spare[:count])
        return self._hasher.hexdigest()


def add_rows(path: Path, summands: Sequence[Summand]) -> str:
    """Add all summands to their totals; return the SHA-256 of the file.

    A file whose arrays lie in one piece each, as Keras writes them, is read once, in the order of its bytes;
    any other is read by HDF5 first and hashed then.

    Raises
    ------
    WeightsCorrupt
        If the file ends early, or an array can not be read.
    """
    plain = np.dtype("<f4")
    if any(summand.array.offset is None or summand.array.dtype != plain for summand in summands):
        add_by_reading(summands)
        return digest_file(path, "sha256")
    raw = memoryview(bytearray(BLOCK_BYTES))
    values = np.frombuffer(raw, plain)
    scratch = np.empty_like(values)
    with open(path, "rb", buffering=0) as file:
        hashed = HashedFile(file, path, new_hasher("sha256", 0))
        for summand in sorted(summands, key=lambda summand: summand.array.offset or 0):
            hashed.skip_to(summand.array.offset or 0)
            for row in range(len(summand.factors)):
                for start in range(0, summand.total.size, values.size):
                    block = values[: summand.total.size - start]
                    hashed.read_into(raw[: block.nbytes])
                    summand.add(block, row, start, scratch)
        return hashed.finish()


def add_by_reading(summands: Sequence[Summand]) -> None:
    """Read row by row, and long rows in parts."""
    step = BLOCK_BYTES // np.dtype(np.float32).itemsize
    scratch = np.empty(step, np.float32)
    for summand in summands:
        for row in range(len(summand.factors)):
            for start in range(0, summand.total.size, step):
                part = slice(start, start + step)
                selection = part if len(summand.array.shape) == 1 else (row, part)
                summand.add(summand.array.read(selection), row, start, scratch)
