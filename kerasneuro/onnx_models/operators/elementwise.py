"""Operators that act on each element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerasneuro.errors import UnsupportedGraph
from kerasneuro.nn.onnx.elementwise import OnnxElementwise
from kerasneuro.onnx_models.arguments import constant, data, given
from kerasneuro.onnx_models.operands import Operands
from kerasneuro.onnx_models.symbols import Size
from kerasneuro.onnx_models.values import Constant, Dimension, Sizes, Tensor, Value
from kerasneuro.onnx_models.walker import Walker, operator
from kerasneuro.weights.onnx_graph import OnnxNode
from kerasneuro.weights.onnx_tensor import DTYPES

SIMPLE = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "Max": "max", "Min": "min",
    "Sum": "add", "Mean": "mean", "Where": "where", "Greater": "greater", "Less": "less",
    "Equal": "equal", "GreaterOrEqual": "greater_equal", "LessOrEqual": "less_equal", "And": "and",
    "Or": "or", "Xor": "xor", "Not": "not", "IsNaN": "isnan", "IsInf": "isinf", "Abs": "abs", "Neg": "neg",
    "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Floor": "floor",
    "Ceil": "ceil", "Round": "round", "Sign": "sign", "Erf": "erf", "Sin": "sin", "Cos": "cos",
    "Tan": "tan", "Asin": "asin", "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh",
    "HardSwish": "hard_swish",
}  # fmt: skip
MERGES = {"Add": keras.layers.Add, "Mul": keras.layers.Multiply, "Sub": keras.layers.Subtract}
# Attributes that become settings of `OnnxElementwise`, of operators whose defaults are the same there.
WITH_SETTINGS = {
    "Celu": "celu", "HardSigmoid": "hard_sigmoid", "ThresholdedRelu": "thresholded_relu",
    "Shrink": "shrink", "Selu": "selu", "Mod": "mod",
}  # fmt: skip
ACTIVATIONS = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus",
    "Softsign": "softsign", "Mish": "mish",
}  # fmt: skip


def common_order(values: Sequence[Value | None], rank: int) -> tuple[int, ...]:
    """Return the stored order of a result: that of an image among the operands, else ONNX order."""
    tensors = [value for value in values if isinstance(value, Tensor) and value.rank == rank]
    moved = [value.order for value in tensors if not value.plain]
    return moved[0] if moved else tuple(range(rank))


def joint_dims(values: Sequence[Value | None], rank: int) -> list[Dimension | None]:
    """Return the sizes of a broadcast result."""
    dims: list[Dimension | None] = [None] * rank
    for value in values:
        shape: Sequence[Any] = ()
        if isinstance(value, Tensor):
            shape = value.dims
        elif value is not None:
            shape = value.array.shape
        for axis, size in enumerate(shape, start=rank - len(shape)):
            if dims[axis] is None or (dims[axis] == 1 and size != 1):
                dims[axis] = size
    return dims


def apply(
    walk: Walker, function: str, values: Sequence[Value | None], dtype: str | None = None, **settings: Any
) -> Tensor:
    """Apply a function of `OnnxElementwise` to values that broadcast."""
    if not any(isinstance(value, Tensor) for value in values):
        values = [walk.as_tensor(value) if isinstance(value, Sizes) else value for value in values]
    rank = max(value.rank for value in values if value is not None)
    order, operands = common_order(values, rank), Operands(walk)
    for value in values:
        operands.add(value, rank, order)
    stored = walk.apply(OnnxElementwise, operands, settings, function=function)
    channels = [value.channel for value in values if isinstance(value, Tensor) and value.rank == rank]
    return walk.tensor(stored, order, joint_dims(values, rank), channel=(channels or [1])[0], dtype=dtype)


@operator(*SIMPLE)
def simple(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert an operator that has a function of the same meaning."""
    if node.op_type in MERGES and _alike(inputs):
        first, second = (data(inputs, place) for place in range(2))
        layer = MERGES[node.op_type](name=walk.name())
        stored = walk.layer(layer, [first.keras, second.keras])
        return walk.tensor(stored, first.order, first.dims, channel=first.channel)
    return apply(walk, SIMPLE[node.op_type], inputs)


