"""Normalisation."""

from __future__ import annotations

import keras
import numpy as np

from kerasneuro.errors import UnsupportedGraph
from kerasneuro.nn.onnx.normalization import SampleNormalization
from kerasneuro.nn.switch_normalization import SwitchNormalization
from kerasneuro.onnx_models.arguments import axis_of, constant, data, required
from kerasneuro.onnx_models.fusing import GROUPS, SWITCH
from kerasneuro.onnx_models.values import Tensor, Value, channels_last
from kerasneuro.onnx_models.walker import Walker, operator
from kerasneuro.weights.onnx_graph import OnnxNode

# Since this version, scale and offset of group normalisation are those of each channel.
PER_CHANNEL_SINCE = 21


def _image(walk: Walker, value: Tensor) -> tuple[object, tuple[int, ...]]:
    """Return the tensor with its channels last, and that order; a matrix stays as it is."""
    order = channels_last(value.rank)
    return walk.ordered(value, order), order


@operator("BatchNormalization")
def batch(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert batch normalisation with the stored statistics."""
    value = data(inputs)
    if node.attributes.get("training_mode", 0) or len([name for name in node.outputs if name]) > 1:
        raise UnsupportedGraph("it is in training mode; export the network for inference")
    stored, order = _image(walk, value)
    layer = keras.layers.BatchNormalization(
        epsilon=float(node.attributes.get("epsilon", 1e-5)),
        momentum=float(node.attributes.get("momentum", 0.9)),
        name=walk.name(),
    )
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    pairs = [(name, required(inputs, place)) for place, name in enumerate(names, start=1)]
    return walk.tensor(walk.layer(layer, stored, pairs), order, value.dims, channel=value.channel)


@operator("InstanceNormalization")
def instance(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert instance normalisation."""
    return _by_sample(walk, node, data(inputs), -1, required(inputs, 1), required(inputs, 2))


@operator("GroupNormalization")
def group(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert group normalisation; its scale is one for each group up to version 20."""
    value, groups = data(inputs), int(node.attributes["num_groups"])
    scale, offset = required(inputs, 1), required(inputs, 2)
    channels = value.dims[1]
    if not isinstance(channels, int) or channels % groups:
        raise UnsupportedGraph(f"its {groups} groups do not divide {channels} channels")
    if walk.opset < PER_CHANNEL_SINCE:
        scale, offset = (np.repeat(array, channels // groups) for array in (scale, offset))
    return _by_sample(walk, node, value, groups, scale, offset)


@operator(GROUPS)
def fused_group(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Build group normalisation that was written as several nodes."""
    scale, offset = (required(inputs, place).reshape(-1) for place in (1, 2))
    value, groups = data(inputs), int(node.attributes["num_groups"])
    if value.dims[1] != scale.size or scale.size % groups:
        raise UnsupportedGraph(f"its {groups} groups do not divide {value.dims[1]} channels")
    return _by_sample(walk, node, value, groups, scale, offset)


@operator(SWITCH)
def fused_switch(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Build switchable normalisation; its shares are stored as logarithms, which softmax undoes."""
    value = data(inputs)
    layer = SwitchNormalization(epsilon=float(node.attributes["epsilon"]), name=walk.name())
    scale, offset = (required(inputs, place).reshape(-1) for place in (1, 2))
    shares = np.log(np.asarray(node.attributes["shares"], np.float64)).astype(np.float32)
    pairs = [("gamma", scale), ("beta", offset), ("mean_weight", shares[:2]), ("var_weight", shares[2:])]
    stored = walk.layer(layer, walk.image(value), pairs)
    return walk.tensor(stored, channels_last(value.rank), value.dims)


def _by_sample(
    walk: Walker, node: OnnxNode, value: Tensor, groups: int, scale: np.ndarray, offset: np.ndarray
) -> Tensor:
    stored, order = _image(walk, value)
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    layer = SampleNormalization(groups, epsilon, name=walk.name())
    result = walk.layer(layer, stored, [("gamma", scale), ("beta", offset)])
    return walk.tensor(result, order, value.dims, channel=value.channel)


@operator("LayerNormalization")
def layer_normalization(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert layer normalisation over the last axes, in ONNX order."""
    value, scale, offset = data(inputs), required(inputs, 1), constant(inputs, 2)
    axis = axis_of(node, value.rank, -1)
    if len([name for name in node.outputs if name]) > 1:
        raise UnsupportedGraph("its statistics are used, which is not supported")
    axes = [*range(axis, value.rank)]
    layer = keras.layers.LayerNormalization(
        axis=axes,
        epsilon=float(node.attributes.get("epsilon", 1e-5)),
        center=offset is not None,
        name=walk.name(),
    )
    shape = tuple(size if isinstance(size, int) else -1 for size in value.dims[axis:])
    if -1 in shape:
        raise UnsupportedGraph("it runs over an axis of unknown size")
    pairs = [
        (name, array if array is None else np.broadcast_to(array, shape))
        for name, array in (("gamma", scale), ("beta", offset))
    ]
    stored = walk.layer(layer, walk.plain(value), pairs)
    return walk.tensor(stored, range(value.rank), value.dims, channel=value.channel)
