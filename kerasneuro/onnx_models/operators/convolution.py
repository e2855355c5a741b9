"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerasneuro.errors import UnsupportedGraph
from kerasneuro.nn.convolution import DoublingConv3DTranspose
from kerasneuro.nn.initializers import HostGlorotUniform
from kerasneuro.nn.onnx.convolution import OnnxConvolution, OnnxConvolutionTranspose
from kerasneuro.onnx_models.arguments import constant, data, required
from kerasneuro.onnx_models.operands import Operands, storable
from kerasneuro.onnx_models.symbols import combine
from kerasneuro.onnx_models.values import Tensor, Value, channels_last
from kerasneuro.onnx_models.walker import Walker, operator
from kerasneuro.onnx_models.windows import Window, is_same, pad_image, padding, window_of
from kerasneuro.weights.onnx_graph import OnnxNode

LAYERS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
# Kernel, stride, padding and output padding of each axis that double the size.
DOUBLING = {(3, 2, (1, 1), 1), (2, 2, (0, 0), 0)}


@operator("Conv")
def conv(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert Conv."""
    return convolved(walk, node, data(inputs), required(inputs, 1), constant(inputs, 2))


def convolved(
    walk: Walker, node: OnnxNode, value: Tensor, weight: np.ndarray, bias: np.ndarray | None
) -> Tensor:
    """Convolve an image with a kernel (O, C / groups, k, ...)."""
    window, groups = window_of(node, value, weight.shape[2:]), int(node.attributes.get("group", 1))
    _check(value, weight.shape[1] * groups, weight, window)
    pairs = padding(window, value)
    same = is_same(window, pairs)
    image = value if same else pad_image(walk, value, pairs)
    kernel = np.moveaxis(storable(weight), (0, 1), (-1, -2))
    if window.dilated and any(step != 1 for step in window.strides):
        # The layers of Keras refuse both at once, so "same" is padded here, too.
        image = pad_image(walk, value, pairs)
        operands = Operands(walk).tensor(walk.image(image))
        settings = {"strides": window.strides, "dilations": window.dilations, "groups": groups}
        stored = owned(walk, OnnxConvolution, operands, settings, kernel, bias)
    else:
        layer = LAYERS[value.rank - 3](
            kernel.shape[-1],
            window.shape,
            strides=window.strides,
            dilation_rate=window.dilations,
            padding="same" if same else "valid",
            groups=groups,
            use_bias=bias is not None,
            kernel_initializer=HostGlorotUniform(),
            name=walk.name(),
        )
        stored = walk.layer(layer, walk.image(image), [("kernel", kernel), ("bias", bias)])
    kept = same and all(step == 1 for step in window.strides)
    dims = [value.dims[0], None, *(value.dims[2:] if kept else [None] * (value.rank - 2))]
    return walk.tensor(stored, channels_last(value.rank), dims)


def _check(value: Tensor, channels: int, weight: np.ndarray, window: Window) -> None:
    if value.dims[1] != channels or [*weight.shape[2:]] != window.shape:
        raise UnsupportedGraph(
            f"its weights of shape {list(weight.shape)} do not fit {value.dims[1]} channels "
            f"and the window {window.shape}"
        )


def owned(
    walk: Walker,
    kind: type[Any],
    operands: Operands,
    settings: dict[str, Any],
    kernel: np.ndarray,
    bias: np.ndarray | None,
) -> Any:
    """Call a layer of our own that has a kernel and a bias."""
    settings |= {"kernel_shape": [*kernel.shape], "use_bias": bias is not None}
    layer = kind(operands=operands.entries, settings=settings, name=walk.name())
    given = operands.tensors[0] if len(operands.tensors) == 1 else operands.tensors
    return walk.layer(layer, given, [("kernel", kernel), ("bias", bias)])


@operator("ConvTranspose")
def conv_transpose(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert ConvTranspose: by the fast layer for doubling, that of Keras, or one that can do everything."""
    value, weight, bias = data(inputs), storable(required(inputs, 1)), constant(inputs, 2)
    window, groups = window_of(node, value, weight.shape[2:]), int(node.attributes.get("group", 1))
    _check(value, weight.shape[0], weight, window)
    begins, sizes = _cropping(node, window, value)
    order = channels_last(value.rank)
    dims = [value.dims[0], None, *sizes]
    kernel = np.moveaxis(weight, (0, 1), (-1, -2))
    filters, image = weight.shape[1] * groups, walk.image(value)
    simple = groups == 1 and not window.dilated
    if simple and value.rank == 5 and _doubles(node, window):
        fast = DoublingConv3DTranspose(filters, window.shape[0], use_bias=bias is not None, name=walk.name())
        return walk.tensor(walk.layer(fast, image, [("kernel", kernel), ("bias", bias)]), order, dims)
    if simple and _crops_only(node, window):
        layer = TRANSPOSED[value.rank - 3](
            filters,
            window.shape,
            strides=window.strides,
            padding="valid",
            use_bias=bias is not None,
            kernel_initializer=HostGlorotUniform(),
            name=walk.name(),
        )
        stored = walk.layer(layer, image, [("kernel", kernel), ("bias", bias)])
        whole = walk.tensor(stored, order, [value.dims[0], None] + [None] * (value.rank - 2))
        extra = node.attributes.get("output_padding") or [0] * len(window.shape)
        ends = [(-before, more - after) for (before, after), more in zip(window.pads, extra, strict=True)]
        return pad_image(walk, whole, ends)
    return _general(walk, value, window, groups, weight, bias, (begins, sizes))


def _doubles(node: OnnxNode, window: Window) -> bool:
    extra = node.attributes.get("output_padding") or [0] * len(window.shape)
    axes = {*zip(window.shape, window.strides, window.pads, extra, strict=True)}
    stated = "output_shape" in node.attributes or window.auto != "NOTSET"
    return len(axes) == 1 and axes <= DOUBLING and not stated


def _crops_only(node: OnnxNode, window: Window) -> bool:
    """Say whether the result is a part of the whole one, at places that do not depend on the size."""
    if "output_shape" in node.attributes or window.auto.startswith("SAME"):
        return False
    extra = node.attributes.get("output_padding") or [0] * len(window.shape)
    return all(
        after >= more and step <= size
        for (_, after), more, step, size in zip(window.pads, extra, window.strides, window.shape, strict=True)
    )


def _cropping(node: OnnxNode, window: Window, value: Tensor) -> tuple[list[Any], list[Any]]:
    """Return the first row that is kept, and the number of rows, of each axis of the whole result."""
    spatial = len(window.shape)
    extra = [int(more) for more in node.attributes.get("output_padding") or [0] * spatial]
    stated = [int(size) for size in node.attributes.get("output_shape") or []][-spatial:]
    begins, sizes = [], []
    for axis, (size, step, reach) in enumerate(
        zip(value.dims[2:], window.strides, window.reach, strict=True)
    ):
        whole = (size - 1) * step + extra[axis] + reach
        before, after = window.pads[axis]
        wanted = whole - before - after
        if stated or window.auto.startswith("SAME"):
            wanted = stated[axis] if stated else size * step
            total = combine("max", whole - wanted, 0)
            before = total // 2 if window.auto == "SAME_UPPER" else total - total // 2
        begins.append(before)
        sizes.append(wanted)
    return begins, sizes


def _general(
    walk: Walker,
    value: Tensor,
    window: Window,
    groups: int,
    weight: np.ndarray,
    bias: np.ndarray | None,
    cropping: tuple[Sequence[Any], Sequence[Any]],
) -> Tensor:
    """Convert a transposed convolution to a plain one with the flipped kernel."""
    spatial = tuple(range(2, weight.ndim))
    parts = np.split(np.flip(weight, spatial), groups, axis=0)
    # (C / groups, O / groups, k, ...) of each group -> (k, ..., C / groups, O).
    kernel = np.concatenate([np.moveaxis(part, (0, 1), (-2, -1)) for part in parts], axis=-1)
    operands = Operands(walk).tensor(walk.image(value))
    begins, sizes = cropping
    settings = {
        "strides": window.strides,
        "dilations": window.dilations,
        "begins": operands.expressions(begins),
        "sizes": operands.expressions(sizes),
    }
    stored = owned(walk, OnnxConvolutionTranspose, operands, settings, kernel, bias)
    return walk.tensor(stored, channels_last(value.rank), [value.dims[0], None, *sizes])
