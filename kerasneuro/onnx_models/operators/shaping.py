"""Operators that move, repeat, cut or pad."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

from kerasneuro.errors import UnsupportedGraph
from kerasneuro.nn.onnx.shaping import OnnxExpand, OnnxPad, OnnxSlice, OnnxTile
from kerasneuro.onnx_models.arguments import (
    axes_of,
    constant,
    data,
    given,
    integers,
    numbers,
)
from kerasneuro.onnx_models.operands import Operands
from kerasneuro.onnx_models.symbols import Size
from kerasneuro.onnx_models.values import Constant, Dimension, Sizes, Tensor, Value, channels_last
from kerasneuro.onnx_models.walker import Walker, operator
from kerasneuro.weights.onnx_graph import OnnxNode

PAD_MODES = ("constant", "reflect", "edge", "wrap")


@operator("Reshape")
def reshape(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert Reshape; 0 copies a size, -1 is inferred."""
    value, wanted = data(inputs), numbers(node, inputs, "shape", 1)
    if wanted is None:
        raise UnsupportedGraph("it has no shape")
    zero = bool(node.attributes.get("allowzero", 0))
    sizes = [value.dims[place] if size == 0 and not zero else size for place, size in enumerate(wanted)]
    return reshaped(walk, value, inferred(value.dims, sizes))


