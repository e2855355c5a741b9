"""Predict a whole volume block by block: grid x blend x engine."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption, OutOfMemory
from kerasneuro.inference.assemble import ArraySink, LabelSink, Sink, label_dtype, scratch_array
from kerasneuro.inference.augment import flip, flip_axes
from kerasneuro.inference.engine import Engine
from kerasneuro.inference.grid import Grid, make_grid
from kerasneuro.inference.memory import (
    Attempt,
    attempts,
    available_memory,
    estimate_memory,
    is_out_of_memory,
)
from kerasneuro.inference.problem import Problem, describe
from kerasneuro.inference.progress import reporting
from kerasneuro.inference.settings import (
    OUTPUTS,
    Progress,
    Settings,
    check_choice,
    check_positive,
    parse_memory,
)
from kerasneuro.inference.uncertainty import StreamingMoments


@dataclass(frozen=True)
class BlockPrediction:
    """A prediction with its uncertainty.

    Attributes
    ----------
    array : ndarray
        As `predict_blocks` returns it without ``uncertainty``.
    variance, entropy : ndarray
        Shape of the volume, float32: variance over the samples and entropy of their mean, summed over the
        classes. With overlap the maps of the blocks are blended like the prediction.
    block_shape, batch_size, device
        What was computed in the end.
    """

    array: np.ndarray
    variance: np.ndarray
    entropy: np.ndarray
    block_shape: tuple[int, ...]
    batch_size: int
    device: str | None


@dataclass(frozen=True)
class _Job:
    """Everything about a call that does not change when a smaller block is tried."""

    problem: Problem
    settings: Settings
    output: str
    out: np.ndarray | None
    n_samples: int
    uncertainty: bool
    activation: str | None
    threshold: float
    training: bool


def predict_blocks(
    model: Any,
    array: np.ndarray,
    *,
    block_shape: tuple[int, ...] | None = (128, 128, 128),
    overlap: float = 0.0,
    merge: str = "constant",
    batch_size: int = 1,
    output: str = "probability",
    out: np.ndarray | None = None,
    engine: str = "auto",
    precision: str = "float32",
    device: str | None = None,
    edge: str = "auto",
    max_memory: int | str | None = None,
    scratch: Path | None = None,
    flips: bool | tuple[int | str, ...] = False,
    n_samples: int = 1,
    uncertainty: bool = False,
    progress: Progress = False,
    multiple: int | tuple[int, ...] | None = None,
    activation: str | None = None,
    threshold: float = 0.5,
    training: bool = False,
) -> np.ndarray | BlockPrediction:
    """Predict a volume or an image block by block with any Keras model.

    Parameters
    ----------
    model : keras.Model or Engine
        One input ``(B, X, Y, Z, C)`` or ``(B, X, Y, C)``, one output of the same spatial shape. An `Engine`
        brings its own engine, precision, device and training.
    array : ndarray
        ``(X, Y, Z)`` or ``(X, Y, Z, C)``, finite numbers; ``(X, Y)`` or ``(X, Y, C)`` for 2-D networks with a
        ``block_shape`` of two numbers. A 2-D network also takes a volume slice by slice: ``block_shape`` then
        has three numbers and a 1 on the axis of the slices, which becomes the batch axis.
    block_shape : tuple of int, optional
        Voxels per axis, a multiple of what the network asks for. None: the input shape of the model where it
        is fixed, else 128 per axis. Axes longer than the volume are cut.
    overlap, merge, edge, batch_size, engine, precision, device, max_memory, scratch, flips, progress
        See `Settings` and `Engine`.
    output : {"probability", "label", "logits"}
        ``probability``: what the network returns after ``activation``. ``logits``: what it returns.
        ``label``: the class of the largest probability (one class: probability above ``threshold``), without
        ever holding the probabilities of the whole volume.
    out : ndarray, optional
        Where the result goes, for instance a `numpy.memmap`.
    n_samples : int
        Predictions per block that are averaged, for networks with random layers.
    uncertainty : bool
        Return a `BlockPrediction` with variance and entropy over samples and flips.
    multiple : int or tuple of int, optional
        Blocks must be multiples of this; None finds it in the graph, 1 allows every block.
    activation : {None, "softmax", "sigmoid"}
        Applied to each prediction of a network that returns logits.
    threshold : float
        For one-class labels; strictly above is 1.
    training : bool
        Run layers in training mode (Monte-Carlo dropout).

    Returns
    -------
    ndarray or BlockPrediction
        Probability and logits: float32, shape of the volume plus classes. Labels: smallest unsigned integer.

    Raises
    ------
    InvalidOption
        If an option does not fit the model or the array.
    OutOfMemory
        If even the smallest block does not fit.

    Examples
    --------
    >>> labels = predict_blocks(model, volume, block_shape=(64, 64, 64), overlap=0.5, output="label")
    """
    if isinstance(model, Engine):
        engine, precision, device, training = model.engine, model.precision, model.device, model.training
        model = model.model
    settings = Settings(
        block_shape,
        overlap,
        merge,
        edge,
        batch_size,
        engine,
        precision,
        max_memory,
        device,
        scratch,
        flips,
        progress,
    )
    check_choice("output", output, OUTPUTS)
    check_choice("activation", str(activation).lower(), ("none", "softmax", "sigmoid"))
    check_positive("n_samples", n_samples)
    if output == "logits" and activation is not None:
        raise InvalidOption("output='logits' is the raw output of the network: leave activation out.")
    problem = describe(model, array, block_shape, multiple)
    job = _Job(problem, settings, output, out, n_samples, uncertainty, activation, threshold, training)
    return _first_that_fits(job)


def _first_that_fits(job: _Job) -> np.ndarray | BlockPrediction:
    """Try smaller and smaller pieces until the estimate and the machine agree."""
    problem, settings = job.problem, job.settings
    budget = parse_memory(settings.max_memory)
    first = Attempt(problem.block, settings.batch_size, settings.device)
    changed = ""
    for attempt in attempts(first, problem.multiple, problem.fixed):
        need = problem.volume_bytes(job.output, job.uncertainty) if job.out is None else 0
        need += estimate_memory(
            problem.model, problem.network_shape(attempt.block), attempt.batch_size, engine=settings.engine
        )
        if budget is not None and need > budget:
            changed = f"max_memory {settings.max_memory} is less than the {need / 1e9:.2f} GB of {attempt}"
            continue
        if changed:
            warnings.warn(f"{changed}; using {attempt}.", RuntimeWarning, stacklevel=4)
        try:
            return _predict(job, attempt, need)
        except Exception as error:
            if not is_out_of_memory(error) or isinstance(error, OutOfMemory):
                raise
            changed = f"Out of memory with {attempt}"
    raise OutOfMemory(
        f"{changed or 'Out of memory'}, and the network allows no smaller block: grant more memory, "
        "choose a smaller block_shape, or give out= a numpy.memmap."
    )


def _predict(job: _Job, attempt: Attempt, need: int) -> np.ndarray | BlockPrediction:
    problem, settings = job.problem, job.settings
    grid = make_grid(
        problem.volume.shape[:-1], attempt.block, settings.overlap, settings.edge, problem.clip_multiple
    )
    headline = f"{len(grid)} {replace(attempt, block=grid.block)}, about {need / 1e9:.2f} GB"
    with reporting(settings.progress, headline, len(grid)) as report:
        channels = problem.check_output(grid.block)
        engine = Engine(
            problem.model,
            engine=settings.engine,
            precision=settings.precision,
            device=attempt.device,
            training=job.training,
        )
        ring = LabelSink.ring_shape(grid, channels) if job.output == "label" else None
        with scratch_array(ring, _granted(settings, need), settings.scratch) as buffer:
            array, sink = _result(job, grid, channels, buffer)
            maps = [np.zeros(grid.shape, np.float32) for _ in range(2 * job.uncertainty)]
            sinks: list[Sink] = [sink, *(ArraySink(found, grid, settings.merge) for found in maps)]
            _run(job, grid, engine, attempt.batch_size, sinks, report)
    if not job.uncertainty:
        return array
    return BlockPrediction(array, maps[0], maps[1], grid.block, attempt.batch_size, attempt.device)


def _granted(settings: Settings, need: int) -> int | None:
    """Return the memory left for the blending slab."""
    budget = parse_memory(settings.max_memory)
    if budget is not None:
        return budget - need
    free = available_memory()
    return None if free is None else max(free - need, 0) // 2


def _result(job: _Job, grid: Grid, channels: int, ring: np.ndarray | None) -> tuple[np.ndarray, Sink]:
    """Return the array of the result and what writes into it."""
    labels = job.output == "label"
    shape = grid.shape if labels else (*grid.shape, channels)
    dtype = label_dtype(channels) if labels else np.dtype(np.float32)
    out = job.out
    if out is None:
        out = np.empty(shape, dtype)
    kinds = "iu" if labels else "f"
    if (
        out.shape != shape
        or out.dtype.kind not in kinds
        or (labels and np.iinfo(out.dtype).max < channels - 1)
    ):
        raise InvalidOption(
            f"out must have shape {shape} and a type like {dtype}; got {out.shape} {out.dtype}."
        )
    if labels:
        return out, LabelSink(out, grid, job.settings.merge, job.threshold, ring)
    return out, ArraySink(out, grid, job.settings.merge)


def _run(job: _Job, grid: Grid, engine: Engine, batch_size: int, sinks: list[Sink], report: Any) -> None:
    volume = job.problem.volume
    buffer = np.empty((min(batch_size, len(grid)), *grid.block, volume.shape[-1]), np.float32)
    blocks = iter(grid)
    done = 0
    while chunk := list(itertools.islice(blocks, len(buffer))):
        for place, block in enumerate(chunk):
            grid.read(volume, block, buffer[place])
        # A short last batch keeps the shape of the others: another shape would be compiled anew.
        buffer[len(chunk) :] = buffer[0]
        results = _evaluate(job, engine, buffer)
        for place, block in enumerate(chunk):
            for sink, result in zip(sinks, results, strict=True):
                sink.add(block, result[place])
        done += len(chunk)
        report(done)
    for sink in sinks:
        sink.finish()


def _evaluate(job: _Job, engine: Engine, batch: np.ndarray) -> list[np.ndarray]:
    """Return the mean over samples and flips and, if asked for, variance and entropy."""
    problem = job.problem
    moments = StreamingMoments(variance=job.uncertainty)
    mirrored = flip_axes(job.settings.flips, batch.ndim - 2)
    if len(mirrored) * job.n_samples == 1 and not job.uncertainty:
        return [problem.compute(engine, batch, job.activation)]
    for axes in mirrored:
        for _ in range(job.n_samples):
            moments.update(flip(problem.compute(engine, flip(batch, axes), job.activation), axes))
    if not job.uncertainty:
        return [moments.mean]
    return [moments.mean, moments.variance(), moments.entropy()]
