"""Scratch files for the logits of one plane: written slice by slice, read row by row."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from kerasneuro.errors import OutputError

THREADS = 2


class LogitStore:
    """Keep float32 logits ``(S, R, W, C)`` of slices in nameless files, which vanish when they are closed.

    Plain writes and reads, so that the system may keep as much of them in memory as is free, and no more.
    Neighbouring slices lie in different files, each of which has its own thread.

    Parameters
    ----------
    folder : Path
        Where the files lie.
    span : range
        The slices that are written; all others are `empty`.
    shape : tuple of int
        Slices, rows, columns and classes ``(S, R, W, C)``.
    empty : ndarray or None
        Logits ``(R, W, C)`` of the other slices.
    pool : Executor
        Its threads write and read.
    """

    def __init__(
        self,
        folder: Path,
        span: range,
        shape: tuple[int, ...],
        empty: np.ndarray | None,
        pool: Executor,
    ) -> None:
        self.span, self.shape, self.empty, self._pool = span, shape, empty, pool
        with ExitStack() as files:
            self._files = [files.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(THREADS)]
            self._closing = files.pop_all()

    def close(self) -> None:
        """Close the files, which removes them."""
        self._closing.close()

    def write(self, start: int, logits: np.ndarray) -> None:
        """Write the logits ``(B, R, W, C)`` of the slices from `start` on."""
        images = {start + index: np.ascontiguousarray(image) for index, image in enumerate(logits)}

        def write_file(number: int) -> None:
            for index, image in images.items():
                if index % THREADS == number:
                    self._files[number].seek(self._place(index, 0))
                    self._files[number].write(image.data.cast("B"))

        for _ in self._pool.map(write_file, range(THREADS)):
            pass

    def read(self, first: int, out: np.ndarray) -> np.ndarray:
        """Fill `out`, ``(S, N, W, C)``, with the rows from `first` on of every slice."""

        def read_file(number: int) -> None:
            for index in range(number, len(out), THREADS):
                self._read_slice(number, index, first, out[index])

        for _ in self._pool.map(read_file, range(THREADS)):
            pass
        return out

    def _read_slice(self, number: int, index: int, first: int, rows: np.ndarray) -> None:
        if index not in self.span:
            assert self.empty is not None
            rows[...] = self.empty[first : first + len(rows)]
            return
        self._files[number].seek(self._place(index, first))
        view = rows.data.cast("B")
        if self._files[number].readinto(view) != len(view):
            raise OSError("the scratch file ended early")

    def _place(self, index: int, row: int) -> int:
        """Return the byte where a row of a slice begins in its file."""
        _, rows, width, classes = self.shape
        return ((index - self.span.start) // THREADS * rows + row) * width * classes * 4


def bytes_needed(span: range, shape: tuple[int, ...]) -> int:
    """Return the size of a file."""
    return 4 * len(span) * math.prod(shape[1:])


@contextmanager
def scratch_folder(folder: Path | None, needed: int) -> Iterator[Path]:
    """Check the folder of scratch files, and name it in the error if its disk fails.

    Parameters
    ----------
    folder : Path or None
        None is the system's temporary folder.
    needed : int
        Bytes.

    Raises
    ------
    OutputError
        If the folder does not exist, cannot be written, or has too little space.
    """
    place = Path(folder or tempfile.gettempdir())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            f"expected a folder for scratch files that can be written, found none at {place}; "
            "name one with work_dir"
        )
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OutputError(
            f"scratch files of {needed / 1e9:.1f} GB are needed, but {place} has {free / 1e9:.1f} GB free; "
            "name a folder with more space with work_dir"
        )
    try:
        yield place
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"the scratch files in {place} failed ({error.strerror or error}); name another folder with "
            "work_dir"
        ) from error
