"""Resize and Upsample."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kerasneuro.errors import UnsupportedGraph
from kerasneuro.nn.onnx.resizing import OnnxResize
from kerasneuro.onnx_models.arguments import axes_of, data, numbers
from kerasneuro.onnx_models.operands import Operands
from kerasneuro.onnx_models.values import Tensor, Value, channels_last
from kerasneuro.onnx_models.walker import Walker, operator
from kerasneuro.weights.onnx_graph import OnnxNode

TRANSFORMS = (
    "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "tf_half_pixel_for_nn",
    "half_pixel_symmetric",
)  # fmt: skip
MODES = ("nearest", "linear", "cubic")
UPSAMPLING = (keras.layers.UpSampling1D, keras.layers.UpSampling2D, keras.layers.UpSampling3D)


@operator("Upsample")
def upsample(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert Upsample, the predecessor of Resize."""
    return by_scales(walk, node, inputs)


def by_scales(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Tensor:
    """Resize by the scales of older versions, which count from the first row."""
    value, scales = data(inputs), numbers(node, inputs, "scales", 1)
    rule = {"mode": node.attributes.get("mode", "nearest"), "transform": "asymmetric", "rounding": "floor"}
    return resized(walk, value, [*range(value.rank)], None, scales, rule)


@operator("Resize")
def resize(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert Resize; before version 11 it had one rule and took scales as its second input."""
    value = data(inputs)
    if walk.opset < 11:
        return by_scales(walk, node, inputs)
    for name in ("antialias", "keep_aspect_ratio_policy"):
        if node.attributes.get(name, 0) not in (0, "stretch"):
            raise UnsupportedGraph(f"{name} is not supported")
    axes = axes_of(node, [], value.rank) if "axes" in node.attributes else [*range(value.rank)]
    scales, sizes = (numbers(node, inputs, name, place) for name, place in (("scales", 2), ("sizes", 3)))
    rule = {
        "mode": node.attributes.get("mode", "nearest"),
        "transform": node.attributes.get("coordinate_transformation_mode", "half_pixel"),
        "rounding": node.attributes.get("nearest_mode", "round_prefer_floor"),
        "cubic": float(node.attributes.get("cubic_coeff_a", -0.75)),
        "exclude": bool(node.attributes.get("exclude_outside", 0)),
    }
    return resized(walk, value, axes or [], sizes or None, scales or None, rule)


def resized(
    walk: Walker,
    value: Tensor,
    axes: list[int],
    sizes: list[Any] | None,
    scales: list[float] | None,
    rule: dict[str, Any],
) -> Tensor:
    """Resize ONNX axes to sizes, or by scales."""
    if rule["mode"] not in MODES or rule["transform"] not in TRANSFORMS:
        raise UnsupportedGraph(f"{rule['mode']} interpolation by {rule['transform']} is not supported")
    if (sizes is None) == (scales is None) or len(sizes or scales or ()) != len(axes):
        raise UnsupportedGraph("it needs a size, or a scale, for each axis")
    if sizes is not None:
        kept = [place for place, axis in enumerate(axes) if sizes[place] != value.dims[axis]]
        axes, sizes = [axes[place] for place in kept], [sizes[place] for place in kept]
    factors = _repeats(value, axes, sizes, scales, rule)
    if not axes or (factors is not None and set(factors) == {1}):
        return value
    if factors is not None:
        order = channels_last(value.rank)
        layer = UPSAMPLING[value.rank - 3](factors if len(factors) > 1 else factors[0], name=walk.name())
        stored = walk.layer(layer, walk.image(value))
        dims = [*value.dims[:2], *(size * n for size, n in zip(value.dims[2:], factors, strict=True))]
        return walk.tensor(stored, order, dims, channel=value.channel)
    operands = Operands(walk).tensor(value.keras)
    settings = {
        "axes": [value.stored(axis) for axis in axes],
        "sizes": None if sizes is None else operands.expressions(sizes),
        "scales": None if scales is None else [float(np.float32(scale)) for scale in scales],
        **rule,
    }
    dims = [*value.dims]
    for place, axis in enumerate(axes):
        dims[axis] = sizes[place] if sizes is not None else None
    stored = walk.apply(OnnxResize, operands, settings)
    return walk.tensor(stored, value.order, dims, channel=value.channel)


def _repeats(
    value: Tensor, axes: list[int], sizes: list[Any] | None, scales: list[float] | None, rule: dict[str, Any]
) -> tuple[int, ...] | None:
    """Return how often each spatial row is repeated, where resizing to the nearest means just that."""
    plain = rule["transform"] == "asymmetric" and rule["rounding"] == "floor"
    centred = rule["transform"] == "half_pixel" and rule["rounding"].startswith("round")
    if rule["mode"] != "nearest" or not (plain or centred) or not 3 <= value.rank <= 5:
        return None
    factors = dict.fromkeys(range(value.rank), 1)
    for place, axis in enumerate(axes):
        old = value.dims[axis]
        if sizes is None:
            factor = (scales or [])[place]
        elif isinstance(old, int) and isinstance(sizes[place], int):
            factor = sizes[place] / old
        else:
            return None
        if factor != int(factor) or factor < 1 or (axis < 2 and factor != 1):
            return None
        factors[axis] = int(factor)
    return tuple(factors[axis] for axis in range(2, value.rank))
