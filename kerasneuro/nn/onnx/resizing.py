"""Resize by the coordinate rules of ONNX: nearest, linear and cubic.

Definition: onnx/onnx@v1.17.0, docs/Operators.md (Resize) and onnx/reference/ops/op_resize.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasneuro.nn.onnx.base import OnnxLayer, as_list


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxResize(OnnxLayer):
    """Resample some axes, one after the other.

    Settings: ``axes``; ``sizes`` of the result, or None with ``scales``; ``mode`` ("nearest", "linear",
    "cubic"); ``transform`` (rule of the coordinates); ``rounding`` (of "nearest"); ``cubic`` (coefficient);
    ``exclude`` (weights of cubic interpolation outside the tensor are left out).
    """

    def compute(
        self, x: Any, axes: Sequence[int], sizes: Any, scales: Any, mode: str, transform: str, **rule: Any
    ) -> Any:
        """Resize; an axis that keeps its size by a scale of 1 is left alone."""
        for number, axis in enumerate(axes):
            size = ops.shape(x)[axis]
            if sizes is None:
                scale = scales[number]
                wanted = _floored(size, scale)
            else:
                wanted = sizes[number]
                scale = _ratio(wanted, size)
            if isinstance(scale, float) and scale == 1.0:
                continue
            x = _resize_axis(x, axis, size, wanted, scale, mode, transform, rule)
        return x

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result."""
        given = as_list(inputs)
        found, sizes = self.static_settings([tensor.shape for tensor in given]), list(given[0].shape)
        for number, axis in enumerate(found["axes"]):
            old = sizes[axis]
            by_scale = None if old is None or found["sizes"] else _floored(old, found["scales"][number])
            sizes[axis] = found["sizes"][number] if found["sizes"] else by_scale
        return keras.KerasTensor(tuple(sizes), dtype=given[0].dtype)


def _floored(size: Any, scale: float) -> Any:
    if isinstance(size, int):
        return int(np.floor(np.float32(size) * np.float32(scale)))
    return ops.cast(ops.floor(ops.cast(size, "float32") * scale), "int32")


def _ratio(wanted: Any, size: Any) -> Any:
    if isinstance(size, int) and isinstance(wanted, int):
        return float(np.float32(wanted) / np.float32(size))
    return ops.cast(wanted, "float32") / ops.cast(size, "float32")


def _resize_axis(
    x: Any, axis: int, size: Any, wanted: Any, scale: Any, mode: str, transform: str, rule: dict[str, Any]
) -> Any:
    known = isinstance(size, int) and isinstance(wanted, int) and isinstance(scale, float)
    xp: Any = np if known else ops
    places = _coordinates(xp, size, wanted, scale, transform)
    if mode == "nearest":
        return ops.take(x, _indices(xp, _round(xp, places, rule["rounding"]), size), axis=axis)
    taps, weights = _linear(xp, places) if mode == "linear" else _cubic(xp, places, size, rule)
    shape = [-1 if place == axis else 1 for place in range(len(x.shape))]
    total = None
    for tap, weight in zip(taps, weights, strict=True):
        column = ops.cast(ops.reshape(ops.convert_to_tensor(weight), shape), x.dtype)
        part = ops.take(x, _indices(xp, tap, size), axis=axis) * column
        total = part if total is None else total + part
    return total


def _indices(xp: Any, places: Any, size: Any) -> Any:
    """Turn whole numbers into indices; those outside take the border."""
    if xp is np:
        return ops.convert_to_tensor(np.clip(places, 0, size - 1).astype(np.int32))
    return ops.clip(ops.cast(places, "int32"), 0, size - 1)


def _coordinates(xp: Any, size: Any, wanted: Any, scale: Any, transform: str) -> Any:
    """Return the place in the input of each output, in float32 as onnxruntime does."""
    if xp is np:
        i, scale = np.arange(wanted, dtype=np.float32), np.float32(scale)
        one = np.float32(wanted - 1)
        ends = i * np.float32(size - 1) / max(one, np.float32(1))
        half = (i + np.float32(0.5)) / scale - np.float32(0.5)
    else:
        i = ops.cast(ops.arange(0, wanted, dtype="int32"), "float32")
        one = ops.cast(wanted - 1, "float32")
        ends = i * ops.cast(size - 1, "float32") / ops.maximum(one, 1.0)
        half = (i + 0.5) / scale - 0.5
    if transform == "asymmetric":
        return i / scale
    if transform == "align_corners":
        return ends
    if transform == "pytorch_half_pixel":
        return xp.where(one > 0, half, xp.zeros_like(half))
    if transform == "tf_half_pixel_for_nn":
        return half + np.float32(0.5)
    if transform == "half_pixel_symmetric":
        return half + _centring(xp, size, wanted, scale)
    return half


def _centring(xp: Any, size: Any, wanted: Any, scale: Any) -> Any:
    """Return the shift that keeps the centre in place where the size was rounded down."""
    if xp is np:
        exact = np.float32(size) * np.float32(scale)
        return np.float32(size / 2) * (1 - np.float32(wanted) / exact)
    whole = ops.cast(size, "float32")
    return whole / 2 * (1 - ops.cast(wanted, "float32") / (whole * scale))


def _round(xp: Any, places: Any, rounding: str) -> Any:
    if rounding == "floor":
        return xp.floor(places)
    if rounding == "ceil":
        return xp.ceil(places)
    if rounding == "round_prefer_ceil":
        return xp.floor(places + np.float32(0.5))
    return xp.ceil(places - np.float32(0.5))


def _linear(xp: Any, places: Any) -> tuple[list[Any], list[Any]]:
    low = xp.floor(places)
    part = places - low
    return [low, low + 1], [1 - part, part]


def _cubic(xp: Any, places: Any, size: Any, rule: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return four taps and their weights (R. Keys, doi:10.1109/TASSP.1981.1163711)."""
    a, low = rule["cubic"], xp.floor(places)
    t = places - low
    weights = [
        ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
        ((a + 2) * t - (a + 3)) * t * t + 1,
        ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1,
        ((a * (2 - t) - 5 * a) * (2 - t) + 8 * a) * (2 - t) - 4 * a,
    ]
    taps = [low + offset for offset in (-1, 0, 1, 2)]
    if rule["exclude"]:
        last = size - 1 if xp is np else ops.cast(size - 1, "float32")
        inside = [xp.logical_and(tap >= 0, tap <= last) for tap in taps]
        weights = [
            xp.where(kept, weight, xp.zeros_like(weight))
            for kept, weight in zip(inside, weights, strict=True)
        ]
        total = weights[0] + weights[1] + weights[2] + weights[3]
        weights = [weight / total for weight in weights]
    return taps, weights
