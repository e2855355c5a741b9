"""Batches of thick slices with labels and weights of pixels, for `keras.Model.fit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.models.fastsurfer import targets
from kerasneuro.models.fastsurfer.graph import MULTIPLE
from kerasneuro.models.fastsurfer.slices import PLANES, ThickSlices
from kerasneuro.training.changes.volumes import random_shift
from kerasneuro.training.epochs import EpochDataset
from kerasneuro.volume import conform_mgh, load
from kerasneuro.volume.conform_mgh import header_affine
from kerasneuro.volume.image import Image

BATCH_SIZE = 16
PAD = 8

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """One scan and what each voxel is, ready to be cut into slices.

    Attributes
    ----------
    image : numpy.ndarray
        Conformed scan, shape ``(I, J, K)``, uint8, axes to left, inferior, anterior.
    classes : numpy.ndarray
        Class indices, shape ``(I, J, K)``, uint8.
    edges : numpy.ndarray
        From `targets.edges`, bool.
    class_weights : numpy.ndarray
        From `targets.class_weights`, shape ``(C,)``.
    """

    image: np.ndarray
    classes: np.ndarray
    edges: np.ndarray
    class_weights: np.ndarray


def label_volume(image: np.ndarray, classes: np.ndarray, n_classes: int) -> LabelledVolume:
    """Put a scan and its classes together, and weigh the classes.

    Parameters
    ----------
    image : numpy.ndarray
        Conformed scan (`kerasneuro.volume.conform_mgh`), shape ``(I, J, K)``, uint8.
    classes : numpy.ndarray
        Class indices on the same grid, uint8: from `targets.class_volume`, or from `targets.classes_of` with
        labels of your own.
    n_classes : int
        Number of classes, background included.

    Returns
    -------
    LabelledVolume
        For `SliceDataset`.

    Raises
    ------
    InvalidImage
        If type or shape is another, or a class is too large.
    """
    if image.ndim != 3 or image.dtype != np.uint8 or classes.dtype != np.uint8:
        raise InvalidImage(
            "expected a conformed scan and classes, both of three dimensions and uint8, found "
            f"{image.ndim} of {image.dtype} and {classes.ndim} of {classes.dtype}; conform the scan, and map "
            "the labels to classes"
        )
    if image.shape != classes.shape:
        raise InvalidImage(
            f"the scan has shape {image.shape}, its labels {classes.shape}; conform both alike"
        )
    weights = targets.class_weights(classes, n_classes)
    return LabelledVolume(image, classes, targets.edges(classes), weights)


def read_pair(image: Image, labels: Image, ids: Sequence[int]) -> LabelledVolume:
    """Read a scan and its label map, and bring both to the conformed grid.

    Parameters
    ----------
    image : path or nibabel image
        A T1-weighted scan, as `kerasneuro.load("fastsurfer-cnn")` takes it.
    labels : path or nibabel image
        Whole numbers on any grid in the same world space; moved by nearest neighbour.
    ids : sequence of int
        Label of each class, the background first; other labels become background.

    Returns
    -------
    LabelledVolume
        For `SliceDataset`; shape ``(256, 256, 256)``.

    Raises
    ------
    InvalidImage
        If either can not be used, or no listed label remains.
    """
    scan, _ = conform_mgh(load(image, dtype=None))
    given = load(labels, dtype=None, check_constant=False)
    numbers = targets.whole_numbers(given.array, "the label map")
    matrix = np.linalg.inv(header_affine(given)) @ scan.affine
    moved = ndimage.affine_transform(numbers, matrix, output_shape=scan.shape, order=0)
    classes = targets.classes_of(moved, ids)
    if not classes.any():
        raise InvalidImage(
            f"the label map {given.path or ''} has none of the labels {list(ids)[1:]} on the grid of the "
            "scan; check that both are of one person and in one space"
        )
    return label_volume(scan.array, classes, len(ids))


class SliceDataset(EpochDataset):
    """Thick slices of one plane from labelled scans, in batches.

    A batch is ``(slices, classes, weights)``: float32 ``(B, H, W, 7)`` in [0, 1], uint8 ``(B, H, W)`` and
    float32 ``(B, H, W)``. Order and shifts depend on seed, epoch and batch alone, not on the worker that
    makes it. Give `fit` the callback `follow` and ``shuffle=False`` (Keras would shuffle the batches once
    more, by a generator of its own): training that resumes with ``initial_epoch=`` then sees what it would
    have seen.

    Parameters
    ----------
    volumes : sequence of LabelledVolume
        Their slices have one size; height and width are multiples of 16.
    plane : {"axial", "coronal", "sagittal"}
        Slices whose class indices add up to no more than 50 are left out.
    batch_size : int
        Slices at once; the last batch of an epoch may be smaller.
    shuffle : bool
        Draw the order anew in each epoch.
    pad : int
        Largest shift of the augmentation, in pixels; 0 for validation.
    seed, epoch : int
        Of the draws.
    **kwargs
        Workers, as `keras.utils.PyDataset` takes them.

    Raises
    ------
    InvalidImage
        If the sizes differ or do not fit, or no slice shows enough.
    InvalidOption
        If the plane is none of these, or a number is too small.
    """

    def __init__(
        self,
        volumes: Sequence[LabelledVolume],
        plane: str,
        batch_size: int = BATCH_SIZE,
        *,
        shuffle: bool = True,
        pad: int = PAD,
        seed: int = 0,
        epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(epoch, **kwargs)
        if plane not in PLANES or batch_size < 1 or min(pad, seed, epoch) < 0:
            raise InvalidOption(
                f"plane is one of {', '.join(PLANES)}, batch_size at least 1, pad, seed and epoch not "
                f"negative; found {plane!r}, {batch_size}, {pad}, {seed} and {epoch}"
            )
        self.volumes, self.plane = list(volumes), PLANES[plane]
        self.batch_size, self.shuffle, self.pad, self.seed = batch_size, shuffle, pad, seed
        self._slices = [ThickSlices(volume.image, self.plane) for volume in self.volumes]
        self.size = self._common_size()
        axis = self.plane.slice_axis
        self.entries = [
            (number, int(index))
            for number, volume in enumerate(self.volumes)
            for index in targets.worthwhile_slices(volume.classes, axis)
        ]
        if not self.entries:
            raise InvalidImage(
                "no slice shows labels enough to train on; check that scans and labels overlap"
            )

    def _common_size(self) -> tuple[int, int]:
        sizes = {slices.shape for slices in self._slices}
        if len(sizes) != 1 or any(length % MULTIPLE for size in sizes for length in size):
            raise InvalidImage(
                f"the slices have sizes {sorted(sizes)}, expected one size of multiples of {MULTIPLE}; "
                "conform all scans"
            )
        return sizes.pop()

    def __len__(self) -> int:
        return -(-len(self.entries) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        order = np.arange(len(self.entries))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        parts = [self._slice(*self.entries[entry]) for entry in chosen]
        images, classes, weights = (np.stack(part) for part in zip(*parts, strict=True))
        generator = np.random.default_rng([self.seed, self.epoch, index])
        images, classes, weights = random_shift([images, classes, weights], generator, self.pad)
        return images, classes, weights

    def _slice(self, number: int, index: int) -> Batch:
        volume, plane = self.volumes[number], self.plane

        def cut(array: np.ndarray) -> np.ndarray:
            return array.transpose(plane.slice_axis, plane.row_axis, plane.column_axis)[index]

        classes = cut(volume.classes)
        weights = targets.weigh(classes, cut(volume.edges), volume.class_weights)
        return self._slices[number].batch(index, 1)[0], classes, weights

    def on_epoch_end(self) -> None:
        """Draw anew; Keras calls this at least once after each epoch."""
        self.epoch += 1
