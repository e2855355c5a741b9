"""Integrated gradients: how much each voxel adds to the score of a class, against a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.explain.gradients import check_batch, compute_scores, differentiate, require_gradients
from kerasneuro.explain.split import split_model
from kerasneuro.explain.target import ClassIndex, weights_of
from kerasneuro.inference.progress import reporting
from kerasneuro.inference.settings import Progress, check_positive

LARGEST_GAP = 0.05  # part of the change of the score that may be missing before a doubt is raised


@dataclass(frozen=True)
class IntegratedGradients:
    """Attributions, and whether they are complete.

    Attributes
    ----------
    values : ndarray
        Shape ``(B, X, Y, Z, C)``, float32, signed: what each voxel adds to the score.
    change : ndarray
        Shape ``(B,)``: score of the input minus score of the baseline.
    gap : ndarray
        Shape ``(B,)``: sum of `values` minus `change`; 0 for infinitely many steps.
    classes : tuple of int
        The class that is explained, for each sample.
    warnings : tuple of str
        Said if the gap is large.
    """

    values: np.ndarray
    change: np.ndarray
    gap: np.ndarray
    classes: tuple[int, ...]
    warnings: tuple[str, ...] = ()


def integrated_gradients(
    model: Any,
    batch: np.ndarray,
    class_index: ClassIndex = None,
    baseline: float | np.ndarray | None = None,
    steps: int = 32,
    *,
    mask: np.ndarray | None = None,
    progress: Progress = False,
) -> IntegratedGradients:
    """Attribute the score of a class to the voxels, and check that the attributions add up.

    The gradient is averaged over the straight way from the baseline to the input (midpoints of equal steps)
    and multiplied by their difference; the sum over all voxels is the change of the score (completeness).

    Parameters
    ----------
    model : keras.Model
        Functional, one input ``(B, X, Y, Z, C)``, one output.
    batch : ndarray
        Shape ``(B, X, Y, Z, C)``, preprocessed as the model wants it.
    class_index, mask
        As in `grad_cam`; class and region are those of the input all the way.
    baseline : float or ndarray, optional
        What stands for "nothing there", of a shape that fits the batch; None: 0.
    steps : int
        Number of gradients; each costs a forward and a backward pass.
    progress : bool or callable
        True draws a bar on stderr; a callable gets ``(done, total)``.

    Returns
    -------
    IntegratedGradients

    Raises
    ------
    InvalidOption
        If the backend has no gradients, or an argument does not fit the model.

    References
    ----------
    Sundararajan et al. (2017), Axiomatic attribution for deep networks, https://arxiv.org/abs/1703.01365.

    Examples
    --------
    >>> found = integrated_gradients(model, batch, class_index=1)  # doctest: +SKIP
    >>> found.values.sum(), found.change  # doctest: +SKIP
    """
    require_gradients()
    check_positive("steps", steps)
    batch = check_batch(model, batch)
    start = _baseline(baseline, batch.shape)
    split = split_model(model, None)
    weights, classes = weights_of(split, [batch], class_index, mask)
    total = np.zeros(batch.shape, np.float64)
    with reporting(progress, f"integrated gradients: {steps} steps", steps) as tell:
        for step in range(steps):
            point = start + np.float32((step + 0.5) / steps) * (batch - start)
            total += differentiate(split, [point], weights)[1]
            tell(step + 1)
    values = total / steps * (batch - start)
    ends = [_numbers(compute_scores(split, [point]), weights) for point in (batch, start)]
    change = ends[0] - ends[1]
    gap = values.sum(axis=(1, 2, 3, 4)) - change
    return IntegratedGradients(values.astype(np.float32), change, gap, classes, _doubts(change, gap, steps))


def _baseline(baseline: float | np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    found = np.asarray(0.0 if baseline is None else baseline, dtype=np.float32)
    if not np.isfinite(found).all():
        raise InvalidOption("the baseline holds NaN or infinite values")
    try:
        return np.ascontiguousarray(np.broadcast_to(found, shape))
    except ValueError as error:
        raise InvalidOption(f"the baseline must fit the batch {shape}, found shape {found.shape}") from error


def _numbers(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the explained number of each sample."""
    axes = tuple(range(1, scores.ndim))
    return (scores.astype(np.float64) * weights).sum(axis=axes)


def _doubts(change: np.ndarray, gap: np.ndarray, steps: int) -> tuple[str, ...]:
    return tuple(
        f"sample {sample}: attributions add up to {moved + missing:.4g}, the score changes by {moved:.4g}; "
        f"take more than {steps} steps"
        for sample, (moved, missing) in enumerate(zip(change, gap, strict=True))
        if abs(missing) > LARGEST_GAP * abs(moved)
    )
