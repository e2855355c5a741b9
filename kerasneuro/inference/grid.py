"""Where the blocks of a volume lie: pure geometry, any number of axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.inference.settings import EDGES, check_choice

Slices = tuple[slice, ...]


@dataclass(frozen=True)
class Block:
    """One block: its place in the grid (`index`) and its first voxel (`start`), one number per axis."""

    index: tuple[int, ...]
    start: tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """Blocks of one shape that together cover a volume.

    Attributes
    ----------
    shape : tuple of int
        Shape of the volume.
    block : tuple of int
        Shape of every block.
    starts : tuple of tuple of int
        First voxel of the blocks, per axis; the grid is their product in C order.
    padding : {"edge", "zero"}
        What fills the part of a block outside the volume.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    padding: str = "edge"

    def __len__(self) -> int:
        """Return the number of blocks."""
        return math.prod(len(starts) for starts in self.starts)

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks in C order: the last axis changes fastest."""
        for index in itertools.product(*(range(len(starts)) for starts in self.starts)):
            yield Block(index, tuple(starts[i] for starts, i in zip(self.starts, index, strict=True)))

    @property
    def disjoint(self) -> bool:
        """Tell whether no voxel lies in two blocks."""
        return all(
            second - first >= extent
            for starts, extent in zip(self.starts, self.block, strict=True)
            for first, second in itertools.pairwise(starts)
        )

    def inside(self, block: Block) -> tuple[Slices, Slices]:
        """Return the part of a block that lies in the volume, as slices of the volume and of the block."""
        ends = [min(s + b, n) for s, b, n in zip(block.start, self.block, self.shape, strict=True)]
        there = tuple(slice(s, e) for s, e in zip(block.start, ends, strict=True))
        return there, tuple(slice(0, e - s) for s, e in zip(block.start, ends, strict=True))

    def read(self, volume: np.ndarray, block: Block, out: np.ndarray) -> None:
        """Copy one block of a volume into a buffer, padding included.

        Parameters
        ----------
        volume : ndarray
            Shape `self.shape`, plus any trailing axes.
        block : Block
            Which one.
        out : ndarray
            Shape `self.block`, plus the same trailing axes; overwritten.
        """
        there, here = self.inside(block)
        if self.padding == "zero":
            out[...] = 0
        out[here] = volume[there]
        if self.padding == "zero":
            return
        for axis, part in enumerate(here):
            before = (slice(None),) * axis
            if part.stop < self.block[axis]:
                out[(*before, slice(part.stop, None))] = out[(*before, slice(part.stop - 1, part.stop))]


def make_grid(
    shape: Sequence[int],
    block_shape: Sequence[int],
    overlap: float = 0.0,
    edge: str = "auto",
    multiple: Sequence[int] | int | None = None,
) -> Grid:
    """Lay blocks over a volume so that every voxel is covered.

    Parameters
    ----------
    shape : sequence of int
        Shape of the volume.
    block_shape : sequence of int
        Shape of a block; an axis longer than the volume is cut to the volume, rounded up to `multiple`.
    overlap : float
        Part of a block shared with its neighbour, 0 <= overlap < 1.
    edge : {"auto", "edge", "zero", "shift"}
        Rule for the last block of an axis, see `Settings`.
    multiple : int or sequence of int, optional
        The block must be a multiple of this (per axis). None: blocks are never cut.

    Returns
    -------
    Grid

    Raises
    ------
    InvalidOption
        If the block does not fit the multiple or the number of axes, or an option is not allowed.
    """
    check_choice("edge", edge, EDGES)
    if len(shape) != len(block_shape):
        raise InvalidOption(
            f"block_shape must have one number per axis of the volume ({len(shape)}); "
            f"got {tuple(block_shape)}."
        )
    if min(block_shape) < 1 or min(shape) < 1 or not 0.0 <= overlap < 1.0:
        raise InvalidOption(
            f"Blocks need positive shapes and 0 <= overlap < 1; got {block_shape}, {overlap}."
        )
    block = tuple(int(extent) for extent in block_shape)
    if multiple is not None:
        block = _fit(shape, block, per_axis(multiple, len(shape)))
    rule = edge if edge != "auto" else ("shift" if overlap > 0 else "edge")
    starts = tuple(_starts(n, b, overlap, rule == "shift") for n, b in zip(shape, block, strict=True))
    return Grid(tuple(int(n) for n in shape), block, starts, "zero" if rule == "zero" else "edge")


def per_axis(value: Sequence[int] | int, axes: int) -> tuple[int, ...]:
    """Repeat a single number for every axis."""
    return (value,) * axes if isinstance(value, int) else tuple(int(v) for v in value)


def _fit(shape: Sequence[int], block: tuple[int, ...], multiple: tuple[int, ...]) -> tuple[int, ...]:
    if len(multiple) != len(block) or any(b % m for b, m in zip(block, multiple, strict=True)):
        raise InvalidOption(f"block_shape must be a multiple of {multiple} for this network; got {block}.")
    return tuple(min(b, -(-n // m) * m) for n, b, m in zip(shape, block, multiple, strict=True))


def _starts(extent: int, block: int, overlap: float, shift: bool) -> tuple[int, ...]:
    if block >= extent:
        return (0,)
    step = max(1, round(block * (1.0 - overlap)))
    count = -(-(extent - block) // step) + 1
    return tuple(min(i * step, extent - block) if shift else i * step for i in range(count))
