"""Patches of labelled scans in batches, for `keras.Model.fit`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.inference.grid import make_grid, per_axis
from kerasneuro.training.scans.cutting import augmented_patch
from kerasneuro.training.scans.labelled_dataset import LabelledDataset

Sampling = Literal["uniform", "balanced", "grid"]
SAMPLINGS = ("uniform", "balanced", "grid")
# Kinds of draws, so that none shares its numbers with another.
OF_PATCH, OF_ORDER, OF_SHARE = 1, 2, 3


class PatchDataset(LabelledDataset):
    """Batches ``(images, targets)`` of patches.

    Images are float32 ``(B, X, Y, Z, C)``; targets are one-hot float32 ``(B, X, Y, Z, K)``, or class indices
    int32 ``(B, X, Y, Z)``. Every patch depends on seed, epoch and its number alone, not on the worker that
    makes it. Give `fit` the callback `follow` and ``shuffle=False`` (Keras would shuffle the batches once
    more): training that resumes with ``initial_epoch=`` then sees what it would have seen.

    Parameters
    ----------
    pairs : sequence
        What `find_pairs` takes.
    patch_shape : int or sequence of int
        Voxels of a patch; a scan that is smaller is filled up with zeros and background.
    classes : ClassTable or what describes one
        Meaning of the label values, for `ClassTable.of`.
    sampling : {"balanced", "uniform", "grid"}
        Patches anywhere in the scan, with every place equally likely; or the share `foreground` of them
        about a voxel of a class other than the background, all classes that the scan has equally likely; or
        side by side over the whole scan, every voxel in one patch at least.
    patches_per_volume : int
        In an epoch, unless they lie on a grid.
    foreground : float
        Share of the patches of each scan that are drawn about a class, where sampling is balanced.
    overlap : float
        Part of a patch that its neighbours on the grid share.
    shuffle : bool, optional
        Mix the patches anew in each epoch; by default all but those of a grid.
    mix : int
        Scans whose patches are mixed with each other; so many are kept in memory.
    drop_remainder : bool
        Leave out the last batch if it is smaller, since other sizes are compiled once more.
    **kwargs
        As in `LabelledDataset`: batch_size, prepare, augment, one_hot, cache, redraw, prefetch, seed, epoch.

    Raises
    ------
    InvalidOption
        If an option lies outside its range, or there is no patch.
    InvalidImage
        If a file cannot be used, or has labels of no class; while training, since they are read then.

    Examples
    --------
    >>> data = PatchDataset(
    ...     [("T1_a.nii.gz", "labels_a.nii.gz"), ("T1_b.nii.gz", "labels_b.nii.gz")],
    ...     patch_shape=64,
    ...     batch_size=2,
    ...     classes={"tumour": 1},
    ... )  # doctest: +SKIP
    >>> model.fit(data, epochs=10, shuffle=False, callbacks=[data.follow()])  # doctest: +SKIP
    """

    def __init__(
        self,
        pairs: Any,
        *,
        patch_shape: int | Sequence[int],
        classes: Any,
        sampling: Sampling = "balanced",
        patches_per_volume: int = 8,
        foreground: float = 0.5,
        overlap: float = 0.0,
        shuffle: bool | None = None,
        mix: int = 4,
        drop_remainder: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(pairs, classes=classes, kept=2 * mix, **kwargs)
        self.patch_shape = per_axis(patch_shape, 3)
        if sampling not in SAMPLINGS or not (0 <= foreground <= 1 and 0 <= overlap < 1):
            raise InvalidOption(
                f"sampling is one of {', '.join(SAMPLINGS)}, foreground lies in [0, 1] and overlap in "
                f"[0, 1); found {sampling!r}, {foreground} and {overlap}"
            )
        if min(patches_per_volume, mix, *self.patch_shape) < 1:
            raise InvalidOption(
                "patches_per_volume, mix and patch_shape are at least 1, found "
                f"{patches_per_volume}, {mix} and {self.patch_shape}"
            )
        self.sampling, self.foreground, self.mix = sampling, foreground, mix
        self.shuffle = sampling != "grid" if shuffle is None else shuffle
        self.drop_remainder = drop_remainder
        self._grids = [self._grid(number, overlap) for number in range(len(self.store))]
        counts = [len(grid) if sampling == "grid" else patches_per_volume for grid in self._grids]
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self._order: tuple[int, np.ndarray] | None = None
        if not len(self):
            raise InvalidOption(
                f"{self.patches} patches make no batch of {self.batch_size}; set drop_remainder to False, or "
                "patches_per_volume higher"
            )

    @property
    def patches(self) -> int:
        """Number of patches in an epoch."""
        return int(self._first[-1])

    def __len__(self) -> int:
        whole, rest = divmod(self.patches, self.batch_size)
        return whole + (rest > 0 and not self.drop_remainder)

    def batch(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Make one batch of an epoch."""
        chosen = self.order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        return self.together([self.patch(epoch, number) for number in chosen.tolist()])

    def order(self, epoch: int) -> np.ndarray:
        """Return the numbers of the patches in the order of an epoch."""
        kept = self._order
        if kept is None or kept[0] != epoch:
            kept = self._order = epoch, self._mixed(epoch)
        return kept[1]

    def _mixed(self, epoch: int) -> np.ndarray:
        """Mix the patches of a few scans at a time, so that each scan is read once."""
        if not self.shuffle:
            return np.arange(self.patches)
        generator = self.generator(epoch, OF_ORDER)
        scans = generator.permutation(len(self.store))
        parts = []
        for low in range(0, len(scans), self.mix):
            numbers = [
                np.arange(self._first[scan], self._first[scan + 1]) for scan in scans[low : low + self.mix]
            ]
            parts.append(generator.permutation(np.concatenate(numbers)))
        return np.concatenate(parts)

    def patch(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Make one patch of an epoch.

        Parameters
        ----------
        epoch : int
            Which draws.
        number : int
            From 0 to `patches` - 1; those of one scan follow each other.

        Returns
        -------
        image : numpy.ndarray
            Shape ``(X, Y, Z, C)``, float32.
        classes : numpy.ndarray
            Class indices, shape ``(X, Y, Z)``.
        """
        generator = self.generator(epoch, OF_PATCH, number)
        which, start = self._place(epoch, number, generator)
        scan = self.store[which]
        return augmented_patch(scan.image, scan.classes, start, self.patch_shape, self.augment, generator)

    def position(self, epoch: int, number: int) -> tuple[int, tuple[int, ...]]:
        """Return the number of the scan of a patch, and the patch's first voxel before augmentation."""
        return self._place(epoch, number, self.generator(epoch, OF_PATCH, number))

    def _place(self, epoch: int, number: int, generator: np.random.Generator) -> tuple[int, tuple[int, ...]]:
        which = int(np.searchsorted(self._first, number, side="right")) - 1
        within = number - int(self._first[which])
        if self.sampling == "grid":
            return which, self._grids[which][within]
        scan = self.store[which]
        room = np.array(scan.classes.shape) - self.patch_shape
        low, high = np.minimum(room, 0), np.maximum(room, 0)
        if self.sampling == "balanced" and scan.present and self._about_a_class(epoch, which, within):
            places = scan.places[generator.choice(scan.present)]
            voxel = np.unravel_index(generator.choice(places), scan.classes.shape)
            start = np.clip(np.array(voxel) - np.array(self.patch_shape) // 2, low, high)
        else:
            start = generator.integers(low, high, endpoint=True)
        return which, tuple(start.tolist())

    def _about_a_class(self, epoch: int, which: int, within: int) -> bool:
        """Spread the share of the foreground evenly over the patches of a scan."""
        offset = self.generator(epoch, OF_SHARE, which).random()
        return int((within + 1) * self.foreground + offset) > int(within * self.foreground + offset)

    def _grid(self, number: int, overlap: float) -> list[tuple[int, ...]]:
        if self.sampling != "grid":
            return []
        grid = make_grid(self.store.shape(number), self.patch_shape, overlap, "shift")
        return list(itertools.product(*grid.starts))
