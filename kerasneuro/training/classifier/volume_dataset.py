"""Batches of whole volumes with their labels, for `keras.Model.fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.training.classifier.augmentation import Augment
from kerasneuro.training.classifier.cohort import Sample
from kerasneuro.training.epochs import EpochDataset


class VolumeDataset(EpochDataset):
    """Prepared volumes in batches ``(volumes, labels, weights)``.

    Shapes ``(B, X, Y, Z, C)`` float32, ``(B,)`` int32 and ``(B,)`` float32. Order and random changes depend
    on seed, epoch and sample alone, not on the worker. Give `fit` the callback `follow` and
    ``shuffle=False`` (Keras would shuffle the batches once more): training that resumes with
    ``initial_epoch=`` then sees what it would have seen.

    Parameters
    ----------
    samples : sequence of Sample
        All labelled.
    prepare : callable
        From a sample to its volume ``(X, Y, Z, C)``.
    batch_size : int
        Volumes at once; the last batch may be smaller.
    shuffle : bool
        Draw the order anew in each epoch.
    change : callable, optional
        Random change of a volume: volume, generator -> volume.
    class_weights : numpy.ndarray, optional
        Weight of each class in the loss, shape ``(classes,)``; all 1 by default.
    seed, epoch : int
        Of the draws.
    **kwargs
        Workers, as `keras.utils.PyDataset` takes them.

    Raises
    ------
    InvalidOption
        If there is no sample, or a number is too small.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        prepare: Callable[[Sample], np.ndarray],
        batch_size: int,
        *,
        shuffle: bool = False,
        change: Augment | None = None,
        class_weights: np.ndarray | None = None,
        seed: int = 0,
        epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(epoch, **kwargs)
        if not samples or batch_size < 1 or min(seed, epoch) < 0:
            raise InvalidOption(
                "expected samples, batch_size at least 1, seed and epoch not negative, found "
                f"{len(samples)}, {batch_size}, {seed} and {epoch}"
            )
        self.samples, self.prepare, self.batch_size = list(samples), prepare, batch_size
        self.shuffle, self.change, self.class_weights = shuffle, change, class_weights
        self.seed = seed

    def __len__(self) -> int:
        return -(-len(self.samples) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = np.arange(len(self.samples))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        volumes = np.stack([self._volume(int(number)) for number in chosen])
        labels = np.array([self.samples[number].label for number in chosen], np.int32)
        weights = np.ones(len(labels), np.float32)
        if self.class_weights is not None:
            weights = self.class_weights[labels].astype(np.float32)
        return volumes, labels, weights

    def _volume(self, number: int) -> np.ndarray:
        volume = self.prepare(self.samples[number])
        if self.change is None:
            return volume
        return self.change(volume, np.random.default_rng([self.seed, self.epoch, number]))


def balanced_weights(labels: Sequence[int | None], classes: int) -> np.ndarray:
    """Return a weight for each class so that all count alike; their mean over the samples is 1."""
    counts = np.bincount([label for label in labels if label is not None], minlength=classes)
    return counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)).astype(np.float64)
