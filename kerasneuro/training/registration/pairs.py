"""Pairs of images to train registration on, as Keras data sets: synthesised from labels, or of scans.

A batch is ``(inputs, targets)``. The inputs are moving and fixed image, float32 ``(B, X, Y, Z, 1)`` in
[0, 1], and the moving one-hot labels if labels are wanted. The targets are the fixed image, the fixed one-hot
labels (what is wanted of the two) and zeros for the field. So
`kerasneuro.training.registration.graph.training_model` takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.training.changes.volumes import random_flip
from kerasneuro.training.epochs import EpochDataset
from kerasneuro.training.registration.synthesis import SynthesisSettings, scale_to_unit, synthesise

Arrays = tuple[np.ndarray, ...]
# Moving image, fixed image, moving labels, fixed labels.
Pair = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]


class RegistrationPairs(EpochDataset):
    """Batches of pairs that depend on seed, epoch and batch alone, not on the worker that makes them.

    Give `fit` the callback `follow` and ``shuffle=False``: training that resumes with ``initial_epoch=`` then
    sees what it would have seen.

    Parameters
    ----------
    batch_size, batches : int
        Pairs at once, and batches in an epoch.
    images : bool
        Give the fixed image as target.
    labels : sequence of int
        Labels that are compared, one channel each; none by default.
    seed : int
        Of the draws.
    epoch : int
        First epoch.
    **kwargs
        Workers, as `keras.utils.PyDataset` takes them.

    Raises
    ------
    InvalidOption
        If a number is too small, or neither images nor labels are wanted.
    """

    def __init__(
        self,
        batch_size: int = 1,
        batches: int = 100,
        *,
        images: bool = True,
        labels: Sequence[int] = (),
        seed: int = 0,
        epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(epoch, **kwargs)
        if min(batch_size, batches) < 1 or min(seed, epoch) < 0:
            raise InvalidOption(
                "batch_size and batches are at least 1, seed and epoch not negative; found "
                f"{batch_size}, {batches}, {seed} and {epoch}"
            )
        self.labels = np.asarray(labels, np.int64)
        if not images and not len(self.labels):
            raise InvalidOption("pairs are compared by images, by labels or by both; found neither")
        self.batch_size, self.batches, self.images = batch_size, batches, images
        self.seed = seed

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        generator = np.random.default_rng([self.seed, self.epoch, index])
        pairs = [self.pair(generator) for _ in range(self.batch_size)]
        moving, fixed, moving_labels, fixed_labels = zip(*pairs, strict=True)
        inputs, targets = [_stack(moving), _stack(fixed)], []
        if self.images:
            targets.append(inputs[1])
        if len(self.labels):
            inputs.append(self._one_hot(moving_labels))
            targets.append(self._one_hot(fixed_labels))
        rank = moving[0].ndim
        # Losses of a field take no truth, so one voxel of zeros stands for it.
        targets.append(np.zeros((self.batch_size, *[1] * rank, rank), np.float32))
        return tuple(inputs), tuple(targets)

    def pair(self, generator: np.random.Generator) -> Pair:
        """Draw moving image, fixed image and the labels of both, of one shape and without channels."""
        raise NotImplementedError

    def _one_hot(self, maps: Sequence[Any]) -> np.ndarray:
        return (np.stack(maps)[..., None] == self.labels).astype(np.float32)

    def on_epoch_end(self) -> None:
        """Draw anew; Keras calls this at least once after each epoch."""
        self.epoch += 1


class SynthesisPairs(RegistrationPairs):
    """Two images of random contrast from one label map, or from two.

    Parameters
    ----------
    maps : sequence of numpy.ndarray
        Label maps of one shape, whole numbers of at least 0; 0 is the background.
    batch_size, batches : int
        Pairs at once, and batches in an epoch.
    settings : SynthesisSettings, optional
        By default those of the article's shapes model.
    same_map : bool
        Make both images of a pair from one map (each warped on its own).
    flip : bool
        Flip the maps of a pair along random axes.
    **kwargs
        As in `RegistrationPairs`; `labels` are those of the maps by default, in rising order.

    Raises
    ------
    InvalidImage
        If there is no map, or the shapes differ.

    References
    ----------
    M. Hoffmann et al. (2022), doi:10.1109/TMI.2021.3116879.

    Examples
    --------
    >>> import numpy as np
    >>> from kerasneuro.training.registration.shapes import random_shapes
    >>> maps = [random_shapes((32, 32), np.random.default_rng(seed)) % 4 for seed in range(3)]
    >>> (moving, fixed, labels), (truth, zeros) = SynthesisPairs(maps, 2, images=False, labels=(1, 2, 3))[0]
    >>> moving.shape, labels.shape, zeros.shape
    ((2, 32, 32, 1), (2, 32, 32, 3), (2, 1, 1, 2))
    """

    def __init__(
        self,
        maps: Sequence[np.ndarray],
        batch_size: int = 1,
        batches: int = 100,
        *,
        settings: SynthesisSettings | None = None,
        same_map: bool = True,
        flip: bool = True,
        labels: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_shapes(maps)
        if labels is None:
            labels = np.unique(np.concatenate([np.unique(each) for each in maps])).tolist()
        super().__init__(batch_size, batches, labels=labels, **kwargs)
        self.maps, self.settings = list(maps), settings or SynthesisSettings()
        self.same_map, self.flip = same_map, flip

    def pair(self, generator: np.random.Generator) -> Pair:
        """Draw two maps, or one twice, and make an image from each."""
        first, second = generator.integers(len(self.maps), size=2)
        chosen: Arrays = (self.maps[first], self.maps[first if self.same_map else second])
        if self.flip:
            chosen = random_flip(chosen, generator)
        moving, moving_labels = synthesise(chosen[0], generator, self.settings)
        fixed, fixed_labels = synthesise(chosen[1], generator, self.settings)
        return moving, fixed, moving_labels, fixed_labels


class ScanPairs(RegistrationPairs):
    """Two different scans out of several on one grid, in random order.

    Parameters
    ----------
    scans : sequence of numpy.ndarray
        Two or more images of one shape ``(X, Y, Z)`` or ``(X, Y)``; each is scaled to [0, 1].
    maps : sequence of numpy.ndarray, optional
        Their label maps.
    batch_size, batches : int
        Pairs at once, and batches in an epoch.
    **kwargs
        As in `RegistrationPairs`.

    Raises
    ------
    InvalidImage
        If there are fewer than two scans, the shapes differ, or labels are wanted of scans without maps.
    """

    def __init__(
        self,
        scans: Sequence[np.ndarray],
        maps: Sequence[np.ndarray] = (),
        batch_size: int = 1,
        batches: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size, batches, **kwargs)
        wanted = len(scans) if len(self.labels) else 0
        if len(scans) < 2 or (len(maps) != len(scans) and (wanted or len(maps))):
            raise InvalidImage(
                f"expected two or more scans and, for {len(self.labels)} labels, a label map of each; found "
                f"{len(scans)} scans and {len(maps)} label maps"
            )
        _check_shapes([*scans, *maps])
        self.scans, self.maps = [scale_to_unit(scan) for scan in scans], list(maps)

    def pair(self, generator: np.random.Generator) -> Pair:
        """Draw two scans."""
        first, second = generator.permutation(len(self.scans))[:2]
        if not self.maps:
            return self.scans[first], self.scans[second], None, None
        return self.scans[first], self.scans[second], self.maps[first], self.maps[second]


class HyperPairs(keras.utils.PyDataset):
    """Add a random weight of the smoothness to the pairs of a data set, to train a hypernetwork.

    Each pair gets a lambda of its own: an input ``(B, 1)``, and weights of the losses for `fit`, 1 - lambda
    for what compares images or labels and lambda for the field. So the loss of a pair is
    ``(1 - lambda) * similarity + lambda * smoothness``.

    Source: A. Hoopes et al. (2022), doi:10.59275/j.melba.2022-74f1; voxelmorph/voxelmorph@ca28315,
    ``scripts/tf/train_hypermorph.py``.

    Parameters
    ----------
    pairs : RegistrationPairs
        The pairs; their batches, seed and epochs are used.
    position : int
        Place of lambda among the inputs: 2 behind the two images (VoxelMorph), 0 before them (SynthMorph).
    ends : float
        How often lambda is exactly 0 or 1; else it is uniform between them.
    **kwargs
        Workers, as `keras.utils.PyDataset` takes them.
    """

    def __init__(
        self, pairs: RegistrationPairs, *, position: int = 2, ends: float = 0.2, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= ends <= 1:
            raise InvalidOption(f"ends is a probability, found {ends}")
        self.pairs, self.position, self.ends = pairs, position, ends

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        inputs, targets = self.pairs[index]
        count = len(inputs[0])
        # A fourth number keeps these draws apart from those of the pair itself.
        generator = np.random.default_rng([self.pairs.seed, self.pairs.epoch, index, 1])
        extreme = generator.random(count) < self.ends
        drawn = np.where(extreme, generator.integers(2, size=count), generator.random(count))
        weight = drawn.astype(np.float32)
        inputs = (*inputs[: self.position], weight[:, None], *inputs[self.position :])
        return inputs, targets, (*(1 - weight for _ in targets[:-1]), weight)

    def on_epoch_end(self) -> None:
        """Draw anew."""
        self.pairs.on_epoch_end()

    def follow(self) -> keras.callbacks.Callback:
        """Return a callback that keeps the epoch of the draws the same as that of the training."""
        return self.pairs.follow()


def _stack(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return images as ``(B, X, Y, Z, 1)``, float32."""
    return np.stack(images).astype(np.float32)[..., None]


def _check_shapes(arrays: Sequence[np.ndarray]) -> None:
    """Refuse arrays that are none, or of several shapes."""
    shapes = {np.shape(array) for array in arrays}
    if len(shapes) != 1:
        raise InvalidImage(f"expected images on one grid, found shapes {sorted(shapes)}")
