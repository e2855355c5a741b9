"""Find the nodes of a graph that together compute a known expression.

A pattern is a tuple ``(operator, operand, ...)``, in which an operand is a pattern again, a list of
alternatives, ``"?name"`` (any value; the same name is the same value), ``"#name"`` (a constant of one
element) or a number (a constant of this value). Sums and products match in either order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from kerasneuro.weights import LazyArray
from kerasneuro.weights.onnx_graph import OnnxGraph, OnnxNode

CLOSE = 1e-6
COMMUTATIVE = ("Add", "Mul")
# Averages that keep their axis, of a tensor (N, C, voxels).
MEANS = {"MeanOfVoxels": (-1, 2), "MeanOfChannels": (1, -2)}
Found = dict[str, Any]


class Matcher:
    """The nodes and constants of a graph.

    Parameters
    ----------
    graph : OnnxGraph
    """

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph, self.producers = graph, graph.producers()

    def constant(self, name: str) -> np.ndarray | LazyArray | None:
        """Return a constant, or None if the value is computed."""
        node = self.producers.get(name)
        if node is None:
            return self.graph.initialisers.get(name)
        value = node.attributes.get("value") if node.op_type == "Constant" else None
        return value if isinstance(value, np.ndarray) else None

    def array(self, name: str) -> np.ndarray | None:
        """Return the values of a constant."""
        found = self.constant(name)
        return found.read() if isinstance(found, LazyArray) else found

    def number(self, name: str) -> float | None:
        """Return a constant of one element."""
        found = self.constant(name)
        if found is None or found.size != 1:
            return None
        return float(np.asarray(self.array(name)).reshape(-1)[0])

    def find(self, pattern: Any, name: str) -> Found | None:
        """Match a pattern with the value of a name; return what its names stand for."""
        return next(self._match(pattern, name, {}), None)

    def _match(self, pattern: Any, name: str, found: Found) -> Iterator[Found]:
        if isinstance(pattern, list):
            for one in pattern:
                yield from self._match(one, name, found)
        elif isinstance(pattern, float):
            value = self.number(name)
            if value is not None and math.isclose(value, pattern, rel_tol=CLOSE):
                yield found
        elif isinstance(pattern, str):
            yield from self._bind(pattern, self.number(name) if pattern[0] == "#" else name, found)
        else:
            yield from self._node(pattern, self.producers.get(name), found)

    def _bind(self, key: str, value: Any, found: Found) -> Iterator[Found]:
        if value is not None and found.get(key, value) == value:
            yield {**found, key: value}

    def _node(self, pattern: tuple[Any, ...], node: OnnxNode | None, found: Found) -> Iterator[Found]:
        op_type, *operands = pattern
        if node is None or node.domain:
            return
        if op_type in MEANS:
            if self._averages(node, MEANS[op_type]):
                yield from self._match(operands[0], node.inputs[0], found)
            return
        if node.op_type != op_type or len(node.inputs) < len(operands):
            return
        orders = [node.inputs[: len(operands)]]
        if op_type in COMMUTATIVE and len(operands) == 2:
            orders.append(orders[0][::-1])
        for names in orders:
            yield from self._all(operands, names, found)

    def _all(self, operands: list[Any], names: tuple[str, ...], found: Found) -> Iterator[Found]:
        if not operands:
            yield found
            return
        for first in self._match(operands[0], names[0], found):
            yield from self._all(operands[1:], names[1:], first)

    def _averages(self, node: OnnxNode, axes: tuple[int, ...]) -> bool:
        if node.op_type != "ReduceMean":
            return False
        stated = node.attributes.get("axes")
        if stated is None and len(node.inputs) > 1:
            stated = self.array(node.inputs[1])
        return stated is not None and [int(axis) for axis in stated] in [[axis] for axis in axes]
