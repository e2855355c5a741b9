"""How well classes are found, as Keras metrics: counted over all batches, and scored at the end.

The mean over batches of a score of each batch, which `nobrainer` reports, depends on how the voxels are
batched, and counts a batch without a class as perfect. Here the voxels of all batches are counted first.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.training.losses.class_maps import as_indices, as_one_hot, as_probability
from kerasneuro.training.losses.overlap import Dice, Jaccard
from kerasneuro.training.metrics.class_overlap import ClassOverlap


class OverlapMetric(keras.metrics.Metric):
    """Counts of the voxels that are of a class, were given it, and both; the base of Dice and Jaccard.

    Parameters
    ----------
    classes : int
        Channels of the prediction; 1: the foreground's probability.
    background : bool
        Whether class 0 counts in the mean, where there are more.
    threshold : float
        Of one channel: foreground is above it. Of more, the largest channel is the class.
    from_logits : bool
        Predictions are logits; matters for one channel.
    name : str
        Shown in logs.

    Notes
    -----
    The counts are float32: exact up to 2^24 voxels of a class, then rounded to 1 part in 10^7.
    """

    def __init__(
        self,
        classes: int = 1,
        background: bool = False,
        threshold: float = 0.5,
        from_logits: bool = False,
        name: str = "overlap",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if classes < 1:
            raise InvalidOption(f"classes is the number of channels, 1 or more; found {classes}")
        self.classes, self.background = classes, background
        self.threshold, self.from_logits = threshold, from_logits
        names = ("truth", "predicted", "common")
        self.counts = [self.add_variable((max(classes, 2),), "zeros", name=part) for part in names]

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch: truth ``(B, ..., C)`` or indices ``(B, ...)``; what weighs 0 is left out."""
        y_pred = ops.convert_to_tensor(y_pred)
        channels = y_pred.shape[-1]
        if channels != self.classes:
            raise InvalidOption(f"{self.name} was made for {self.classes} channels, found {channels}")
        truth = _one_hot(as_indices(as_one_hot(y_true, y_pred)), channels)
        if channels == 1:
            foreground = as_probability(y_pred, self.from_logits)[..., 0] > self.threshold
            predicted = _one_hot(ops.cast(foreground, "int32"), channels)
        else:
            predicted = _one_hot(ops.argmax(y_pred, axis=-1), channels)
        if sample_weight is not None:
            counted = ops.cast(ops.convert_to_tensor(sample_weight) > 0, "float32")
            counted = ops.reshape(counted, (*counted.shape, *(1,) * (len(truth.shape) - len(counted.shape))))
            truth, predicted = truth * counted, predicted * counted
        axis = tuple(range(len(truth.shape) - 1))
        for variable, values in zip(self.counts, (truth, predicted, truth * predicted), strict=True):
            variable.assign_add(ops.sum(values, axis=axis))

    def class_scores(self) -> Any:
        """Return the score of each class, shape ``(C,)`` (``(2,)`` for one channel); NaN without voxels."""
        truth, predicted, common = (ops.convert_to_tensor(count) for count in self.counts)
        part, whole = self.ratio(truth, predicted, common)
        found = part / ops.where(whole > 0, whole, ops.ones_like(whole))
        return ops.where(whole > 0, found, float("nan") * ops.ones_like(whole))

    def ratio(self, truth: Any, predicted: Any, common: Any) -> tuple[Any, Any]:
        """Return numerator and denominator of the score of each class."""
        raise NotImplementedError

    def result(self) -> Any:
        """Return the mean score of the classes that occur in truth or prediction; NaN before there is one."""
        scores = self.class_scores()
        scores = scores if self.background else scores[1:]
        known = ops.logical_not(ops.isnan(scores))
        total = ops.sum(ops.where(known, scores, ops.zeros_like(scores)))
        return total / ops.sum(ops.cast(known, "float32"))

    def overlap(self) -> ClassOverlap:
        """Return the counts, from which recall and precision can be had, too."""
        return ClassOverlap(*(np.rint(ops.convert_to_numpy(count)).astype(np.int64) for count in self.counts))

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the metric."""
        names = ("classes", "background", "threshold", "from_logits")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kerasneuro")
class DiceMetric(OverlapMetric):
    """Dice's coefficient of hard labels, averaged over the classes.

    Parameters
    ----------
    classes, background, threshold, from_logits, name
        As in `OverlapMetric`.

    Examples
    --------
    >>> from kerasneuro.training.metrics.overlap import DiceMetric
    >>> metric = DiceMetric(classes=3)
    >>> metric.update_state([[0, 1, 1, 2]], [[[0.9, 0, 0], [0, 0.9, 0], [0.9, 0, 0], [0, 0, 0.9]]])
    >>> [round(float(score), 3) for score in metric.class_scores()]
    [0.667, 0.667, 1.0]
    """

    def __init__(self, classes: int = 1, name: str = "dice", **kwargs: Any) -> None:
        super().__init__(classes, name=name, **kwargs)

    def ratio(self, truth: Any, predicted: Any, common: Any) -> tuple[Any, Any]:
        """Return numerator and denominator."""
        return 2 * common, truth + predicted


@keras.saving.register_keras_serializable(package="kerasneuro")
class JaccardMetric(OverlapMetric):
    """Jaccard's coefficient (IoU) of hard labels, averaged over the classes.

    Parameters
    ----------
    classes, background, threshold, from_logits, name
        As in `OverlapMetric`.
    """

    def __init__(self, classes: int = 1, name: str = "jaccard", **kwargs: Any) -> None:
        super().__init__(classes, name=name, **kwargs)

    def ratio(self, truth: Any, predicted: Any, common: Any) -> tuple[Any, Any]:
        """Return numerator and denominator."""
        return common, truth + predicted - common


def soft_dice_score(y_true: Any, y_pred: Any) -> Any:
    """Compute nobrainer's metric "dice": soft, all classes in one overlap, one value for each item."""
    return 1 - Dice().call(y_true, y_pred)


def soft_jaccard_score(y_true: Any, y_pred: Any) -> Any:
    """Compute nobrainer's metric "jaccard": soft, all classes in one overlap, one value for each item."""
    return 1 - Jaccard().call(y_true, y_pred)


def _one_hot(indices: Any, channels: int) -> Any:
    return ops.one_hot(indices, max(channels, 2), dtype="float32")
