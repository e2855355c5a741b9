"""Operators that move, repeat, cut or pad the elements of a tensor.

Definitions: onnx/onnx@v1.17.0, docs/Operators.md. All axes are those of the tensor as it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kerasneuro.nn.onnx.base import OnnxLayer, Shape, as_list, broadcast


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxTranspose(OnnxLayer):
    """Exchange axes, that of the batch too; setting ``axes``: old place of each new axis."""

    def compute(self, x: Any, axes: Sequence[int]) -> Any:
        """Transpose."""
        return ops.transpose(x, axes)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """Return the shape in the new order."""
        shape = _only(input_shape)
        return tuple(shape[axis] for axis in self.settings["axes"])


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxReshape(OnnxLayer):
    """Give a tensor another shape (C order); setting ``shape``: sizes, one of which may be -1."""

    def compute(self, x: Any, shape: Sequence[Any]) -> Any:
        """Reshape."""
        return ops.reshape(x, tuple(shape))

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result; a size of -1 is inferred where all others are known."""
        given = as_list(inputs)
        shape = self.static_settings([tensor.shape for tensor in given])["shape"]
        source = given[0].shape
        if -1 in shape and None not in source and None not in shape:
            known = _product(size for size in shape if size != -1)
            shape = [_product(source) // known if size == -1 and known else size for size in shape]
        sizes = tuple(None if size == -1 else size for size in shape)
        return keras.KerasTensor(sizes, dtype=given[0].dtype)


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxExpand(OnnxLayer):
    """Broadcast against a shape; setting ``shape``."""

    def compute(self, x: Any, shape: Sequence[Any]) -> Any:
        """Broadcast by adding zeros, or false, of the shape."""
        if isinstance(x, int | float):
            return ops.full(tuple(shape), x)
        dtype = keras.backend.standardize_dtype(x.dtype)
        if dtype == "bool":
            return ops.logical_or(x, ops.zeros(tuple(shape), dtype="bool"))
        return x + ops.zeros(tuple(shape), dtype=dtype)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the broadcast shape."""
        given = as_list(inputs)
        shape = self.static_settings([tensor.shape for tensor in given])["shape"]
        ((own, dtype),) = self.operand_specs(given)
        return keras.KerasTensor(broadcast([own or (), tuple(shape)]), dtype=dtype or given[0].dtype)


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxFill(OnnxLayer):
    """Make a tensor of one value; settings ``shape``, ``value`` and ``dtype``."""

    def compute(self, x: Any, shape: Sequence[Any], value: float, dtype: str) -> Any:
        """Fill."""
        return ops.cast(ops.full(tuple(shape), value), dtype)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the shape."""
        shape = self.static_settings([tensor.shape for tensor in as_list(inputs)])["shape"]
        return keras.KerasTensor(tuple(shape), dtype=self.settings["dtype"])


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxSizes(OnnxLayer):
    """Return an operand that is made of sizes of the inputs as a tensor."""

    def compute(self, value: Any) -> Any:
        """Return the operand."""
        return value

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the operand."""
        operand = self.operands[0] or {}
        return keras.KerasTensor(tuple(operand["shape"]), dtype=operand["dtype"])


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxTile(OnnxLayer):
    """Repeat a tensor along each axis; setting ``repeats``."""

    def compute(self, x: Any, repeats: Sequence[Any]) -> Any:
        """Tile, axis by axis."""
        for axis, count in enumerate(repeats):
            if isinstance(count, int):
                x = ops.concatenate([x] * count, axis=axis) if count != 1 else x
            else:
                x = ops.tile(x, [count if place == axis else 1 for place in range(len(x.shape))])
        return x

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the repeated shape."""
        given = as_list(inputs)
        repeats = self.static_settings([tensor.shape for tensor in given])["repeats"]
        pairs = zip(given[0].shape, repeats, strict=True)
        sizes = tuple(None if None in pair else pair[0] * pair[1] for pair in pairs)
        return keras.KerasTensor(sizes, dtype=given[0].dtype)


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxSlice(OnnxLayer):
    """Cut parts out along some axes; settings ``axes``, ``starts``, ``ends``, ``steps`` as in ONNX."""

    def compute(
        self, x: Any, axes: Sequence[int], starts: Sequence[Any], ends: Sequence[Any], steps: Sequence[int]
    ) -> Any:
        """Slice; negative steps read an axis backwards."""
        selection = [slice(None)] * len(x.shape)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            if step < 0:
                x, start, end = _backwards(x, axis, start, end)
            selection[axis] = slice(start, end, abs(step))
        return x[tuple(selection)]

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result as far as bounds and sizes are known."""
        given = as_list(inputs)
        found = self.static_settings([tensor.shape for tensor in given])
        sizes = list(given[0].shape)
        for axis, *bounds in zip(*(found[key] for key in ("axes", "starts", "ends", "steps")), strict=True):
            known = sizes[axis] is not None and None not in bounds
            sizes[axis] = len(range(*slice(*_bounds(*bounds)).indices(sizes[axis]))) if known else None
        return keras.KerasTensor(tuple(sizes), dtype=given[0].dtype)


def _bounds(start: int, end: int, step: int) -> tuple[int, int | None, int]:
    """Return the bounds of Python: an end far below zero is none there."""
    return start, (None if step < 0 and end < -(1 << 30) else end), step


def _backwards(x: Any, axis: int, start: Any, end: Any) -> tuple[Any, Any, Any]:
    """Flip an axis and return the bounds in the flipped one."""
    size = ops.shape(x)[axis]
    start = size + start if isinstance(start, int) and start < 0 else start
    low = 0 if isinstance(start, int) and isinstance(size, int) and start >= size else size - 1 - start
    if isinstance(start, int) and start > (1 << 30):
        low = 0
    high = None
    if not (isinstance(end, int) and end < -(1 << 30)):
        end = size + end if isinstance(end, int) and end < 0 else end
        high = size - 1 - end
    return ops.flip(x, axis=axis), low, high


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxGather(OnnxLayer):
    """Pick entries along an axis by an operand of integers; settings ``axis`` and ``rank`` of the indices."""

    def compute(self, x: Any, indices: Any, axis: int) -> Any:
        """Gather; negative indices count from the end."""
        size = ops.shape(x)[axis]
        indices = ops.cast(indices, "int32")
        return ops.take(x, ops.where(indices < 0, indices + size, indices), axis=axis)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result."""
        (shape, dtype), (picked, _) = self.operand_specs(as_list(inputs))
        axis = self.settings["axis"]
        return keras.KerasTensor((*shape[:axis], *(picked or ()), *shape[axis + 1 :]), dtype=dtype)


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxConcatenate(OnnxLayer):
    """Join operands, some of which are constants; setting ``axis``."""

    def compute(self, *operands: Any, axis: int) -> Any:
        """Concatenate."""
        return ops.concatenate(operands, axis=axis)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result."""
        specs, axis = self.operand_specs(as_list(inputs)), self.settings["axis"]
        shape, dtype = specs[0]
        lengths = [part[axis] for part, _ in specs]
        total = None if None in lengths else sum(lengths)
        return keras.KerasTensor((*shape[:axis], total, *shape[axis + 1 :]), dtype=dtype)


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxPad(OnnxLayer):
    """Pad, or crop where a number is negative; settings ``pads`` (two for each axis), ``mode``, ``value``."""

    def compute(self, x: Any, pads: Sequence[Any], mode: str = "constant", value: float = 0.0) -> Any:
        """Pad by a value ("constant"), the border ("edge"), the mirror image ("reflect") or "wrap"."""
        pairs = [*zip(pads[::2], pads[1::2], strict=True)]
        if any(isinstance(size, int) and size < 0 for size in pads):
            x, pairs = _cropped(x, pairs)
        if mode == "constant":
            return ops.pad(x, pairs, constant_values=value)
        for axis, (before, after) in enumerate(pairs):
            x = _pad_axis(x, axis, before, after, mode)
        return x

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the padded shape."""
        given = as_list(inputs)
        pads = self.static_settings([tensor.shape for tensor in given])["pads"]
        triples = zip(given[0].shape, pads[::2], pads[1::2], strict=True)
        sizes = tuple(None if None in sizes else sum(sizes) for sizes in triples)
        return keras.KerasTensor(sizes, dtype=given[0].dtype)


def _cropped(x: Any, pairs: Sequence[tuple[Any, Any]]) -> tuple[Any, list[tuple[Any, Any]]]:
    selection, rest = [], []
    for before, after in pairs:
        cut = [-size if isinstance(size, int) and size < 0 else 0 for size in (before, after)]
        selection.append(slice(cut[0] or None, -cut[1] if cut[1] else None))
        rest.append((before if not cut[0] else 0, after if not cut[1] else 0))
    return x[tuple(selection)], rest


def _pad_axis(x: Any, axis: int, before: Any, after: Any, mode: str) -> Any:
    """Pad one axis by picking the positions of its own entries."""
    if isinstance(before, int) and isinstance(after, int) and before == after == 0:
        return x
    size = ops.shape(x)[axis]
    places = ops.arange(0, size + before + after, dtype="int32") - before
    if mode == "edge":
        places = ops.clip(places, 0, size - 1)
    elif mode == "wrap":
        places = ops.mod(places, size)
    else:
        period = ops.maximum(2 * (size - 1), 1)
        places = ops.mod(places, period)
        places = ops.minimum(places, period - places) if size != 1 else places * 0
    return ops.take(x, places, axis=axis)


def _only(input_shape: Any) -> Shape:
    """Return the shape of the first input."""
    first = input_shape[0] if len(input_shape) else None
    return tuple(first) if isinstance(first, list | tuple) else tuple(input_shape)


def _product(sizes: Any) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
