"""Quantised operators, computed with floating-point numbers."""

from __future__ import annotations

import numpy as np

from kerasneuro.errors import UnsupportedGraph
from kerasneuro.nn.onnx.quantization import OnnxDequantize, OnnxDynamicQuantize, OnnxQuantize
from kerasneuro.onnx_models.arguments import check_axis, constant, data, given, required
from kerasneuro.onnx_models.operands import Operands
from kerasneuro.onnx_models.operators.convolution import convolved
from kerasneuro.onnx_models.operators.elementwise import apply
from kerasneuro.onnx_models.values import Constant, Tensor, Value
from kerasneuro.onnx_models.walker import Walker, operator
from kerasneuro.weights.onnx_graph import OnnxNode
from kerasneuro.weights.onnx_tensor import DTYPES

TYPES = ("uint8", "int8", "uint16", "int16")


def along(value: Value | None, rank: int, axis: int) -> Value | None:
    """Return a scale or zero point so that it broadcasts: one number, or one for each entry of an axis."""
    if not isinstance(value, Constant):
        if isinstance(value, Tensor) and value.rank:
            raise UnsupportedGraph("its scales are computed for each channel, which is not supported")
        return value
    array = np.asarray(value.array, np.float32)
    if array.size == 1:
        return Constant(array.reshape(()))
    if array.ndim != 1:
        raise UnsupportedGraph("its scales belong to blocks, which is not supported")
    return Constant(array.reshape([-1 if place == axis else 1 for place in range(rank)]))


def quantized(
    walk: Walker, value: Tensor, scale: Value | None, zero: Value | None, dtype: str, axis: int
) -> Tensor:
    """Round a tensor to steps."""
    if dtype not in TYPES:
        raise UnsupportedGraph(f"it rounds to {dtype}, expected {', '.join(TYPES)}")
    limits, operands = np.iinfo(dtype), Operands(walk).tensor(value.keras)
    for part in (scale, zero):
        operands.add(along(part, value.rank, axis), value.rank, value.order)
    settings = {"low": int(limits.min), "high": int(limits.max)}
    stored = walk.apply(OnnxQuantize, operands, settings, suffix="_quantize")
    return walk.tensor(stored, value.order, value.dims, channel=value.channel, dtype=dtype)


def dequantized(walk: Walker, value: Tensor, scale: Value | None, zero: Value | None, axis: int) -> Tensor:
    """Turn steps into numbers."""
    operands = Operands(walk).tensor(value.keras)
    for part in (scale, zero):
        operands.add(along(part, value.rank, axis), value.rank, value.order)
    stored = walk.apply(OnnxDequantize, operands, {}, suffix="_dequantize")
    return walk.tensor(stored, value.order, value.dims, channel=value.channel, dtype="float32")


def _axis(node: OnnxNode, value: Tensor) -> int:
    if node.attributes.get("block_size", 0):
        raise UnsupportedGraph("its scales belong to blocks, which is not supported")
    axis = int(node.attributes.get("axis", 1))
    return check_axis(axis, value.rank) if value.rank > 1 else 0


@operator("QuantizeLinear")
def quantize(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Round half to even, add the zero point, saturate."""
    value, zero = data(inputs), given(inputs, 2)
    stated = DTYPES.get(int(node.attributes.get("output_dtype", 0)), "uint8")
    dtype = stated
    if isinstance(zero, Constant):
        dtype = str(zero.array.dtype)
    elif isinstance(zero, Tensor):
        dtype = zero.dtype
    return quantized(walk, value, given(inputs, 1), zero, dtype, _axis(node, value))


@operator("DequantizeLinear")
def dequantize(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Subtract the zero point, multiply by the scale."""
    value = data(inputs)
    return dequantized(walk, value, given(inputs, 1), given(inputs, 2), _axis(node, value))


@operator("DynamicQuantizeLinear")
def dynamic(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> list[Value | None]:
    """Quantise by the range of the values."""
    value = data(inputs)
    operands = Operands(walk).tensor(value.keras)
    steps, scale, zero = walk.apply(OnnxDynamicQuantize, operands, {})
    return [
        walk.tensor(steps, value.order, value.dims, channel=value.channel, dtype="uint8"),
        walk.tensor(scale, ()),
        walk.tensor(zero, (), dtype="uint8"),
    ]


def _weights(array: np.ndarray, scale: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    """Dequantise a kernel (O, C, k, ...) with one scale, or one for each output channel."""
    shape = (-1, *[1] * (array.ndim - 1))
    centre = np.float32(0) if zero is None else np.asarray(zero, np.float32).reshape(shape)
    result = (array.astype(np.float32) - centre) * np.asarray(scale, np.float32).reshape(shape)
    return np.asarray(result, np.float32)


@operator("QLinearConv")
def quantized_conv(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Dequantise, convolve and quantise again."""
    value, scale, zero = data(inputs), given(inputs, 1), given(inputs, 2)
    input_scale, weight_scale = required(inputs, 1), required(inputs, 4)
    kernel = _weights(required(inputs, 3), weight_scale, constant(inputs, 5))
    stated = constant(inputs, 8)
    bias = None if stated is None else (stated * (input_scale * weight_scale)).astype(np.float32)
    image = dequantized(walk, value, scale, zero, 1)
    result = convolved(walk, node, image, kernel, bias)
    return quantized(walk, result, given(inputs, 6), given(inputs, 7), str(required(inputs, 7).dtype), 1)


@operator("ConvInteger")
def integer_conv(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convolve whole numbers, which float32 holds exactly up to 2^24."""
    value, zero = data(inputs), given(inputs, 2)
    if zero is not None:
        centre = Constant(np.asarray(zero.array, np.float32)) if isinstance(zero, Constant) else zero
        value = apply(walk, "sub", [value, along(centre, value.rank, 1)])
    kernel = _weights(required(inputs, 1), np.ones(1), constant(inputs, 3))
    return convolved(walk, node, value, kernel, None)
