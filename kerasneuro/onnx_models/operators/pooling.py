"""Pooling."""

from __future__ import annotations

import math
from typing import Any

import keras

from kerasneuro.errors import UnsupportedGraph
from kerasneuro.nn.onnx.pooling import OnnxAveragePooling, OnnxDilatedMaxPooling, OnnxLpPooling
from kerasneuro.onnx_models.arguments import data
from kerasneuro.onnx_models.operands import Operands
from kerasneuro.onnx_models.operators.reduction import reduced
from kerasneuro.onnx_models.values import Tensor, Value, channels_last
from kerasneuro.onnx_models.walker import Walker, operator
from kerasneuro.onnx_models.windows import Window, ceiled, pad_image, padding, window_of
from kerasneuro.weights.onnx_graph import OnnxNode

MAXIMUM = (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D)
AVERAGE = (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, keras.layers.AveragePooling3D)


def _ends(node: OnnxNode, window: Window, value: Tensor, pairs: list[Any]) -> list[Any]:
    up = bool(node.attributes.get("ceil_mode", 0)) and not window.auto.startswith("SAME")
    return ceiled(window, value, pairs) if up else [0] * len(pairs)


def _wrap(walk: Walker, value: Tensor, stored: Any) -> Tensor:
    return walk.tensor(stored, channels_last(value.rank), [*value.dims[:2]] + [None] * (value.rank - 2))


def _window(walk: Walker, value: Tensor, kind: type[Any], settings: dict[str, Any]) -> Tensor:
    operands = Operands(walk).tensor(walk.image(value))
    settings = {
        key: operands.expressions(part) if key in ("pads", "ends") else part for key, part in settings.items()
    }
    return _wrap(walk, value, walk.apply(kind, operands, settings))


@operator("MaxPool")
def max_pool(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert MaxPool: padding is minus infinity, so that it is never the maximum."""
    value = data(inputs)
    if len([name for name in node.outputs if name]) > 1:
        raise UnsupportedGraph("the places of its maxima are used, which is not supported")
    window = window_of(node, value)
    pairs = padding(window, value)
    ends = _ends(node, window, value, pairs)
    pairs = [(before, after + end) for (before, after), end in zip(pairs, ends, strict=True)]
    image = pad_image(walk, value, pairs, fill=-math.inf)
    if window.dilated:
        steps = {"window": window.shape, "strides": window.strides, "dilations": window.dilations}
        return _window(walk, image, OnnxDilatedMaxPooling, steps)
    layer = MAXIMUM[value.rank - 3](window.shape, window.strides, "valid", name=walk.name())
    return _wrap(walk, value, walk.layer(layer, walk.image(image)))


@operator("AveragePool")
def average_pool(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert AveragePool; where padding counts or not must be told, by a layer of our own."""
    value = data(inputs)
    window = window_of(node, value)
    pairs = padding(window, value)
    ends = _ends(node, window, value, pairs)
    if window.dilated:
        raise UnsupportedGraph("it has dilations, which are not supported")
    if all(pair == (0, 0) for pair in pairs) and all(isinstance(end, int) and not end for end in ends):
        layer = AVERAGE[value.rank - 3](window.shape, window.strides, "valid", name=walk.name())
        return _wrap(walk, value, walk.layer(layer, walk.image(value)))
    settings = {
        "window": window.shape,
        "strides": window.strides,
        "pads": [size for pair in pairs for size in pair],
        "ends": ends,
        "include": bool(node.attributes.get("count_include_pad", 0)),
    }
    return _window(walk, value, OnnxAveragePooling, settings)


@operator("LpPool")
def lp_pool(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert LpPool."""
    value = data(inputs)
    window = window_of(node, value)
    if window.dilated or node.attributes.get("ceil_mode", 0):
        raise UnsupportedGraph("it has dilations or rounds sizes up, which is not supported")
    image = pad_image(walk, value, padding(window, value))
    settings = {"window": window.shape, "strides": window.strides, "p": int(node.attributes.get("p", 2))}
    return _window(walk, image, OnnxLpPooling, settings)


@operator("GlobalAveragePool", "GlobalMaxPool")
def global_pool(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Reduce all of space; averages go along one axis at a time, which keeps their digits."""
    value = data(inputs)
    function = "mean" if node.op_type == "GlobalAveragePool" else "max"
    return reduced(walk, value, function, [*range(2, value.rank)], keep=True)
