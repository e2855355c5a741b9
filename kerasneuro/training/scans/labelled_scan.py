"""Read a labelled scan, bring it to what a network takes, and note where its classes are."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.training.description import describe
from kerasneuro.training.scans.class_table import ClassTable
from kerasneuro.training.scans.pairs import GRID_TOLERANCE, Pair
from kerasneuro.volume.image import Volume, load
from kerasneuro.volume.intensity import zscore

Prepare = Callable[[Volume], Volume]
MOST_PLACES = 20_000  # of each class that is drawn from


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """One prepared scan.

    Attributes
    ----------
    image : numpy.ndarray
        Shape ``(X, Y, Z, C)``, float32; not to be written to.
    classes : numpy.ndarray
        Class indices, shape ``(X, Y, Z)``, uint8 or uint16.
    places : tuple of numpy.ndarray
        For each class, voxels that belong to it, as positions in the flat array; at most 20000 of them, drawn
        at random.
    """

    image: np.ndarray
    classes: np.ndarray
    places: tuple[np.ndarray, ...]

    @property
    def present(self) -> tuple[int, ...]:
        """Classes other than the background that occur."""
        return tuple(index for index, found in enumerate(self.places) if index and len(found))


def read_scan(pair: Pair, classes: ClassTable, prepare: Prepare | None = None) -> LabelledScan:
    """Read the channels and the label map of a pair, and bring both to what a network takes.

    Raises
    ------
    InvalidImage
        If a file cannot be used, or has labels of no class.
    """
    volumes = [_prepared(load(path), prepare, path) for path in pair.images]
    first = volumes[0]
    if any(volume.shape != first.shape for volume in volumes):
        shapes = sorted({volume.shape for volume in volumes})
        raise InvalidImage(f"subject {pair.subject}: the prepared channels have the shapes {shapes}")
    image = np.stack([volume.array for volume in volumes], axis=-1).astype(np.float32, copy=False)
    assert pair.labels is not None
    given = load(pair.labels, dtype=None, check_constant=False)
    indices = classes.encode(given.array, f"the label map {pair.labels}")
    indices = np.ascontiguousarray(_onto(indices, given.affine, first))
    return LabelledScan(np.ascontiguousarray(image), indices, _find_places(indices, len(classes)))


def _prepared(volume: Volume, prepare: Prepare | None, path: Path) -> Volume:
    result: Any = volume if prepare is None else prepare(volume)
    if isinstance(result, tuple):  # With the way back, as many steps of kerasneuro.volume return it.
        result = result[0]
    if not isinstance(result, Volume):
        raise InvalidOption(f"prepare returns a Volume, found {type(result).__name__} for {path}")
    return result


def _onto(classes: np.ndarray, affine: np.ndarray, grid: Volume) -> np.ndarray:
    """Move class indices to the grid of a prepared image; nearest neighbour, background outside."""
    if classes.shape == grid.shape and np.allclose(affine, grid.affine, atol=GRID_TOLERANCE):
        return classes
    from scipy import ndimage

    matrix = np.linalg.inv(affine) @ grid.affine
    matrix = np.where(np.abs(matrix - np.rint(matrix)) < 1e-6, np.rint(matrix), matrix)
    return np.asarray(ndimage.affine_transform(classes, matrix, output_shape=grid.shape, order=0))


def _find_places(classes: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    """List voxels of each class but the background; many of a class are thinned at random, always alike."""
    flat = np.flatnonzero(classes)
    values = classes.reshape(-1)[flat]
    order = np.argsort(values, kind="stable")
    ends = np.searchsorted(values[order], np.arange(count + 1))
    generator = np.random.default_rng(0)
    places = [np.empty(0, np.int64)]
    for low, high in itertools.pairwise(ends[1:]):
        chosen = order[low:high]
        if len(chosen) > MOST_PLACES:
            chosen = chosen[np.unique(generator.integers(len(chosen), size=MOST_PLACES))]
        places.append(flat[chosen])
    return tuple(places)


@dataclass(frozen=True)
class Voxelwise:
    """Make a preparation of volumes from a function of voxels.

    Attributes
    ----------
    function : callable
        From voxels ``(X, Y, Z)`` to voxels of the same shape.
    """

    function: Callable[[np.ndarray], np.ndarray]

    @property
    def key(self) -> str:
        """What tells this preparation from others."""
        return describe(self.function)

    def __call__(self, volume: Volume) -> Volume:
        """Return the volume with other voxels."""
        return volume.replace(array=self.function(volume.array))


standardise = Voxelwise(zscore)
"""Bring a volume to mean 0 and standard deviation 1."""
