"""Join the three planes: the class of the largest weighted sum of logits at every voxel.

The sum of 79 logits at 256^3 voxels would take 5.3 GB. Here the axial and the sagittal logits go to scratch
files, and the coronal network, which comes last, decides a few planes at a time. Sums are formed as in the
original (Deep-MI/FastSurfer@070647d, ``FastSurferCNN/eval.py``): float32, axial, coronal, sagittal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerasneuro.models.fastsurfer.labels import N_CLASSES, N_SAGITTAL_CLASSES, sagittal_classes
from kerasneuro.models.fastsurfer.scratch import THREADS, LogitStore, bytes_needed, scratch_folder
from kerasneuro.models.fastsurfer.slices import (
    PLANES,
    Network,
    ThickSlices,
    empty_logits,
    predict_slices,
)

CLASSES = {"axial": N_CLASSES, "coronal": N_CLASSES, "sagittal": N_SAGITTAL_CLASSES}
ROWS = 4  # planes that are decided at once
STRIP = 8  # lines of a plane that are summed at once, small enough for the processor's cache


@dataclass(frozen=True)
class _View:
    """One plane: its network, its slices, those to compute, and the logits of all others."""

    network: Network
    slices: ThickSlices
    span: range
    empty: np.ndarray | None
    batch_size: int

    def batches(self) -> Iterator[tuple[int, np.ndarray]]:
        return predict_slices(self.network, self.slices, self.span, self.batch_size)


def aggregate_views(
    volume: np.ndarray,
    networks: Mapping[str, Network],
    *,
    batch_size: int = 8,
    work_dir: Path | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Find the class of every voxel.

    Slices that see only zeros are computed once and share their logits, where the network is shown to give
    each of them the same bits.

    Parameters
    ----------
    volume : ndarray
        Conformed scan ``(I, J, K)``, uint8; axes to left, inferior, anterior, each a multiple of 16.
    networks : mapping of str to callable
        ``axial``, ``coronal``, ``sagittal``: slices ``(B, H, W, 7)`` to logits ``(B, H, W, 79)``; the
        sagittal one has 51 classes.
    batch_size : int
        Slices at once.
    work_dir : Path, optional
        Folder of the scratch files, up to 8.7 GB for 256^3 voxels; None is the system's temporary folder.
    report : callable
        Called with the slices done and the slices to do.

    Returns
    -------
    ndarray
        Shape ``(I, J, K)``, uint8, 0 to 78; the lowest of equal classes.

    Raises
    ------
    OutputError
        If `work_dir` is missing or has too little space.
    """
    slices = {name: ThickSlices(volume, plane) for name, plane in PLANES.items()}
    spans = {name: found.filled() for name, found in slices.items()}
    shapes = {name: (len(found), *found.shape, CLASSES[name]) for name, found in slices.items()}
    # Empty slices may have to be computed after all, so the space is asked for as if none were left out.
    needed = sum(bytes_needed(range(len(slices[name])), shapes[name]) for name in ("axial", "sagittal"))
    with scratch_folder(work_dir, needed) as folder, ExitStack() as files:
        views = {name: _view(networks[name], slices[name], spans[name], batch_size) for name in PLANES}
        progress = _Progress(report, sum(len(view.span) for view in views.values()))
        stores: dict[str, LogitStore] = {}
        pool = files.enter_context(ThreadPoolExecutor(THREADS))
        for name in ("axial", "sagittal"):
            view = views[name]
            stores[name] = LogitStore(folder, view.span, shapes[name], view.empty, pool)
            files.callback(stores[name].close)
            for start, logits in view.batches():
                stores[name].write(start, logits)
                progress.add(len(logits))
        return _decide(volume.shape, stores["axial"], stores["sagittal"], views["coronal"], progress, pool)


class _Progress:
    def __init__(self, report: Callable[[int, int], None], total: int) -> None:
        self._report, self._total, self._done = report, total, 0
        report(0, total)

    def add(self, count: int) -> None:
        self._done += count
        self._report(self._done, self._total)


