"""Occlusion: how much the score of a class falls when a part of the scan is hidden."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.explain.gradients import check_batch
from kerasneuro.explain.split import split_model
from kerasneuro.explain.target import ClassIndex, score_weights
from kerasneuro.inference.engine import Engine
from kerasneuro.inference.progress import reporting
from kerasneuro.inference.settings import Progress, check_positive

Window = tuple[slice, slice, slice]


def occlusion_sensitivity(
    model: Any,
    batch: np.ndarray,
    class_index: ClassIndex = None,
    window: int | Sequence[int] = 16,
    stride: int | Sequence[int] = 8,
    value: float = 0.0,
    *,
    mask: np.ndarray | None = None,
    batch_size: int = 4,
    progress: Progress = False,
) -> np.ndarray:
    """Measure how much the score of a class falls when a cube is hidden; needs no gradients.

    Every voxel gets the mean fall of all cubes that cover it.

    Parameters
    ----------
    model : keras.Model
        Functional, one input ``(B, X, Y, Z, C)``, one output.
    batch : ndarray
        Shape ``(B, X, Y, Z, C)``, preprocessed as the model wants it.
    class_index, mask
        As in `grad_cam`; class and region are those of the whole input.
    window : int or three int
        Edge of the cube in voxels; cut to the size of the input.
    stride : int or three int
        Step from one cube to the next; the last cube of an axis ends with it.
    value : float
        What all channels hold inside the cube.
    batch_size : int
        Hidden copies computed at once.
    progress : bool or callable
        True draws a bar on stderr; a callable gets ``(done, total)``.

    Returns
    -------
    ndarray
        Shape ``(B, X, Y, Z)``, float32: positive where hiding lowers the score.

    Raises
    ------
    InvalidOption
        If an argument does not fit the model, or the stride leaves gaps.

    References
    ----------
    Zeiler and Fergus (2014), https://doi.org/10.1007/978-3-319-10590-1_53.

    Examples
    --------
    >>> falls = occlusion_sensitivity(model, batch, window=32, stride=16)  # doctest: +SKIP
    """
    batch = check_batch(model, batch)
    windows = list(place_windows(batch.shape[1:4], _three("window", window), _three("stride", stride)))
    check_positive("batch_size", batch_size)
    split = split_model(model, None)
    engine = Engine(split.tail)
    scores = engine(batch)
    weights, _ = score_weights(scores, class_index, mask, split.threshold)
    result = np.empty(batch.shape[:4], np.float32)
    total = len(batch) * len(windows)
    with reporting(progress, f"occlusion: {total} forward passes", total) as tell:
        for sample, (volume, weight) in enumerate(zip(batch, weights, strict=True)):
            whole = float((scores[sample].astype(np.float64) * weight).sum())
            hidden = _hidden_scores(engine, volume, windows, weight, value, batch_size)
            falls = np.empty(len(windows))
            for position, found in enumerate(hidden):
                falls[position] = whole - found
                tell(sample * len(windows) + position + 1)
            result[sample] = _mean_over_windows(volume.shape[:3], windows, falls)
    return result


def place_windows(
    shape: tuple[int, ...], window: tuple[int, ...], stride: tuple[int, ...]
) -> Iterator[Window]:
    """List the cubes that cover a volume."""
    starts = []
    for extent, size, step in zip(shape, window, stride, strict=True):
        if step > size:
            raise InvalidOption(
                f"a stride of {step} leaves gaps between windows of {size}; take a smaller one"
            )
        last = max(extent - size, 0)
        starts.append([(first, min(size, extent)) for first in (*range(0, last, step), last)])
    for corner in itertools.product(*starts):
        x, y, z = (slice(first, first + size) for first, size in corner)
        yield x, y, z


def _hidden_scores(
    engine: Engine,
    volume: np.ndarray,
    windows: list[Window],
    weight: np.ndarray,
    value: float,
    batch_size: int,
) -> Iterator[float]:
    """Compute the explained number for each hidden cube."""
    size = min(batch_size, len(windows))
    for first in range(0, len(windows), size):
        chosen = windows[first : first + size]
        # The last batch keeps its size, so that no backend compiles for another one.
        copies = np.repeat(volume[np.newaxis], size, axis=0)
        for copy, place in zip(copies, chosen, strict=False):
            copy[place] = value
        for scores in engine(copies)[: len(chosen)]:
            yield float((scores.astype(np.float64) * weight).sum())


def _mean_over_windows(shape: tuple[int, ...], windows: list[Window], falls: np.ndarray) -> np.ndarray:
    total, count = np.zeros(shape), np.zeros(shape)
    for place, fall in zip(windows, falls, strict=True):
        total[place] += fall
        count[place] += 1
    return total / count


def _three(name: str, value: int | Sequence[int]) -> tuple[int, int, int]:
    """Repeat a single number for the three axes."""
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * 3
    if len(values) != 3:
        raise InvalidOption(f"{name} must be one whole number or three; got {value!r}")
    for each in values:
        check_positive(name, each)
    x, y, z = values
    return x, y, z
