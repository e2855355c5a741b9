"""Operators that join, cut and pick parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import keras
import numpy as np

from kerasneuro.errors import UnsupportedGraph
from kerasneuro.nn.onnx.shaping import OnnxConcatenate, OnnxGather
from kerasneuro.onnx_models.arguments import axis_of, data, given, integers
from kerasneuro.onnx_models.operands import Operands
from kerasneuro.onnx_models.operators.elementwise import common_order, joint_dims
from kerasneuro.onnx_models.operators.shaping import sliced
from kerasneuro.onnx_models.values import Sizes, Tensor, Value
from kerasneuro.onnx_models.walker import Walker, operator
from kerasneuro.weights.onnx_graph import OnnxNode


@operator("Concat")
def concat(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Join tensors along an axis."""
    values = [walk.as_tensor(value) if isinstance(value, Sizes) else value for value in inputs]
    first = next(value for value in values if isinstance(value, Tensor))
    axis, order = axis_of(node, first.rank, 1), common_order(values, first.rank)
    dims: list[Any] = joint_dims([first], first.rank)
    parts = [
        value.dims[axis] if isinstance(value, Tensor) else value.array.shape[axis]
        for value in values
        if value
    ]
    dims[axis] = reduce(lambda a, b: a + b, parts)
    place = order.index(axis)
    if all(isinstance(value, Tensor) for value in values):
        layer = keras.layers.Concatenate(axis=place, name=walk.name())
        tensors = [walk.ordered(value, order) for value in values if isinstance(value, Tensor)]
        stored = walk.layer(layer, tensors) if len(tensors) > 1 else tensors[0]
    else:
        operands = Operands(walk)
        for value in values:
            operands.add(value, first.rank, order)
        stored = walk.apply(OnnxConcatenate, operands, {"axis": place})
    return walk.tensor(stored, order, dims, channel=first.channel, dtype=first.dtype)


@operator("Split")
def split(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> list[Value | None]:
    """Cut a tensor into parts along an axis."""
    value = data(inputs)
    axis, sizes, count = axis_of(node, value.rank, 0), integers(node, inputs, "split", 1), len(node.outputs)
    if sizes is None:
        total = value.dims[axis]
        if not isinstance(total, int):
            raise UnsupportedGraph("it splits an axis of unknown size")
        each = -(-total // count)
        sizes = [min(each, total - each * place) for place in range(count)]
    starts = np.cumsum([0, *sizes]).tolist()
    return [
        sliced(walk, value, [axis], [starts[place]], [starts[place + 1]], [1]) if name else None
        for place, name in enumerate(node.outputs)
    ]


@operator("Gather")
def gather(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Pick entries along an axis."""
    value, indices = given(inputs, 0), given(inputs, 1)
    if value is None or indices is None:
        raise UnsupportedGraph("it lacks an input")
    axis = axis_of(node, value.rank, 0)
    order: Sequence[int] = value.order if isinstance(value, Tensor) else range(value.rank)
    if indices.rank > 1:
        order = range(value.rank)
    operands = Operands(walk).add(value, value.rank, order)
    operands.add(indices, indices.rank, range(indices.rank))
    place = [*order].index(axis)
    stored = walk.apply(OnnxGather, operands, {"axis": place})
    added = [axis + step for step in range(indices.rank)]
    later = [old if old < axis else old + indices.rank - 1 for old in order]
    new_order = [*later[:place], *added, *later[place + 1 :]]
    dims = (
        [value.dims[old] for old in range(value.rank)] if isinstance(value, Tensor) else [*value.array.shape]
    )
    picked = indices.dims if isinstance(indices, Tensor) else indices.array.shape
    dims[axis : axis + 1] = [*picked]
    channel = value.channel if isinstance(value, Tensor) and (axis != 1 or indices.rank == 1) else None
    return walk.tensor(stored, new_order, dims, channel=channel)
