"""What the layers for ONNX operators share: operands that are inputs, weights, numbers or sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasneuro.nn.initializers import HostUniform
from kerasneuro.nn.onnx.expression import dynamic_sizes, evaluate, static_sizes

Shape = tuple[int | None, ...]
EXPRESSION = "expression"


class OnnxLayer(keras.layers.Layer):
    """Apply an operator to operands, of which some are inputs of the layer.

    Parameters
    ----------
    operands : sequence of mapping or None
        One for each operand of `compute`: ``{"input": i}``, ``{"weight": name, "shape", "dtype",
        "trainable"}``, ``{"value": number}`` (rank 0), ``{"expression": [...], "shape"}`` (sizes of the
        inputs, see `kerasneuro.nn.onnx.expression`), or None where it is left out.
    settings : mapping
        Keywords of `compute`; ``{"expression": ...}`` and ``{"expressions": [...]}`` are computed from
        the inputs first.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    def __init__(
        self,
        operands: Sequence[Mapping[str, Any] | None] = ({"input": 0},),
        settings: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.operands = [operand and dict(operand) for operand in operands]
        self.settings = dict(settings or {})
        self.constants: dict[str, Any] = {}

    def build(self, input_shape: Any) -> None:
        """Create the weights among the operands."""
        for operand in self.operands:
            if operand and "weight" in operand:
                name = operand["weight"]
                self.constants[name] = self.add_weight(
                    name=name,
                    shape=tuple(operand["shape"]),
                    dtype=operand["dtype"],
                    trainable=operand["trainable"],
                    initializer=HostUniform(0.1, seed=1) if operand["trainable"] else "zeros",
                )

    def compute(self, *operands: Any, **settings: Any) -> Any:
        """Apply the operator."""
        raise NotImplementedError

    def call(self, inputs: Any) -> Any:
        """Map one tensor, or a list of them, to the result of the operator."""
        given = inputs if isinstance(inputs, list | tuple) else [inputs]
        sizes = dynamic_sizes(given)
        return self.compute(
            *(self._operand(operand, given, sizes) for operand in self.operands), **self._settings(sizes)
        )

    def _settings(self, sizes: Any) -> dict[str, Any]:
        return {name: _computed(value, sizes) for name, value in self.settings.items()}

    def _operand(self, operand: Mapping[str, Any] | None, given: Sequence[Any], sizes: Any) -> Any:
        if operand is None:
            return None
        if "input" in operand:
            return given[operand["input"]]
        if "weight" in operand:
            return ops.convert_to_tensor(self.constants[operand["weight"]])
        if "value" in operand:
            return operand["value"]
        values = [evaluate(part, sizes) for part in operand[EXPRESSION]]
        dtype = operand["dtype"]
        if all(isinstance(value, int | float) for value in values):
            tensor = ops.convert_to_tensor(np.asarray(values, dtype))
        else:
            tensor = ops.stack([ops.cast(value, dtype) for value in values])
        return ops.reshape(tensor, operand["shape"])

    def static_settings(self, shapes: Sequence[Shape]) -> dict[str, Any]:
        """Compute the settings as far as the sizes are known (None elsewhere)."""
        sizes = static_sizes(shapes)
        return {name: _computed(value, sizes) for name, value in self.settings.items()}

    def operand_specs(self, given: Sequence[Any]) -> list[Any]:
        """Return (shape, dtype) of each operand; (None, None) for a plain number or one left out."""
        specs: list[Any] = []
        for operand in self.operands:
            if operand is None or "value" in operand:
                specs.append((None, None))
            elif "input" in operand:
                tensor = given[operand["input"]]
                specs.append((tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype)))
            else:
                specs.append((tuple(operand["shape"]), operand["dtype"]))
        return specs

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "operands": _plain(self.operands), "settings": _plain(self.settings)}


def _computed(value: Any, sizes: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if EXPRESSION in value:
        return evaluate(value[EXPRESSION], sizes)
    return [evaluate(part, sizes) for part in value["expressions"]]


def _plain(value: Any) -> Any:
    """Copy nested settings to plain lists and dictionaries."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def as_list(inputs: Any) -> list[Any]:
    """Return the inputs of a layer as a list."""
    return [*inputs] if isinstance(inputs, list | tuple) else [inputs]


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """Return the shape of an elementwise operation."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(_joint(sizes) for sizes in zip(*padded, strict=True))


def _joint(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None and size != 1]
    if known:
        return known[0]
    return None if None in sizes else 1
