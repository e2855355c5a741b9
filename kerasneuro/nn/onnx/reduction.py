"""Reductions over any axes, and positions of extremes.

Definitions: onnx/onnx@v1.17.0, docs/Operators.md. All axes are those of the tensor as it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from kerasneuro.nn.onnx.base import OnnxLayer, as_list


def axis_by_axis(function: Callable[..., Any], x: Any, axes: Sequence[int]) -> Any:
    """Reduce the last axis first and one axis at a time, keeping them.

    A joint sum over a whole volume in float32 loses digits on some backends; short sums do not.
    """
    for axis in sorted(axes, reverse=True):
        x = function(x, axis=axis, keepdims=True)
    return x


def _sum_exponentials(x: Any, axes: Sequence[int]) -> Any:
    return ops.logsumexp(x, axis=tuple(axes), keepdims=True)


REDUCTIONS: dict[str, Callable[[Any, Sequence[int]], Any]] = {
    "mean": lambda x, axes: axis_by_axis(ops.mean, x, axes),
    "sum": lambda x, axes: axis_by_axis(ops.sum, x, axes),
    "max": lambda x, axes: ops.max(x, axis=tuple(axes), keepdims=True),
    "min": lambda x, axes: ops.min(x, axis=tuple(axes), keepdims=True),
    "prod": lambda x, axes: axis_by_axis(ops.prod, x, axes),
    "l1": lambda x, axes: axis_by_axis(ops.sum, ops.abs(x), axes),
    "l2": lambda x, axes: ops.sqrt(axis_by_axis(ops.sum, ops.square(x), axes)),
    "sum_square": lambda x, axes: axis_by_axis(ops.sum, ops.square(x), axes),
    "log_sum": lambda x, axes: ops.log(axis_by_axis(ops.sum, x, axes)),
    "log_sum_exp": _sum_exponentials,
}


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxReduce(OnnxLayer):
    """Reduce axes by one of `REDUCTIONS`; settings ``function``, ``axes`` and ``keep``."""

    def compute(self, x: Any, function: str, axes: Sequence[int], keep: bool) -> Any:
        """Reduce."""
        result = REDUCTIONS[function](x, axes)
        return result if keep else ops.squeeze(result, axis=tuple(axes))

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result."""
        given = as_list(inputs)[0]
        axes, keep = self.settings["axes"], self.settings["keep"]
        sizes = [1 if axis in axes else size for axis, size in enumerate(given.shape)]
        kept = [size for axis, size in enumerate(sizes) if keep or axis not in axes]
        return keras.KerasTensor(tuple(kept), dtype=given.dtype)


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxArgExtreme(OnnxLayer):
    """Return the first (or last) place of the largest or smallest value along an axis, as int32.

    Settings: ``axis``, ``keep``, ``smallest``, ``last``.
    """

    def compute(self, x: Any, axis: int, keep: bool, smallest: bool, last: bool) -> Any:
        """Find the place."""
        find = ops.argmin if smallest else ops.argmax
        if not last:
            return ops.cast(find(x, axis=axis, keepdims=keep), "int32")
        place = find(ops.flip(x, axis=axis), axis=axis, keepdims=keep)
        return ops.shape(x)[axis] - 1 - ops.cast(place, "int32")

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result."""
        shape, axis = [*as_list(inputs)[0].shape], self.settings["axis"]
        shape[axis : axis + 1] = [1] if self.settings["keep"] else []
        return keras.KerasTensor(tuple(shape), dtype="int32")


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxSoftmax(OnnxLayer):
    """Take softmax, or its logarithm, over one or more axes; settings ``axes`` and ``logarithm``."""

    def compute(self, x: Any, axes: Sequence[int], logarithm: bool) -> Any:
        """Normalise the exponentials."""
        shifted = x - ops.stop_gradient(ops.max(x, axis=tuple(axes), keepdims=True))
        total = axis_by_axis(ops.sum, ops.exp(shifted), axes)
        return shifted - ops.log(total) if logarithm else ops.exp(shifted) / total

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result."""
        given = as_list(inputs)[0]
        return keras.KerasTensor(given.shape, dtype=given.dtype)