def _view(network: Network, slices: ThickSlices, span: range, batch_size: int) -> _View:
    """Find out which slices have to be computed."""
    empty = None
    if len(slices) - len(span) > batch_size:
        empty = empty_logits(network, slices.shape, batch_size)
    return _View(network, slices, range(len(slices)) if empty is None else span, empty, batch_size)


def _decide(
    shape: tuple[int, ...],
    axial: LogitStore,
    sagittal: LogitStore,
    coronal: _View,
    progress: _Progress,
    pool: Executor,
) -> np.ndarray:
    """Run the coronal network, and decide each of its slices with the logits of the other two."""
    classes = np.empty(shape, np.uint8)
    adders = [ViewAdder(shape[1]) for _ in range(ROWS)]
    axial_rows = np.empty((shape[1], ROWS, shape[0], N_CLASSES), np.float32)
    sagittal_rows = np.empty((shape[0], ROWS, shape[1], N_SAGITTAL_CLASSES), np.float32)
    for start, logits, computed in _all_slices(coronal):
        for first in range(0, len(logits), ROWS):
            rows, k = logits[first : first + ROWS], start + first
            side = axial.read(k, np.ascontiguousarray(axial_rows[:, : len(rows)]))
            other = sagittal.read(k, np.ascontiguousarray(sagittal_rows[:, : len(rows)]))
            views = zip(np.moveaxis(side, 1, 0), rows, np.moveaxis(other, 1, 0), strict=True)
            found = pool.map(lambda adder, planes: adder.classes(*planes), adders[: len(rows)], views)
            for index, plane in enumerate(found):
                classes[:, :, k + index] = plane
        progress.add(len(logits) if computed else 0)
    return classes


def _all_slices(view: _View) -> Iterator[tuple[int, np.ndarray, bool]]:
    """Yield the logits of all slices in order, computed or shared, and which of the two they are."""
    yield from _shared(view, range(view.span.start))
    for start, logits in view.batches():
        yield start, logits, True
    yield from _shared(view, range(view.span.stop, len(view.slices)))


def _shared(view: _View, span: range) -> Iterator[tuple[int, np.ndarray, bool]]:
    for start in span[::ROWS]:
        assert view.empty is not None
        count = min(ROWS, span.stop - start)
        yield start, np.broadcast_to(view.empty, (count, *view.empty.shape)), False


class ViewAdder:
    """Sum the logits of one coronal slice strip by strip, in buffers that are used again.

    Parameters
    ----------
    width : int
        Columns (J) of the slice.
    """

    def __init__(self, width: int) -> None:
        self._total = np.empty((STRIP, width, N_CLASSES), np.float32)
        self._part = np.empty_like(self._total)
        self._side = np.empty((STRIP, width, N_SAGITTAL_CLASSES), np.float32)
        self._weights = {name: np.float32(plane.weight) for name, plane in PLANES.items()}

    def sums(self, axial: np.ndarray, coronal: np.ndarray, sagittal: np.ndarray) -> np.ndarray:
        """Return the sum of a strip ``(I, J, 79)`` in a buffer that the next call overwrites.

        Parameters
        ----------
        axial, coronal, sagittal : ndarray
            Logits of up to `STRIP` lines: ``(J, I, 79)``, ``(I, J, 79)``, ``(I, J, 51)``.
        """
        lines = len(coronal)
        total, part, side = self._total[:lines], self._part[:lines], self._side[:lines]
        np.multiply(axial.transpose(1, 0, 2), self._weights["axial"], out=total)
        np.multiply(coronal, self._weights["coronal"], out=part)
        total += part
        np.multiply(sagittal, self._weights["sagittal"], out=side)
        np.take(side, sagittal_classes(), axis=-1, out=part, mode="clip")
        total += part
        return total

    def classes(self, axial: np.ndarray, coronal: np.ndarray, sagittal: np.ndarray) -> np.ndarray:
        """Return the class of each voxel of a slice ``(I, J)``; arguments as those of `sums`, all lines."""
        found = np.empty(coronal.shape[:2], np.uint8)
        for line in range(0, len(coronal), STRIP):
            strip = slice(line, line + STRIP)
            found[strip] = self.sums(axial[:, strip], coronal[strip], sagittal[strip]).argmax(axis=-1)
        return found
