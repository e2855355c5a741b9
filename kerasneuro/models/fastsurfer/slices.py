"""Thick slices: each slice of a conformed volume with three neighbours on either side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 3
CHANNELS = 2 * NEIGHBOURS + 1
SCALED = np.arange(256, dtype=np.float32) / np.float32(255)

Network = Callable[[np.ndarray], np.ndarray]
"""``(B, H, W, 7)`` float32 to logits ``(B, H, W, C)`` float32."""


@dataclass(frozen=True)
class Plane:
    """How the slices of one plane lie in a volume ``(I, J, K)``, axes to left, inferior, anterior.

    Attributes
    ----------
    slice_axis, row_axis, column_axis : int
        Axis of the volume along which slices are taken, and those that are height and width of a slice.
    weight : float
        Of the plane's logits in the sum of the three.
    """

    slice_axis: int
    row_axis: int
    column_axis: int
    weight: float


PLANES = {"axial": Plane(1, 2, 0, 0.4), "coronal": Plane(2, 0, 1, 0.4), "sagittal": Plane(0, 2, 1, 0.2)}


class ThickSlices:
    """Cut a conformed volume into the batches that a network sees.

    Parameters
    ----------
    volume : ndarray
        Shape ``(I, J, K)``, uint8.
    plane : Plane
        Which slices.
    """

    def __init__(self, volume: np.ndarray, plane: Plane) -> None:
        self.images = volume.transpose(plane.slice_axis, plane.row_axis, plane.column_axis)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a slice."""
        return self.images.shape[1], self.images.shape[2]

    def filled(self) -> range:
        """Return the slices from the first to the last that see a voxel other than 0."""
        found = np.flatnonzero(self.images.any(axis=(1, 2)))
        if not found.size:
            return range(0)
        return range(max(int(found[0]) - NEIGHBOURS, 0), min(int(found[-1]) + NEIGHBOURS + 1, len(self)))

    def batch(self, start: int, count: int) -> np.ndarray:
        """Return slices `start` to ``start + count - 1``: ``(B, H, W, 7)``, float32, 0 to 1.

        The first and the last slice stand for the neighbours that they lack.
        """
        wanted = np.arange(start - NEIGHBOURS, start + count + NEIGHBOURS)
        stack = self.images[np.clip(wanted, 0, len(self) - 1)]
        block = SCALED[np.ascontiguousarray(np.moveaxis(stack, 0, -1))]
        batch = np.empty((count, *self.shape, CHANNELS), np.float32)
        for index, image in enumerate(batch):
            image[...] = block[..., index : index + CHANNELS]
        return batch


def predict_slices(
    network: Network, slices: ThickSlices, span: range, batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Run a network over neighbouring slices.

    Parameters
    ----------
    network : callable
        The network of this plane.
    slices : ThickSlices
        What it sees.
    span : range
        The slices to compute.
    batch_size : int
        Slices at once.

    Yields
    ------
    start : int
        First slice of the batch.
    logits : ndarray
        Shape ``(B, H, W, C)``, float32.
    """
    for start in range(span.start, span.stop, batch_size):
        count = min(batch_size, span.stop - start)
        batch = slices.batch(start, count)
        if count < batch_size:
            # A short last batch keeps the shape of the others: another shape would be compiled anew.
            batch = np.concatenate([batch, np.repeat(batch[-1:], batch_size - count, axis=0)])
        yield start, network(batch)[:count]


def empty_logits(network: Network, shape: tuple[int, int], batch_size: int) -> np.ndarray | None:
    """Return the logits of a slice that sees only zeros, ``(H, W, C)``.

    They can stand for every empty slice if a slice's logits do not depend on its place in the batch: a whole
    batch of empty slices is computed, and unless all agree bit for bit, None is returned.
    """
    logits = network(np.zeros((batch_size, *shape, CHANNELS), np.float32))
    same = all(np.array_equal(other, logits[0]) for other in logits[1:])
    return logits[0].copy() if same else None
