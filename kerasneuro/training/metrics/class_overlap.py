"""How well predicted labels cover the true ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassOverlap:
    """Counts of positions by class, and the scores made of them; NaN where a score has no meaning.

    Attributes
    ----------
    truth, predicted, common : numpy.ndarray
        Shape ``(C,)``, int64: positions that are of the class, that were given it, and both.
    """

    truth: np.ndarray
    predicted: np.ndarray
    common: np.ndarray

    @property
    def dice(self) -> np.ndarray:
        """Twice the common positions by the sum of both; NaN for a class that occurs in neither."""
        return _ratio(2 * self.common, self.truth + self.predicted)

    @property
    def jaccard(self) -> np.ndarray:
        """Common positions by those of either (IoU)."""
        return _ratio(self.common, self.truth + self.predicted - self.common)

    @property
    def recall(self) -> np.ndarray:
        """Common positions by the true ones."""
        return _ratio(self.common, self.truth)

    @property
    def precision(self) -> np.ndarray:
        """Common positions by the predicted ones."""
        return _ratio(self.common, self.predicted)

    def __add__(self, other: ClassOverlap) -> ClassOverlap:
        """Join the counts of two parts of the data."""
        return ClassOverlap(
            self.truth + other.truth, self.predicted + other.predicted, self.common + other.common
        )


def class_overlap(labels: np.ndarray, predicted: np.ndarray, classes: int) -> ClassOverlap:
    """Count, class by class, where predicted labels agree with the true ones.

    Parameters
    ----------
    labels, predicted : numpy.ndarray
        Class indices 0 ... classes - 1, of one shape; positions whose true label lies outside are left out.
    classes : int
        Number of classes, background included.

    Returns
    -------
    ClassOverlap
        Counts; parts of a data set are added up.
    """
    labels, predicted = np.asarray(labels).reshape(-1), np.asarray(predicted).reshape(-1)
    known = (labels >= 0) & (labels < classes)
    labels, predicted = labels[known].astype(np.int64), predicted[known].astype(np.int64)

    def count(values: np.ndarray) -> np.ndarray:
        return np.bincount(values, minlength=classes)[:classes]

    return ClassOverlap(count(labels), count(predicted), count(labels[labels == predicted]))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