@operator("Flatten")
def flatten(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert Flatten: two axes remain."""
    value = data(inputs)
    axis = int(node.attributes.get("axis", 1)) % (value.rank + 1) if value.rank else 0
    parts = [reduce(lambda a, b: a * b, part, 1) for part in (value.dims[:axis], value.dims[axis:])]
    return reshaped(walk, value, parts)


def inferred(dims: Sequence[Dimension], sizes: list[Any]) -> list[Any]:
    """Put a size in place of -1: the product of the old ones, without those that remain."""
    if -1 not in sizes:
        return sizes
    left, known = [*dims], 1
    for size in sizes:
        if size in left and size != -1:
            left.remove(size)
        elif size != -1:
            known = known * size
    rest = reduce(lambda a, b: a * b, left, 1)
    return [(rest // known if size == -1 else size) for size in sizes]


def reshaped(walk: Walker, value: Tensor, sizes: Sequence[Any]) -> Tensor:
    """Reshape; where batch and channels remain, the channels stay last and nothing is moved."""
    rank = len(sizes)
    last = channels_last(value.rank)
    if rank > 2 and value.rank > 2 and value.order == last and tuple(sizes[:2]) == value.dims[:2]:
        order = channels_last(rank)
        stored = walk.reshaped(value, [sizes[axis] for axis in order], "")
        return walk.tensor(stored, order, sizes, channel=value.channel)
    if _needs_moving(value):
        value = walk.tensor(walk.plain(value), range(value.rank), value.dims)
    return walk.tensor(walk.reshaped(value, sizes, ""), range(rank), sizes)


def _needs_moving(value: Tensor) -> bool:
    long = [axis for axis in value.order if value.dims[axis] != 1]
    return long != sorted(long)


@operator("Transpose")
def transpose(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Rename the axes; what is stored moves only when a later operator needs it."""
    value = data(inputs)
    perm = [*node.attributes.get("perm", reversed(range(value.rank)))]
    if sorted(perm) != [*range(value.rank)]:
        raise UnsupportedGraph(f"its order {perm} does not fit a tensor of {value.rank} axes")
    new = {old: place for place, old in enumerate(perm)}
    order, dims = [new[axis] for axis in value.order], [value.dims[axis] for axis in perm]
    channel = None if value.channel is None else new[value.channel]
    return Tensor(value.keras, tuple(order), tuple(dims), channel, value.dtype)


@operator("Squeeze")
def squeeze(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Remove axes of one element."""
    value = data(inputs)
    axes = axes_of(node, inputs, value.rank)
    gone = axes if axes is not None else [axis for axis, size in enumerate(value.dims) if size == 1]
    return without_axes(walk, value, gone)


def without_axes(walk: Walker, value: Tensor, gone: Sequence[int]) -> Tensor:
    """Remove axes of one element from the stored tensor."""
    kept = [axis for axis in range(value.rank) if axis not in gone]
    order = [kept.index(axis) for axis in value.order if axis in kept]
    dims = [value.dims[axis] for axis in kept]
    stored = walk.reshaped(value, [value.dims[axis] for axis in value.order if axis in kept], "")
    channel = kept.index(value.channel) if value.channel in kept else None
    return walk.tensor(stored, order, dims, channel=channel, dtype=value.dtype)


@operator("Unsqueeze")
def unsqueeze(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Insert axes of one element; each is stored before the axis that follows it."""
    value = data(inputs) if not isinstance(inputs[0], Sizes) else walk.as_tensor(inputs[0])
    found = integers(node, inputs, "axes", 1) or []
    rank = value.rank + len(found)
    new = sorted(axis % rank for axis in found)
    old = [axis for axis in range(rank) if axis not in new]
    order = [old[axis] for axis in value.order]
    for axis in reversed(new):
        after = axis + 1 in order
        order.insert(order.index(axis + 1) if after else len(order), axis)
    dims: list[Dimension] = [1] * rank
    for place, axis in enumerate(old):
        dims[axis] = value.dims[place]
    stored = walk.reshaped(value, [dims[axis] for axis in order], "")
    channel = None if value.channel is None else old[value.channel]
    return walk.tensor(stored, order, dims, channel=channel, dtype=value.dtype)


@operator("Slice")
def slice_(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Cut a part out; bounds may depend on sizes, steps may not."""
    value = data(inputs)
    starts, ends = numbers(node, inputs, "starts", 1), numbers(node, inputs, "ends", 2)
    if starts is None or ends is None:
        raise UnsupportedGraph("it has no bounds")
    axes = axes_of(node, inputs, value.rank, 3)
    axes = [*range(len(starts))] if axes is None else axes
    return sliced(walk, value, axes, starts, ends, integers(node, inputs, "steps", 4) or [1] * len(axes))


def sliced(
    walk: Walker, value: Tensor, axes: Sequence[int], starts: Any, ends: Any, steps: Sequence[int]
) -> Tensor:
    """Slice ONNX axes of a tensor."""
    operands = Operands(walk).tensor(value.keras)
    limit = 1 << 31
    settings = {
        "axes": [value.stored(axis) for axis in axes],
        "starts": operands.expressions([_clamped(start, limit) for start in starts]),
        "ends": operands.expressions([_clamped(end, limit) for end in ends]),
        "steps": [int(step) for step in steps],
    }
    stored = walk.apply(OnnxSlice, operands, settings)
    dims = [None if axis in axes else size for axis, size in enumerate(value.dims)]
    return walk.tensor(stored, value.order, dims, channel=value.channel, dtype=value.dtype)


def _clamped(bound: Any, limit: int) -> Any:
    return bound if isinstance(bound, Size) else max(-limit, min(limit - 1, int(bound)))


@operator("Expand")
def expand(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Broadcast against a shape."""
    value, shape = given(inputs, 0), numbers(node, inputs, "shape", 1) or []
    if not isinstance(value, Tensor | Constant):
        value = data(inputs)
    rank = max(value.rank, len(shape))
    wanted = [1] * (rank - len(shape)) + shape
    order = value.order if isinstance(value, Tensor) and value.rank == rank else tuple(range(rank))
    operands = Operands(walk).add(value, rank, order)
    known = [1] * (rank - value.rank) + [*(value.dims if isinstance(value, Tensor) else value.array.shape)]
    dims = [size if target == 1 else target for size, target in zip(known, wanted, strict=True)]
    settings = {"shape": operands.expressions([dims[axis] for axis in order])}
    channel = value.channel if isinstance(value, Tensor) else 1
    return walk.tensor(walk.apply(OnnxExpand, operands, settings), order, dims, channel=channel)


@operator("Tile")
def tile(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Repeat a tensor."""
    value, repeats = data(inputs), numbers(node, inputs, "repeats", 1) or []
    operands = Operands(walk).tensor(value.keras)
    settings = {"repeats": operands.expressions([repeats[axis] for axis in value.order])}
    dims = [size * count for size, count in zip(value.dims, repeats, strict=True)]
    return walk.tensor(walk.apply(OnnxTile, operands, settings), value.order, dims, channel=value.channel)


@operator("Pad")
def pad(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Pad or crop; sizes are an attribute up to version 10, an input later."""
    value, mode = data(inputs), node.attributes.get("mode", "constant")
    pads = numbers(node, inputs, "pads", 1)
    if mode not in PAD_MODES or pads is None:
        raise UnsupportedGraph(f"it pads by {mode!r}, known: {', '.join(PAD_MODES)}")
    fill = node.attributes.get("value", 0.0) if walk.opset < 11 else 0.0
    stated = constant(inputs, 2)
    fill = float(stated.reshape(-1)[0]) if stated is not None and stated.size else float(fill)
    axes = axes_of(node, inputs, value.rank, 3) if walk.opset >= 18 else None
    axes = [*range(value.rank)] if axes is None else axes
    pairs: list[Any] = [(0, 0)] * value.rank
    for place, axis in enumerate(axes):
        pairs[axis] = (pads[place], pads[place + len(axes)])
    return padded(walk, value, pairs, mode=mode, fill=fill)


def padded(
    walk: Walker, value: Tensor, pairs: Sequence[Any], *, mode: str = "constant", fill: float = 0.0
) -> Tensor:
    """Pad ONNX axes by pairs of sizes."""
    operands = Operands(walk).tensor(value.keras)
    flat = [size for axis in value.order for size in pairs[axis]]
    settings = {"pads": operands.expressions(flat), "mode": mode, "value": fill}
    stored = walk.apply(OnnxPad, operands, settings, suffix="_pad")
    dims = [size + before + after for size, (before, after) in zip(value.dims, pairs, strict=True)]
    return walk.tensor(stored, value.order, dims, channel=value.channel)


@operator("DepthToSpace", "SpaceToDepth")
def depth_and_space(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Exchange channels and space by reshaping, in ONNX order."""
    value, block = data(inputs), int(node.attributes["blocksize"])
    b, c, h, w = value.dims
    if node.op_type == "SpaceToDepth":
        split_, perm = [b, c, h // block, block, w // block, block], (0, 3, 5, 1, 2, 4)
        sizes = [b, c * block * block, h // block, w // block]
    else:
        crd = node.attributes.get("mode", "DCR") == "CRD"
        rest = c // (block * block)
        split_ = [b, rest, block, block, h, w] if crd else [b, block, block, rest, h, w]
        perm = (0, 1, 4, 2, 5, 3) if crd else (0, 3, 4, 1, 5, 2)
        sizes = [b, rest, h * block, w * block]
    plain = walk.tensor(walk.plain(value), range(4), value.dims)
    parts = walk.tensor(walk.reshaped(plain, split_, "_split"), range(6), split_)
    moved = walk.ordered(parts, perm)
    joined = walk.tensor(moved, range(6), [split_[axis] for axis in perm])
    return walk.tensor(walk.reshaped(joined, sizes, ""), range(4), sizes)
