"""Shapes as values."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from kerasneuro.errors import UnsupportedGraph
from kerasneuro.nn.onnx.shaping import OnnxFill
from kerasneuro.onnx_models.arguments import data, numbers
from kerasneuro.onnx_models.folding import as_array
from kerasneuro.onnx_models.operands import Operands, storable
from kerasneuro.onnx_models.values import Sizes, Value, as_value
from kerasneuro.onnx_models.walker import Walker, operator
from kerasneuro.weights.onnx_graph import OnnxNode


@operator("Shape")
def shape(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Return the sizes of the ONNX axes, or of a range of them (version 15)."""
    part = slice(node.attributes.get("start", 0), node.attributes.get("end"))
    value = inputs[0]
    dims = [*value.array.shape] if isinstance(value, Sizes) else [*data(inputs).dims]
    return as_value(as_array(dims[part]))


@operator("Size")
def size(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Return the number of elements."""
    dims = data(inputs).dims
    total = math.prod(dims) if all(isinstance(one, int) for one in dims) else reduce(lambda a, b: a * b, dims)
    return as_value(as_array(total))


@operator("ConstantOfShape")
def filled(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Fill a tensor whose shape depends on the inputs."""
    wanted = numbers(node, inputs, "shape", 0) or []
    value = storable(np.asarray(node.attributes.get("value", np.zeros(1, np.float32))).reshape(-1))
    operands = Operands(walk)
    settings = {"shape": operands.expressions(wanted), "value": value[0].item(), "dtype": str(value.dtype)}
    operands.tensor(operands.tensors[0] if operands.tensors else None)
    stored = walk.apply(OnnxFill, operands, settings)
    return walk.tensor(stored, range(len(wanted)), wanted)


@operator("Range")
def arange(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Refuse a range whose length depends on the inputs; others are constants."""
    raise UnsupportedGraph("its length depends on the size of the image, which is not supported")
