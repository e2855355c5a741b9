"""Compute a U-Net whose finest level alone is too large for the memory: that level slab by slab, exactly.

The maps of a finest level of 128^3 voxels with 256 channels take 2.1 GB each, and a decoder holds five of
them at once. All other levels together are an eighth of one. So the finest convolutions are computed one
after the other, each in slabs along the first axis with one plane of its neighbours (no plane is computed
twice, unlike with blocks), in one map that each convolution overwrites.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasneuro.inference.graph import GraphPlan, Step, functional_of
from kerasneuro.inference.memory import estimate_memory

Compute = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class FinestLevel:
    """A U-Net cut at its finest level; every part has one input and one output and shares the weights.

    Attributes
    ----------
    head : keras.Model
        From the image to the first pooling.
    middle : keras.Model
        From there to the last upsampling, or to the end of a network without one.
    skip : keras.Model or None
        From the image to the skip connection.
    tail : tuple of keras.Model
        The convolutions after the last upsampling, one each; empty without one.
    skip_first : bool
        The skip connection comes before the upsampled channels.
    """

    head: Any
    middle: Any
    skip: Any = None
    tail: tuple[Any, ...] = ()
    skip_first: bool = False

    @property
    def parts(self) -> tuple[Any, ...]:
        """The networks in order."""
        skip = () if self.skip is None else (self.skip,)
        return (self.head, self.middle, *skip, *self.tail)


def cut_finest_level(model: Any) -> FinestLevel | None:
    """Cut a U-Net or an encoder at its finest level.

    Parameters
    ----------
    model : keras.Model
        Functional, one input, one output, three spatial axes.

    Returns
    -------
    FinestLevel or None
        None where the finest level is not one 3x3x3 convolution, a pooling by 2 and, on the way up, an
        upsampling by 2, one skip connection and a chain of such convolutions.
    """
    import keras

    functional = functional_of(model)
    if functional is None or len(functional.inputs[0].shape) != 5:
        return None
    steps, entry, exit_ = GraphPlan(model).steps, functional.inputs[0], functional.outputs[0]
    first = _first_of(steps, keras.layers.MaxPooling3D)
    if first is None or not _is_single_stage(steps[: first + 1], entry):
        return None
    skip, pooled = steps[first].node.input_tensors[0], steps[first].node.outputs[0]
    head = keras.Model(entry, pooled)
    ups = [step for step in steps if type(step.operation) is keras.layers.UpSampling3D]
    if not ups:
        return FinestLevel(head, keras.Model(pooled, exit_))
    coarse, fine = ups[-1].node.input_tensors[0], ups[-1].node.outputs[0]
    joined = next((n for n, step in enumerate(steps) if id(fine) in step.inputs), len(steps))
    pair = [id(tensor) for tensor in steps[joined].node.input_tensors] if joined < len(steps) else []
    if sorted(pair) != sorted([id(fine), id(skip)]):
        return None
    stages = _stages(steps[joined:])
    if stages is None:
        return None
    tail = tuple(keras.Model(start, end) for start, end in stages)
    return FinestLevel(
        head, keras.Model(pooled, coarse), keras.Model(entry, skip), tail, skip_first=pair[0] == id(skip)
    )


def _first_of(steps: tuple[Step, ...], kind: type) -> int | None:
    return next((place for place, step in enumerate(steps) if type(step.operation) is kind), None)


def _is_convolution(step: Step) -> bool:
    """Tell whether a layer is a convolution that sees one voxel around each and keeps the grid."""
    import keras

    layer = step.operation
    return (
        type(layer) is keras.layers.Conv3D
        and layer.padding == "same"
        and set(layer.kernel_size) <= {1, 3}
        and set(layer.strides) == set(layer.dilation_rate) == {1}
    )


def _is_pointwise(step: Step) -> bool:
    import keras

    return type(step.operation) in (keras.layers.LeakyReLU, keras.layers.ReLU, keras.layers.Activation)


def _is_single_stage(steps: tuple[Step, ...], entry: Any) -> bool:
    """Tell whether steps are one convolution, what acts voxel by voxel, and a pooling by 2."""
    *inner, pool = steps
    chain = all(id(tensor) in _seen(inner, entry) for tensor in pool.node.input_tensors)
    pools = tuple(pool.operation.pool_size) == tuple(pool.operation.strides) == (2, 2, 2)
    convolutions = [step for step in inner if not _is_pointwise(step)]
    return chain and pools and len(convolutions) == 1 and _is_convolution(convolutions[0])


def _seen(steps: list[Step], entry: Any) -> set[int]:
    return {id(entry)} | {key for step in steps for key in step.outputs}


def _stages(steps: tuple[Step, ...]) -> list[tuple[Any, Any]] | None:
    """Divide the chain after a concatenation before each convolution; None if it is no such chain."""
    import keras

    joined, *chain = steps
    if type(joined.operation) is not keras.layers.Concatenate:
        return None
    current, starts = joined.node.outputs[0], []
    for step in chain:
        if step.inputs != (id(current),) or not (_is_convolution(step) or _is_pointwise(step)):
            return None
        if _is_convolution(step):
            starts.append(current)
        current = step.node.outputs[0]
    if not starts or starts[0] is not joined.node.outputs[0]:
        return None
    return list(zip(starts, [*starts[1:], current], strict=True))


class SlabNetwork:
    """Compute a network on NumPy arrays like `kerasneuro.inference.Engine`, within a limit of memory.

    Parameters
    ----------
    model : keras.Model
        One input, one output, channels-last.
    make_engine : callable
        From a network to what computes it.
    budget : int, optional
        Bytes for the maps of the network; None computes all at once.
    """

    def __init__(self, model: Any, make_engine: Callable[[Any], Compute], budget: int | None) -> None:
        self.model, self.budget, self._make = model, budget, make_engine
        self._whole: Compute | None = None
        self._level: FinestLevel | None = None
        self._engines: tuple[Compute, ...] = ()

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Compute ``(1, X, Y, Z, C)`` float32; returns ``(1, X', Y', Z', K)`` float32."""
        planes = self.planes(batch.shape[1:4])
        if planes is None:
            self._whole = self._whole or self._make(self.model)
            return self._whole(batch)
        return self.in_slabs(batch, planes)

    def planes(self, shape: tuple[int, ...]) -> int | None:
        """Return how many planes a slab has for a grid, None where all is computed at once."""
        if self.budget is None or estimate_memory(self.model, shape) <= self.budget:
            return None
        level = self.cut()
        if level is None or any(size % 2 for size in shape):
            return None
        divisors = [n for n in range(shape[0], 1, -1) if n % 2 == 0 and shape[0] % n == 0]
        return next((n for n in divisors if self._need(level, shape, n) <= self.budget), 2)

    def cut(self) -> FinestLevel | None:
        """Return the network cut at its finest level, None where it cannot be."""
        if self._level is None:
            self._level = cut_finest_level(self.model)
        return self._level

    def _need(self, level: FinestLevel, shape: tuple[int, ...], planes: int) -> int:
        """Estimate the bytes of the largest step: the backend's, a slab in and out, and the whole maps."""
        plane, half = 4 * shape[1] * shape[2], tuple(size // 2 for size in shape)

        def slab(part: Any, halo: int) -> int:
            channels = part.input_shape[-1] + part.output_shape[-1]
            arrays = (planes + halo) * plane * channels
            return arrays + estimate_memory(part, (planes + halo, *shape[1:]))

        needs = [estimate_memory(level.middle, half), slab(level.head, 4)]
        coarse = half[0] * plane // 4 * level.middle.output_shape[-1]
        for stage in level.tail:
            needs.append(slab(stage, 2) + shape[0] * plane * stage.output_shape[-1] + coarse)
            coarse = 0
        return max(needs)

    def in_slabs(self, batch: np.ndarray, planes: int) -> np.ndarray:
        """Compute with slabs of an even number of planes that divides the first axis.

        Raises
        ------
        ValueError
            If the network has no finest level to cut, or the planes do not fit.
        """
        level = self.cut()
        if level is None or planes % 2 or batch.shape[1] % planes or len(batch) != 1:
            raise ValueError(f"no slabs of {planes} planes for {batch.shape} and {self.model.name}")
        self._engines = self._engines or tuple(self._make(part) for part in level.parts)
        head, middle, *rest = self._engines
        coarse = middle(_pooled(head, batch, planes))
        if not rest:
            return coarse
        skip, first, *others = rest
        field = _joined(first, skip, batch, coarse, planes, level)
        del coarse
        for compute in others:
            field = _convolved(compute, field, planes)
        return field


def _pooled(head: Compute, batch: np.ndarray, planes: int) -> np.ndarray:
    """Convolve and pool: two planes of each neighbour keep the pairs of the pooling together."""
    parts = [head(window)[:, 1:-1] for window, _ in _windows(batch, planes, 2)]
    return np.concatenate(parts, axis=1)


def _joined(
    first: Compute, skip: Compute, batch: np.ndarray, coarse: np.ndarray, planes: int, level: FinestLevel
) -> np.ndarray:
    """Compute the first convolution after the last upsampling, on upsampled and skipped channels."""
    _, depth, height, width, _ = batch.shape
    channels = coarse.shape[-1]
    total = level.tail[0].input_shape[-1]
    below, beside = slice(0, channels), slice(channels, None)
    if level.skip_first:
        below, beside = slice(total - channels, None), slice(0, total - channels)
    joined = np.empty((1, planes + 2, height, width, total), np.float32)
    field: np.ndarray | None = None
    for window, start in _windows(batch, planes, 2):
        joined[..., beside] = skip(window)[:, 1:-1]
        for place, plane in enumerate(range(start - 1, start + planes + 1)):
            if 0 <= plane < depth:
                rows = np.repeat(coarse[0, plane // 2], 2, axis=0)
                joined[0, place, ..., below] = np.repeat(rows, 2, axis=1)
            else:
                joined[0, place] = 0  # what the convolution pads with
        part = first(joined)[:, 1:-1]
        if field is None:
            field = np.empty((1, depth, height, width, part.shape[-1]), np.float32)
        field[:, start : start + planes] = part
    assert field is not None
    return field


def _convolved(compute: Compute, field: np.ndarray, planes: int) -> np.ndarray:
    """Compute one convolution; its result takes the place of its input where it has as many channels."""
    result: np.ndarray | None = None
    for window, start in _windows(field, planes, 1):
        part = compute(window)[:, 1:-1]
        if result is None:
            same = part.shape[-1] == field.shape[-1]
            result = field if same else np.empty((*field.shape[:-1], part.shape[-1]), np.float32)
        result[:, start : start + planes] = part
    assert result is not None
    return result


def _windows(field: np.ndarray, planes: int, halo: int) -> Iterator[tuple[np.ndarray, int]]:
    """Lend each slab with planes of its neighbours, zeros outside; the slab itself may be overwritten."""
    depth = field.shape[1]
    window = np.zeros((1, planes + 2 * halo, *field.shape[2:]), np.float32)
    before = np.zeros_like(window[:, :halo])
    for start in range(0, depth, planes):
        end = min(start + planes + halo, depth)
        window[:, :halo] = before
        window[:, halo : halo + end - start] = field[:, start:end]
        window[:, halo + end - start :] = 0
        before = window[:, planes : planes + halo].copy()
        yield window, start
