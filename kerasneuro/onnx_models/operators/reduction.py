"""Reductions, positions of extremes, softmax."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from kerasneuro.nn.onnx.reduction import OnnxArgExtreme, OnnxReduce, OnnxSoftmax
from kerasneuro.onnx_models.arguments import axes_of, axis_of, data
from kerasneuro.onnx_models.operands import Operands
from kerasneuro.onnx_models.values import Tensor, Value
from kerasneuro.onnx_models.walker import Walker, operator
from kerasneuro.weights.onnx_graph import OnnxNode

FUNCTIONS = {
    "ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod",
    "ReduceL1": "l1", "ReduceL2": "l2", "ReduceSumSquare": "sum_square", "ReduceLogSum": "log_sum",
    "ReduceLogSumExp": "log_sum_exp",
}  # fmt: skip
# Up to version 12, softmax runs over all axes from this one on.
PER_AXIS_SINCE = 13


@operator(*FUNCTIONS)
def reduce(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert a reduction; axes are an attribute in older versions, an input in newer ones."""
    value = data(inputs)
    axes = axes_of(node, inputs, value.rank)
    if not axes:
        if node.attributes.get("noop_with_empty_axes", 0):
            return value
        axes = [*range(value.rank)]
    return reduced(walk, value, FUNCTIONS[node.op_type], axes, keep=bool(node.attributes.get("keepdims", 1)))


def reduced(walk: Walker, value: Tensor, function: str, axes: Sequence[int], *, keep: bool) -> Tensor:
    """Reduce ONNX axes of a tensor."""
    stored_axes = [value.stored(axis) for axis in axes]
    settings = {"function": function, "axes": stored_axes, "keep": keep}
    stored = walk.apply(OnnxReduce, Operands(walk).tensor(value.keras), settings)
    return _without(walk, value, stored, axes, keep)


def _without(walk: Walker, value: Tensor, stored: object, axes: Sequence[int], keep: bool) -> Tensor:
    kept = [axis for axis in range(value.rank) if keep or axis not in axes]
    order = [kept.index(axis) for axis in value.order if axis in kept]
    dims = [1 if axis in axes else value.dims[axis] for axis in kept]
    channel = kept.index(value.channel) if value.channel in kept else None
    return walk.tensor(stored, order, dims, channel=channel)


@operator("ArgMax", "ArgMin")
def extreme(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert ArgMax and ArgMin."""
    value = data(inputs)
    axis, keep = axis_of(node, value.rank, 0), bool(node.attributes.get("keepdims", 1))
    settings = {
        "axis": value.stored(axis),
        "keep": keep,
        "smallest": node.op_type == "ArgMin",
        "last": bool(node.attributes.get("select_last_index", 0)),
    }
    stored = walk.apply(OnnxArgExtreme, Operands(walk).tensor(value.keras), settings)
    return _without(walk, value, stored, [axis], keep)


@operator("Softmax", "LogSoftmax")
def softmax(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert softmax; the layer of Keras where it runs over one axis."""
    value, per_axis = data(inputs), walk.opset >= PER_AXIS_SINCE
    axis = axis_of(node, value.rank, -1 if per_axis else 1)
    axes = [axis] if per_axis else [*range(axis, value.rank)]
    if len(axes) == 1 and node.op_type == "Softmax":
        layer = keras.layers.Softmax(axis=value.stored(axis), name=walk.name())
        stored = walk.layer(layer, value.keras)
    else:
        settings = {
            "axes": [value.stored(axis) for axis in axes],
            "logarithm": node.op_type == "LogSoftmax",
        }
        stored = walk.apply(OnnxSoftmax, Operands(walk).tensor(value.keras), settings)
    return walk.tensor(stored, value.order, value.dims, channel=value.channel)
