"""Pooling with windows that the layers of Keras do not know.

Definitions: onnx/onnx@v1.17.0, docs/Operators.md (MaxPool, AveragePool, LpPool).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import keras
from keras import ops

from kerasneuro.nn.onnx.base import OnnxLayer, as_list


class _Window(OnnxLayer):
    """A window that moves over the spatial axes of (B, X, ..., C)."""

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result."""
        given = as_list(inputs)
        found = self.static_settings([tensor.shape for tensor in given])
        pads = found.get("pads", [0] * (2 * (len(given[0].shape) - 2)))
        sizes = []
        for axis, size in enumerate(given[0].shape[1:-1]):
            reach = (found["window"][axis] - 1) * found.get("dilations", [1] * 9)[axis] + 1
            total = [size, *pads[2 * axis : 2 * axis + 2], found.get("ends", [0] * 9)[axis]]
            sizes.append(None if None in total else (sum(total) - reach) // found["strides"][axis] + 1)
        return keras.KerasTensor((given[0].shape[0], *sizes, given[0].shape[-1]), dtype=given[0].dtype)


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxDilatedMaxPooling(_Window):
    """Take the maximum of a window; settings ``window``, ``strides``, ``dilations``."""

    def compute(self, x: Any, window: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Any:
        """Compare the shifted tensors, one for each place of the window."""
        sizes = ops.shape(x)[1:-1]
        result = None
        for offsets in product(
            *(range(0, n * step, step) for n, step in zip(window, dilations, strict=True))
        ):
            cuts = [
                slice(offset, size - (n - 1) * dilation + offset, step)
                for offset, size, n, dilation, step in zip(
                    offsets, sizes, window, dilations, strides, strict=True
                )
            ]
            part = x[(slice(None), *cuts, slice(None))]
            result = part if result is None else ops.maximum(result, part)
        return result


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxAveragePooling(_Window):
    """Average over the part of each window that counts.

    Settings ``window``, ``strides``, ``pads`` (two for each axis), ``include`` (padding counts) and ``ends``
    (rows after the padding, for a last window that is not full; they never count).
    """

    def compute(
        self,
        x: Any,
        window: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[Any],
        ends: Sequence[Any],
        include: bool,
    ) -> Any:
        """Divide the average of a window by the share of it that counts."""
        pairs = [(0, 0), *zip(pads[::2], pads[1::2], strict=True), (0, 0)]
        beyond = [(0, 0), *((0, end) for end in ends), (0, 0)]
        counted = ops.ones((1, *ops.shape(x)[1:-1], 1), dtype=keras.backend.standardize_dtype(x.dtype))
        counted = ops.pad(ops.pad(counted, pairs, constant_values=float(include)), beyond)
        x = ops.pad(ops.pad(x, pairs), beyond)
        total, share = (
            ops.average_pool(part, tuple(window), tuple(strides), "valid", "channels_last")
            for part in (x, counted)
        )
        return total / share


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxLpPooling(_Window):
    """Take the p-norm of each window of a padded tensor; settings ``window``, ``strides``, ``p``."""

    def compute(self, x: Any, window: Sequence[int], strides: Sequence[int], p: int) -> Any:
        """Average the powers, and undo the division."""
        powers = ops.power(ops.abs(x), float(p))
        mean = ops.average_pool(powers, tuple(window), tuple(strides), "valid", "channels_last")
        return ops.power(mean * math.prod(window), 1 / p)
