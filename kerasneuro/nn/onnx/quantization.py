"""Rounding to the steps of 8-bit integers, kept as floating-point numbers.

Definitions: onnx/onnx@v1.17.0, docs/Operators.md (QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasneuro.nn.onnx.base import OnnxLayer, as_list


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxQuantize(OnnxLayer):
    """Divide by a scale, round half to even, add the zero point, saturate; settings ``low`` and ``high``."""

    def compute(self, x: Any, scale: Any, zero: Any = None, low: int = 0, high: int = 255) -> Any:
        """Quantise; the result is whole numbers of floating-point type."""
        steps = ops.round(x / scale)
        return ops.clip(steps if zero is None else steps + zero, low, high)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result."""
        return _like_first(inputs)


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxDequantize(OnnxLayer):
    """Subtract the zero point and multiply by the scale."""

    def compute(self, x: Any, scale: Any, zero: Any = None) -> Any:
        """Dequantise."""
        x = ops.cast(x, "float32")
        return (x if zero is None else x - zero) * scale

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result."""
        return _like_first(inputs)


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxDynamicQuantize(OnnxLayer):
    """Quantise to 0 ... 255 by the range of the values; return the steps, the scale and the zero point."""

    def compute(self, x: Any) -> Any:
        """Quantise; the range always contains zero."""
        low = ops.minimum(ops.min(x), 0.0)
        high = ops.maximum(ops.max(x), 0.0)
        scale = (high - low) / 255.0
        zero = ops.clip(ops.round(-low / scale), 0.0, 255.0)
        return ops.clip(ops.round(x / scale) + zero, 0.0, 255.0), scale, zero

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the three results."""
        dtype = as_list(inputs)[0].dtype
        return _like_first(inputs), keras.KerasTensor((), dtype), keras.KerasTensor((), dtype)


def _like_first(inputs: Any) -> Any:
    return keras.KerasTensor(as_list(inputs)[0].shape, dtype="float32")
