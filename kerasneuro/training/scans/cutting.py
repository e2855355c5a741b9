"""Cut patches out of labelled scans, changed at random or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.volume.crop import Box, cut

Changed = tuple[np.ndarray, np.ndarray]
SegmentationAugment = Callable[[np.ndarray, np.ndarray, np.random.Generator], Changed]
"""From patch ``(X, Y, Z, C)``, class indices ``(X, Y, Z)`` and generator to both, changed; shapes are kept.

An attribute ``margin`` (voxels) has the patch cut larger, changed, and then cut to its size.
"""


@runtime_checkable
class PatchAugment(Protocol):
    """A random change that takes what it needs from the whole scan itself, so that no border shows."""

    def patch(
        self,
        image: np.ndarray,
        classes: np.ndarray,
        start: Sequence[int],
        shape: Sequence[int],
        generator: np.random.Generator,
    ) -> Changed:
        """Return a changed patch of `shape` at `start`."""
        ...


def check_augment(augment: Any) -> SegmentationAugment | None:
    """Return a random change as `augmented_patch` takes it; transforms of TorchIO and lists are wrapped.

    Raises
    ------
    InvalidOption
        If it cannot be called.
    """
    if augment is not None and type(augment).__module__.partition(".")[0] == "torchio":
        from kerasneuro.training.changes.torchio import TorchioAugment

        return TorchioAugment(augment)
    if isinstance(augment, (list, tuple)):
        from kerasneuro.training.changes.chain import Chain

        return Chain(augment)
    if augment is not None and not callable(augment):
        raise InvalidOption(
            "augment is an Augmentation, a transform of TorchIO, a function of patch, class indices and "
            f"generator, or a list of these; found {augment!r}"
        )
    return augment


def augmented_patch(
    image: np.ndarray,
    classes: np.ndarray,
    start: Sequence[int],
    shape: Sequence[int],
    augment: SegmentationAugment | None,
    generator: np.random.Generator,
) -> Changed:
    """Cut a patch, and change it.

    Parameters
    ----------
    image : numpy.ndarray
        Whole scan ``(X, Y, Z, C)``, float32.
    classes : numpy.ndarray
        Class indices ``(X, Y, Z)``.
    start, shape : sequence of int
        First voxel, which may lie outside, and size of the patch.
    augment : callable, optional
        As from `check_augment`.
    generator : numpy.random.Generator
        Where the change is drawn from.

    Returns
    -------
    image : numpy.ndarray
        Shape ``(*shape, C)``, float32; zeros outside the scan.
    classes : numpy.ndarray
        Shape `shape`; 0 outside the scan.

    Raises
    ------
    InvalidOption
        If the change alters the shape.
    """
    if isinstance(augment, PatchAugment):
        return augment.patch(image, classes, start, shape, generator)
    if augment is None:
        return cut(image, box_at(start, shape)), cut(classes, box_at(start, shape))
    margin = int(getattr(augment, "margin", 0))
    box = box_at([low - margin for low in start], [size + 2 * margin for size in shape])
    # Copies, so that a change in place stays in the patch.
    patch, labels = augment(np.array(cut(image, box)), np.array(cut(classes, box)), generator)
    inner = tuple(slice(margin, margin + size) for size in shape)
    patch, labels = patch[inner], labels[inner]
    if patch.shape != (*shape, image.shape[-1]) or labels.shape != tuple(shape):
        raise InvalidOption(
            f"the augmentation returns patches of shape {patch.shape} and {labels.shape}, expected "
            f"{(*shape, image.shape[-1])} and {tuple(shape)}; leave transforms out that change the shape"
        )
    return np.asarray(patch, np.float32), np.asarray(labels, classes.dtype)


def box_at(start: Sequence[int], shape: Sequence[int]) -> Box:
    """Return the box of a size whose first voxel is given."""
    x, y, z = ((int(low), int(low) + int(size)) for low, size in zip(start, shape, strict=True))
    return x, y, z
