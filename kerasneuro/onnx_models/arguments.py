"""Read the attributes and the constant inputs of a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasneuro.errors import UnsupportedGraph
from kerasneuro.onnx_models.values import Constant, Sizes, Tensor, Value
from kerasneuro.weights.onnx_graph import OnnxNode


def given(inputs: Sequence[Value | None], place: int) -> Value | None:
    """Return an input, or None where it is left out."""
    return inputs[place] if place < len(inputs) else None


def data(inputs: Sequence[Value | None], place: int = 0) -> Tensor:
    """Return an input that must be a tensor."""
    value = given(inputs, place)
    if not isinstance(value, Tensor):
        found = "left out" if value is None else "a constant"
        raise UnsupportedGraph(f"its input {place} is {found}, expected a tensor")
    return value


def constant(inputs: Sequence[Value | None], place: int) -> np.ndarray | None:
    """Return the array of an input that must not depend on the inputs of the graph."""
    value = given(inputs, place)
    if value is None or isinstance(value, Constant):
        return None if value is None else value.array
    raise UnsupportedGraph(f"its input {place} is computed while the network runs, expected a constant")


def required(inputs: Sequence[Value | None], place: int) -> np.ndarray:
    """Return the array of an input that must be there and constant."""
    found = constant(inputs, place)
    if found is None:
        raise UnsupportedGraph(f"its input {place} is left out")
    return found


def numbers(node: OnnxNode, inputs: Sequence[Value | None], name: str, place: int) -> list[Any] | None:
    """Return a list that is an attribute in older versions, an input in newer ones; it may hold sizes."""
    if name in node.attributes:
        return [*node.attributes[name]]
    value = given(inputs, place)
    if value is None:
        return None
    if isinstance(value, Tensor):
        raise UnsupportedGraph(f"{name} is computed from values of the image, which is not supported")
    items = value.array.reshape(-1)
    return [*items] if isinstance(value, Sizes) else items.tolist()


def integers(node: OnnxNode, inputs: Sequence[Value | None], name: str, place: int) -> list[int] | None:
    """Return a list as `numbers` does, which must not depend on the inputs of the graph."""
    if name not in node.attributes:
        constant(inputs, place)
    found = numbers(node, inputs, name, place)
    return None if found is None else [int(number) for number in found]


def axes_of(node: OnnxNode, inputs: Sequence[Value | None], rank: int, place: int = 1) -> list[int] | None:
    """Return axes, counted from the start."""
    found = integers(node, inputs, "axes", place)
    return None if found is None else [check_axis(axis, rank) for axis in found]


def axis_of(node: OnnxNode, rank: int, default: int) -> int:
    """Return the attribute ``axis``, counted from the start."""
    return check_axis(int(node.attributes.get("axis", default)), rank)


def check_axis(axis: int, rank: int) -> int:
    """Count an axis from the start."""
    if not -rank <= axis < rank:
        raise UnsupportedGraph(f"it names axis {axis} of a tensor of {rank} axes")
    return axis % rank


def stated_value(node: OnnxNode) -> np.ndarray:
    """Return the value of a node Constant, from whichever attribute holds it."""
    if len(node.attributes) != 1:
        raise UnsupportedGraph("it has no value, or several")
    ((name, value),) = node.attributes.items()
    if name == "value" and isinstance(value, np.ndarray):
        return value
    kinds = {"value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8"}
    if name not in kinds:
        raise UnsupportedGraph(f"its value is of the kind {name}, expected numbers")
    return np.asarray(value, kinds[name])
