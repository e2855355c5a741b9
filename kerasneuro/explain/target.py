"""Which number is explained: the score of a class, or its mean over a region of a segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.explain.gradients import compute_scores, score_shape
from kerasneuro.explain.split import Split

ClassIndex = int | Sequence[int] | None


def weights_of(
    split: Split, features: list[np.ndarray], class_index: ClassIndex, mask: np.ndarray | None
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return `score_weights` of a feature map; scores are computed only where class or region need them."""
    shape = score_shape(split, features)
    known = class_index is not None and (len(shape) == 2 or mask is not None)
    scores = np.zeros(shape, np.float32) if known else compute_scores(split, features)
    return score_weights(scores, class_index, mask, split.threshold)


def score_weights(
    scores: np.ndarray,
    class_index: ClassIndex = None,
    mask: np.ndarray | None = None,
    threshold: float = 0.0,
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the weights that turn scores into the number to explain, one for each sample.

    Parameters
    ----------
    scores : ndarray
        Shape ``(B, K)``: the score of the class is explained; or ``(B, X, Y, Z, K)``: its mean over a region.
    class_index : int, sequence of int, or None
        One class for all samples or one for each. None: the highest score; of a segmentation, the class
        above 0 with most voxels.
    mask : ndarray, optional
        Shape ``(B, X, Y, Z)`` or ``(X, Y, Z)``, the region of a segmentation; None: the voxels that the
        network gives to the class.
    threshold : float
        Score of a single output channel above which a voxel belongs to the class.

    Returns
    -------
    weights : ndarray
        Shape of `scores`, float32; 0 except for the class.
    classes : tuple of int
        The class of each sample.

    Raises
    ------
    InvalidOption
        If there is no such class, or its region is empty or of another shape.
    """
    if scores.ndim == 2:
        if mask is not None:
            raise InvalidOption(
                "mask chooses a region of a segmentation; this model gives one score per class"
            )
        classes = _classes(class_index, scores.argmax(axis=-1), scores)
        weights = np.zeros(scores.shape, np.float32)
        weights[np.arange(len(weights)), classes] = 1
        return weights, classes
    if scores.ndim != 5:
        raise InvalidOption(f"expected scores (B, K) or (B, X, Y, Z, K) of the model, found {scores.shape}")
    labels = _labels(scores, threshold)
    largest = (
        [_largest(sample, class_index) for sample in labels] if scores.shape[-1] > 1 else [0] * len(scores)
    )
    classes = _classes(class_index, np.asarray(largest), scores)
    regions = _regions(mask, labels, classes, single=scores.shape[-1] == 1)
    weights = np.zeros(scores.shape, np.float32)
    for sample, (region, chosen) in enumerate(zip(regions, classes, strict=True)):
        weights[sample, ..., chosen] = region / region.sum()
    return weights, classes


def _classes(class_index: ClassIndex, found: np.ndarray, scores: np.ndarray) -> tuple[int, ...]:
    batch, count = scores.shape[0], scores.shape[-1]
    values: Any = found if class_index is None else class_index
    values = list(values) if isinstance(values, Sequence | np.ndarray) else [values] * batch
    whole = all(isinstance(value, int | np.integer) and 0 <= value < count for value in values)
    if len(values) != batch or not whole:
        raise InvalidOption(
            f"class_index must be a whole number from 0 to {count - 1}, or one for each of {batch} samples; "
            f"got {class_index!r}"
        )
    return tuple(int(value) for value in values)


def _labels(scores: np.ndarray, threshold: float) -> np.ndarray:
    return scores.argmax(axis=-1) if scores.shape[-1] > 1 else (scores[..., 0] > threshold).astype(np.int64)


def _largest(labels: np.ndarray, class_index: ClassIndex) -> int:
    """Return the class above 0 with most voxels of one sample; -1 if there is none and one is asked for."""
    counts = np.bincount(labels.ravel())[1:]
    if counts.any():
        return int(counts.argmax()) + 1
    if class_index is None:
        raise InvalidOption(
            "the network finds nothing but the background (class 0); give class_index and mask"
        )
    return 0


def _regions(
    mask: np.ndarray | None, labels: np.ndarray, classes: tuple[int, ...], *, single: bool
) -> np.ndarray:
    if mask is None:
        own = np.ones(len(classes), int) if single else np.asarray(classes)
        regions = labels == own[:, None, None, None]
    else:
        given = np.asarray(mask) != 0
        if given.shape not in (labels.shape, labels.shape[1:]):
            raise InvalidOption(f"mask must have the shape {labels.shape}, found {given.shape}")
        regions = np.broadcast_to(given, labels.shape)
    empty = [i for i, region in enumerate(regions) if not region.any()]
    if empty:
        reason = "the mask is empty" if mask is not None else f"no voxel is of class {classes[empty[0]]}"
        raise InvalidOption(f"sample {empty[0]}: {reason}; give another class_index or mask")
    return regions
