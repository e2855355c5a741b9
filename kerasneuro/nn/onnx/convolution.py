"""Convolutions that the layers of Keras refuse or lack: stride with dilation, grouped transposed ones.

Definitions: onnx/onnx@v1.17.0, docs/Operators.md (Conv, ConvTranspose).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kerasneuro.nn.initializers import HostGlorotUniform
from kerasneuro.nn.onnx.base import OnnxLayer, Shape


class _Convolution(OnnxLayer):
    """Own a kernel and a bias; settings ``kernel_shape`` (of Keras), ``use_bias``, ``groups`` and others."""

    def build(self, input_shape: Any) -> None:
        """Create the kernel (k, ..., C / groups, filters) and the bias (filters,)."""
        shape = tuple(self.settings["kernel_shape"])
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=HostGlorotUniform())
        bias = self.settings["use_bias"]
        self.bias = self.add_weight(name="bias", shape=shape[-1:], initializer="zeros") if bias else None

    def _convolve(self, x: Any, kernel: Any, dilations: Sequence[int]) -> Any:
        result = ops.conv(
            x, kernel, 1, padding="valid", data_format="channels_last", dilation_rate=tuple(dilations)
        )
        return result


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxConvolution(_Convolution):
    """Convolve with stride and dilation: every result is computed, and those of the stride are kept."""

    def compute(self, x: Any, strides: Sequence[int], dilations: Sequence[int], **_: Any) -> Any:
        """Map a padded tensor (B, X, ..., C) to (B, X', ..., filters)."""
        result = self._convolve(x, ops.convert_to_tensor(self.kernel), dilations)
        result = result[(slice(None), *(slice(None, None, step) for step in strides), slice(None))]
        return result if self.bias is None else result + self.bias

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result."""
        kernel, sizes = self.settings["kernel_shape"], []
        steps, dilations = self.settings["strides"], self.settings["dilations"]
        for size, length, step, dilation in zip(inputs.shape[1:-1], kernel, steps, dilations, strict=False):
            sizes.append(None if size is None else (size - (length - 1) * dilation - 1) // step + 1)
        return keras.KerasTensor((inputs.shape[0], *sizes, kernel[-1]), inputs.dtype)


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxConvolutionTranspose(_Convolution):
    """Convolve a tensor that is spread by zeros: any stride, dilation, number of groups and cropping.

    The kernel (k, ..., C / groups, filters) is that of the ordinary convolution: flipped already. Settings
    ``begins``: rows left out before the first, ``sizes``: rows of the result; beyond the last one that the
    input reaches, rows hold the bias alone.
    """

    def compute(
        self,
        x: Any,
        strides: Sequence[int],
        dilations: Sequence[int],
        begins: Sequence[Any],
        sizes: Sequence[Any],
        **_: Any,
    ) -> Any:
        """Map a tensor (B, X, ..., C) to (B, X', ..., filters)."""
        kernel = ops.convert_to_tensor(self.kernel)
        pads = [(0, 0)]
        for axis, stride in enumerate(strides, start=1):
            x = spread(x, axis, stride)
            reach = (kernel.shape[axis - 1] - 1) * dilations[axis - 1]
            # Rows of zero after the last one, so that the result can be longer than what the input reaches.
            longest = ops.shape(x)[axis] + reach
            wanted = begins[axis - 1] + sizes[axis - 1]
            gap = wanted - longest
            missing = max(0, gap) if isinstance(gap, int) else ops.maximum(gap, 0)
            pads.append((reach, reach + missing))
        result = self._convolve(ops.pad(x, [*pads, (0, 0)]), kernel, dilations)
        cuts = (slice(begin, begin + size) for begin, size in zip(begins, sizes, strict=True))
        result = result[(slice(None), *cuts, slice(None))]
        return result if self.bias is None else result + self.bias

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result."""
        tensor = inputs[0] if isinstance(inputs, list | tuple) else inputs
        shapes: list[Shape] = [part.shape for part in inputs] if isinstance(inputs, list) else [tensor.shape]
        sizes = self.static_settings(shapes)["sizes"]
        return keras.KerasTensor((tensor.shape[0], *sizes, self.settings["kernel_shape"][-1]), tensor.dtype)


def spread(x: Any, axis: int, stride: int) -> Any:
    """Put ``stride - 1`` zeros between the entries of an axis."""
    if stride == 1:
        return x
    sizes = [*ops.shape(x)]
    rank = len(sizes)
    wide = ops.pad(
        ops.expand_dims(x, axis + 1), [(0, (stride - 1) * (a == axis + 1)) for a in range(rank + 1)]
    )
    length = sizes[axis] * stride
    sizes[axis] = length
    wide = ops.reshape(wide, sizes)
    return wide[tuple(slice(None, length - (stride - 1)) if a == axis else slice(None) for a in range(rank))]