def _alike(inputs: Sequence[Value | None]) -> bool:
    """Say whether two inputs are different tensors of one shape and layout, as the layers of Keras expect."""
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    kinds = {
        (value.order, value.dtype, *(None if isinstance(size, Size) else size for size in value.dims))
        for value in tensors
    }
    if len(inputs) != 2 or len(tensors) != 2 or len(kinds) != 1:
        return False
    first, second = tensors
    return first.rank > 1 and first.dtype == "float32" and first.keras is not second.keras


@operator(*WITH_SETTINGS)
def with_settings(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert an operator whose attributes keep their names."""
    return apply(walk, WITH_SETTINGS[node.op_type], inputs, **node.attributes)


def activation(walk: Walker, value: Tensor, layer: Any) -> Tensor:
    """Call a layer that keeps shape and layout."""
    stored = walk.layer(layer, value.keras)
    return walk.tensor(stored, value.order, value.dims, channel=value.channel)


@operator(*ACTIVATIONS)
def named_activation(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert an activation that Keras knows by name."""
    layer = keras.layers.Activation(ACTIVATIONS[node.op_type], name=walk.name())
    return activation(walk, walk.as_tensor(data(inputs)), layer)


@operator("LeakyRelu", "Elu")
def sloped(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert an activation with a parameter for negative values."""
    if node.op_type == "Elu":
        layer = keras.layers.ELU(alpha=float(node.attributes.get("alpha", 1.0)), name=walk.name())
    else:
        slope = float(node.attributes.get("alpha", 0.01))
        layer = keras.layers.LeakyReLU(negative_slope=slope, name=walk.name())
    return activation(walk, data(inputs), layer)


@operator("Gelu")
def gelu(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert GELU, exact or by tanh."""
    if node.attributes.get("approximate", "none") == "tanh":
        return apply(walk, "gelu", inputs, approximate="tanh")
    return activation(walk, data(inputs), keras.layers.Activation("gelu", name=walk.name()))


@operator("PRelu")
def prelu(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert PRelu: the layer of Keras where the slope is one for each channel."""
    value, slope = data(inputs), given(inputs, 1)
    if isinstance(slope, Constant) and value.order[-1] == 1 and value.rank > 2:
        shape = (1,) * (value.rank - slope.rank) + slope.array.shape
        if shape[1] == value.dims[1] and slope.array.size == shape[1]:
            layer = keras.layers.PReLU(shared_axes=[*range(1, value.rank - 1)], name=walk.name())
            alpha = slope.array.reshape((1,) * (value.rank - 2) + (shape[1],))
            stored = walk.layer(layer, value.keras, [("alpha", alpha)])
            return walk.tensor(stored, value.order, value.dims, channel=value.channel)
    return apply(walk, "prelu", inputs)


@operator("Clip")
def clip(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert Clip: bounds are attributes up to version 10, inputs later."""
    bounds: list[Value | None] = [given(inputs, 1), given(inputs, 2)]
    for place, name in enumerate(("min", "max")):
        if walk.opset < 11 and name in node.attributes:
            bounds[place] = Constant(np.asarray(node.attributes[name], np.float32))
    return apply(walk, "clip", [data(inputs), *bounds])


@operator("Cast")
def cast(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert Cast; numbers of 64 bits become those of 32, half precision becomes single."""
    value = walk.as_tensor(data(inputs) if not isinstance(inputs[0], Sizes) else inputs[0])
    to = DTYPES.get(int(node.attributes.get("to", 1)))
    if to is None:
        raise UnsupportedGraph("it asks for a type that is not supported")
    kind = "float32" if "float" in to else to if to in ("bool", "uint8", "int8", "int16") else "int32"
    if kind == value.dtype == keras.backend.standardize_dtype(value.keras.dtype):
        return value
    return apply(walk, "cast", [value], to=kind)


@operator("Identity")
def identity(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value | None:
    """Pass the input on."""
    return inputs[0]


@operator("Dropout")
def dropout(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> list[Value | None]:
    """Pass the input on: networks are published for inference."""
    if len([name for name in node.outputs if name]) > 1:
        raise UnsupportedGraph("its mask is used, which is not supported")
    constant(inputs, 1)
    return [inputs[0]]
