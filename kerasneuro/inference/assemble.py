"""Put predicted blocks back: into an array, or as labels without ever holding the probabilities."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from kerasneuro.errors import OutOfMemory
from kerasneuro.inference.blend import BlendWeights
from kerasneuro.inference.grid import Block, Grid


class Sink(Protocol):
    """Takes predicted blocks in the order of the grid."""

    def add(self, block: Block, values: np.ndarray) -> None:
        """Take one block, shape `grid.block` plus trailing axes."""

    def finish(self) -> None:
        """Write whatever is still held back."""


class ArraySink:
    """Blend blocks into an array of the shape of the volume (plus trailing axes).

    Without overlap the values are copied, bit for bit.
    """

    def __init__(self, out: np.ndarray, grid: Grid, merge: str) -> None:
        self._out, self._grid = out, grid
        self._weights = None if grid.disjoint else BlendWeights(grid, merge)
        if self._weights is not None:
            out[...] = 0

    def add(self, block: Block, values: np.ndarray) -> None:
        """Take one block."""
        there, here = self._grid.inside(block)
        if self._weights is None:
            self._out[there] = values[here]
            return
        weights = self._weights.of(block)
        self._out[there] += values[here] * weights.reshape(
            weights.shape + (1,) * (values.ndim - weights.ndim)
        )

    def finish(self) -> None:
        """Do nothing: every block is written at once."""


class LabelSink:
    """Turn blocks into labels; only a slab of planes of class probabilities exists at a time.

    Without overlap a block is decided at once. With overlap the probabilities of the planes that the current
    row of blocks touches are summed in a ring buffer along the first axis; a plane that no later block
    touches is decided, written and its place in the ring used again.

    Parameters
    ----------
    out : ndarray
        Labels, shape of the volume.
    grid, merge
        Where the blocks lie and how they are weighted.
    threshold : float
        Above this a single-class probability is label 1.
    ring : ndarray, optional
        Zeroed float32 buffer of `ring_shape`; needed with overlap only.
    """

    def __init__(
        self, out: np.ndarray, grid: Grid, merge: str, threshold: float, ring: np.ndarray | None
    ) -> None:
        self._out, self._grid, self._threshold, self._ring = out, grid, threshold, ring
        self._weights = None if ring is None else BlendWeights(grid, merge)
        self._decided = 0

    @staticmethod
    def ring_shape(grid: Grid, channels: int) -> tuple[int, ...] | None:
        """Return the shape of the ring buffer, None where none is needed."""
        return None if grid.disjoint else (grid.block[0], *grid.shape[1:], channels)

    def add(self, block: Block, values: np.ndarray) -> None:
        """Take one block, ``(..., C)``."""
        there, here = self._grid.inside(block)
        if self._ring is None or self._weights is None:
            self._out[there] = self._decide(values[here])
            return
        self._decide_until(block.start[0])
        weights = self._weights.of(block)[..., None]
        part = values[here]
        for plane in range(part.shape[0]):
            place = (block.start[0] + plane) % len(self._ring)
            self._ring[place][there[1:]] += part[plane] * weights[plane]

    def finish(self) -> None:
        """Decide the planes still in the ring."""
        if self._ring is not None:
            self._decide_until(self._grid.shape[0])

    def _decide_until(self, end: int) -> None:
        assert self._ring is not None
        for plane in range(self._decided, end):
            slab = self._ring[plane % len(self._ring)]
            self._out[plane] = self._decide(slab)
            slab[...] = 0
        self._decided = max(self._decided, end)

    def _decide(self, values: np.ndarray) -> np.ndarray:
        if values.shape[-1] == 1:
            return values[..., 0] > self._threshold
        return values.argmax(axis=-1)


def label_dtype(channels: int) -> np.dtype:
    """Return the smallest unsigned type that holds the labels."""
    return np.min_scalar_type(max(channels - 1, 1))


@contextlib.contextmanager
def scratch_array(
    shape: tuple[int, ...] | None, granted: int | None, folder: Path | None
) -> Iterator[np.ndarray | None]:
    """Lend a zeroed float32 array, in a temporary file if it is larger than the memory granted.

    Parameters
    ----------
    shape : tuple of int or None
        None lends None.
    granted : int or None
        Bytes that may be held in memory; None for no limit.
    folder : Path or None
        Where the file goes; None is the system's temporary folder. The file is removed at the end.

    Raises
    ------
    OutOfMemory
        If the folder has less free space than the array needs.
    """
    if shape is None:
        yield None
        return
    needed = 4 * math.prod(shape)
    if granted is None or needed <= granted:
        yield np.zeros(shape, np.float32)
        return
    root = Path(folder or tempfile.gettempdir())
    free = shutil.disk_usage(root).free
    if free < needed:
        raise OutOfMemory(
            f"Blending needs a scratch file of {needed / 1e9:.1f} GB, but {root} has {free / 1e9:.1f} GB "
            "free; name another folder with scratch= or use overlap=0."
        )
    with tempfile.TemporaryDirectory(prefix="kerasneuro-", dir=root, ignore_cleanup_errors=True) as place:
        array = np.memmap(Path(place) / "slab.f32", np.float32, "w+", shape=shape)
        yield array
        del array
