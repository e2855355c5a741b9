"""Whole labelled scans in batches, for `keras.Model.fit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.inference.grid import per_axis
from kerasneuro.training.scans.cutting import augmented_patch
from kerasneuro.training.scans.labelled_dataset import LabelledDataset

OF_SCAN, OF_ORDER = 4, 5


class WholeDataset(LabelledDataset):
    """Batches ``(images, targets)`` of whole scans; everything else is as in `PatchDataset`.

    Parameters
    ----------
    pairs : sequence
        What `find_pairs` takes.
    classes : ClassTable or what describes one
        Meaning of the label values, for `ClassTable.of`.
    multiple : int or sequence of int
        Zeros and background are added behind the last voxels until each axis is a multiple of it; the scans
        of a batch get the size of its largest.
    shape : sequence of int, optional
        Give every scan this size instead: cut or filled up evenly on both sides. One size is compiled once.
    shuffle : bool
        Draw the order anew in each epoch.
    batch_size : int
        Scans at once.
    **kwargs
        As in `LabelledDataset`: prepare, augment, one_hot, cache, redraw, prefetch, seed, epoch.

    Raises
    ------
    InvalidOption
        If an option lies outside its range.
    InvalidImage
        If a file cannot be used, or has labels of no class; while training, since they are read then.
    """

    def __init__(
        self,
        pairs: Any,
        *,
        classes: Any,
        multiple: int | Sequence[int] = 1,
        shape: Sequence[int] | None = None,
        batch_size: int = 1,
        shuffle: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(pairs, classes=classes, kept=2 * batch_size, batch_size=batch_size, **kwargs)
        self.multiple = per_axis(multiple, 3)
        self.shape = None if shape is None else per_axis(shape, 3)
        self.shuffle = shuffle
        if min(*self.multiple, *(self.shape or (1,))) < 1:
            raise InvalidOption(f"multiple and shape are at least 1, found {multiple} and {shape}")

    def __len__(self) -> int:
        return -(-len(self.store) // self.batch_size)

    def batch(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Make one batch of an epoch."""
        order = np.arange(len(self.store))
        if self.shuffle:
            order = self.generator(epoch, OF_ORDER).permutation(order)
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size].tolist()
        shape = self._batch_shape([self.store[number].classes.shape for number in chosen])
        return self.together([self._scan(epoch, number, shape) for number in chosen])

    def _batch_shape(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        if self.shape is not None:
            return self.shape
        return tuple(-(-size // m) * m for size, m in zip(np.max(shapes, axis=0), self.multiple, strict=True))

    def _scan(self, epoch: int, number: int, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        scan = self.store[number]
        start = [0] * 3
        if self.shape is not None:  # As kerasneuro.volume.crop_or_pad_centred.
            start = [-((m - n) // 2) for n, m in zip(scan.classes.shape, shape, strict=True)]
        generator = self.generator(epoch, OF_SCAN, number)
        return augmented_patch(scan.image, scan.classes, start, shape, self.augment, generator)
