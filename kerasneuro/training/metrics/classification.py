"""How well a classifier of two classes tells them apart, with intervals that respect who is who."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

NAMES = ("AUROC", "average precision", "accuracy", "F1", "sensitivity", "specificity")
RESAMPLES = 1000
LEVEL = 0.95
BINS = 10


@dataclass(frozen=True)
class Score:
    """A number and its bootstrap interval; NaN where it has no meaning."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """Predicted against observed frequency: shapes ``(K,)``, of the bins that hold something.

    Attributes
    ----------
    predicted, observed : numpy.ndarray
        Mean probability, and share of the positive class.
    counts : numpy.ndarray
        Samples.
    error : float
        Expected calibration error: mean distance, weighted by the counts.
    brier : float
        Mean squared distance of probability and label.
    """

    predicted: np.ndarray
    observed: np.ndarray
    counts: np.ndarray
    error: float
    brier: float


def confusion(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Count samples, shape ``(2, 2)``: rows are true, columns predicted classes; 1 is positive."""
    return np.bincount(2 * labels.astype(int) + predicted.astype(int), minlength=4).reshape(2, 2)


def area_under_roc(labels: np.ndarray, probability: np.ndarray) -> float:
    """Return how often a positive sample lies above a negative one; equal ones count half."""
    positive = int(labels.sum())
    negative = len(labels) - positive
    if not positive or not negative:
        return float("nan")
    ranks = rankdata(probability)[labels == 1].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * negative))


def average_precision(labels: np.ndarray, probability: np.ndarray) -> float:
    """Return the mean precision over the steps of the recall, as scikit-learn does."""
    if not labels.any():
        return float("nan")
    order = np.argsort(-probability, kind="stable")
    found = np.cumsum(labels[order])
    # Equal probabilities are told apart by no threshold, so they make one step.
    last = np.append(np.flatnonzero(np.diff(probability[order])), len(labels) - 1)
    recall = found[last] / found[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * found[last] / (last + 1)))


def all_scores(labels: np.ndarray, probability: np.ndarray, threshold: float) -> tuple[float, ...]:
    """Compute the scores in the order of `NAMES`; NaN where one has no meaning."""
    (right_negative, false_positive), (missed, found) = confusion(labels, probability >= threshold).tolist()

    def share(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    return (
        area_under_roc(labels, probability),
        average_precision(labels, probability),
        share(found + right_negative, len(labels)),
        share(2 * found, 2 * found + false_positive + missed),
        share(found, found + missed),
        share(right_negative, right_negative + false_positive),
    )


def score(
    labels: np.ndarray,
    probability: np.ndarray,
    subjects: Sequence[str],
    *,
    threshold: float = 0.5,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Score, ...]:
    """Compute AUROC, average precision, accuracy, F1, sensitivity and specificity with 95 % intervals.

    The intervals are percentiles of a bootstrap that draws subjects, not samples, so that several samples of
    a person do not make them too narrow. Draws in which a score has no meaning are left out.

    Parameters
    ----------
    labels : numpy.ndarray
        0 and 1, shape ``(N,)``; 1 is positive.
    probability : numpy.ndarray
        Of the positive class, shape ``(N,)``.
    subjects : sequence of str
        Who each sample is of.
    threshold : float
        From this probability on a sample is called positive.
    resamples : int
        Draws of the bootstrap; 0 gives no intervals.
    seed : int
        Of the draws.

    Returns
    -------
    tuple of Score
        In the order of `NAMES`.
    """
    labels, probability = np.asarray(labels).astype(int), np.asarray(probability, dtype=np.float64)
    _, owner = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
    members = [np.flatnonzero(owner == person) for person in range(owner.max(initial=-1) + 1)]
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        chosen = generator.integers(len(members), size=len(members))
        rows = np.concatenate([members[person] for person in chosen])
        draws.append(all_scores(labels[rows], probability[rows], threshold))
    drawn = np.array(draws).reshape(-1, len(NAMES))
    values = all_scores(labels, probability, threshold)
    return tuple(
        Score(name, value, *_interval(drawn[:, index]))
        for index, (name, value) in enumerate(zip(NAMES, values, strict=True))
    )


def _interval(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def calibration(labels: np.ndarray, probability: np.ndarray, bins: int = BINS) -> Calibration:
    """Compare probabilities with frequencies in bins of equal width.

    Parameters
    ----------
    labels, probability : numpy.ndarray
        As for `score`.
    bins : int
        Between 0 and 1.
    """
    labels, probability = np.asarray(labels, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    place = np.minimum((probability * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    kept = counts > 0
    predicted = np.bincount(place, probability, bins)[kept] / counts[kept]
    observed = np.bincount(place, labels, bins)[kept] / counts[kept]
    error = float(np.sum(counts[kept] * np.abs(predicted - observed)) / len(labels))
    brier = float(np.mean((probability - labels) ** 2))
    return Calibration(predicted, observed, counts[kept], error, brier)
