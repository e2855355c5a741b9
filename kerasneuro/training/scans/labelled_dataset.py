"""What data sets of labelled scans share: classes, kept scans, batches made ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.training.epochs import EpochDataset
from kerasneuro.training.scans.ahead import Ahead
from kerasneuro.training.scans.class_table import ClassTable
from kerasneuro.training.scans.cutting import SegmentationAugment, check_augment
from kerasneuro.training.scans.labelled_scan import Prepare
from kerasneuro.training.scans.pairs import Pair, find_pairs
from kerasneuro.training.scans.volume_cache import Cache, ScanStore


class LabelledDataset(EpochDataset):
    """Batches ``(images, targets)`` that depend on seed, epoch and index alone.

    Parameters
    ----------
    pairs : sequence
        What `find_pairs` takes.
    classes : ClassTable or what describes one
        Meaning of the label values, for `ClassTable.of`.
    kept : int
        Scans in memory where no cache is asked for.
    batch_size : int
        Patches or scans at once.
    prepare : callable, optional
        From the `Volume` of a channel to the one that the network takes; on another grid if need be.
    augment : callable, optional
        `Augmentation`, a transform of TorchIO, or a function of patch, class indices and generator.
    one_hot : bool
        Give one-hot targets ``(B, X, Y, Z, K)`` float32 rather than class indices ``(B, X, Y, Z)`` int32.
    cache : None, "memory" or path
        As in `ScanStore`.
    redraw : bool
        Draw anew in each epoch; False gives the same batches in all, for validation.
    prefetch : int
        Batches that one thread makes ahead; none where Keras has workers of its own.
    seed, epoch : int
        Of the draws.
    **kwargs
        Workers, as `keras.utils.PyDataset` takes them.

    Raises
    ------
    InvalidOption
        If a number is too small.
    """

    def __init__(
        self,
        pairs: Any,
        *,
        classes: Any,
        kept: int,
        batch_size: int = 1,
        prepare: Prepare | None = None,
        augment: SegmentationAugment | None = None,
        one_hot: bool = True,
        cache: Cache = None,
        redraw: bool = True,
        prefetch: int = 2,
        seed: int = 0,
        epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(epoch, **kwargs)
        if batch_size < 1 or min(prefetch, seed, epoch) < 0:
            raise InvalidOption(
                "batch_size is at least 1, prefetch, seed and epoch are not negative; found "
                f"{batch_size}, {prefetch}, {seed} and {epoch}"
            )
        self.classes = ClassTable.of(classes)
        self.store = ScanStore(find_pairs(pairs), self.classes, prepare, cache, kept=kept)
        self.batch_size, self.augment, self.one_hot = batch_size, check_augment(augment), one_hot
        self.redraw, self.prefetch, self.seed = redraw, prefetch, seed
        self._ahead: Ahead | None = None

    @property
    def pairs(self) -> list[Pair]:
        """The labelled scans."""
        return self.store.pairs

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return len(self.pairs[0].images)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        batches = len(self)
        if not 0 <= index < batches:
            raise IndexError(f"batch {index} of {batches}")
        if self._ahead is None or self._ahead.batches != batches:
            alone = self.workers > 1 or self.use_multiprocessing
            self._ahead = Ahead(self.batch, batches, 0 if alone else self.prefetch)
        return self._ahead.get(self.epoch, index)

    def batch(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Make one batch of an epoch."""
        raise NotImplementedError

    def together(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Put images and class indices into a batch."""
        images, classes = (np.stack(part) for part in zip(*parts, strict=True))
        targets = self.classes.one_hot(classes) if self.one_hot else classes.astype(np.int32)
        return images, targets

    def generator(self, epoch: int, *numbers: int) -> np.random.Generator:
        """Return the generator of one thing to be drawn in an epoch."""
        return np.random.default_rng([self.seed, epoch if self.redraw else 0, *numbers])

    def on_epoch_end(self) -> None:
        """Draw anew; Keras calls this at least once after each epoch."""
        self.epoch += 1
