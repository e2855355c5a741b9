"""The weights of an HSF network in an ONNX file, where the exporter of PyTorch folded some of them.

The exporter replaces the two pairs of weights of each normalisation by their softmax: four scalars with names
of no meaning. They are found by where their products go, never by value or name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kerasneuro.errors import WeightsMismatch
from kerasneuro.weights import LazyArray, WeightStore
from kerasneuro.weights.onnx_graph import OnnxGraph, OnnxNode, read_graph

ANCHOR = "encoders.0.basic_module.conv1.conv.weight"
KINDS = {
    "Conv": "convolution",
    "ConvTranspose": "transposed",
    "Erf": "gelu",
    "Gelu": "gelu",
    "Relu": "relu",
    "MaxPool": "maximum",
    "Sqrt": "norm",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
}
"""Operations that tell the architecture; all others belong to these."""
PASSING = ("Reshape", "Identity", "Cast")
SMALLEST = np.finfo(np.float32).tiny


def prefix_of(graph: OnnxGraph) -> str | None:
    """Return what stands before the names of the network (``_model.``); None if it is no network of HSF.

    Parameters
    ----------
    graph : OnnxGraph
        From `kerasneuro.weights.onnx_graph.read_graph`.

    Returns
    -------
    str or None
        The names alone do not decide: the operations must be those of the architecture, in their order.
    """
    found = [name.removesuffix(ANCHOR) for name in graph.initialisers if name.endswith(ANCHOR)]
    if len(found) != 1:
        return None
    levels = 1
    while f"{found[0]}{ANCHOR}".replace("encoders.0", f"encoders.{levels}") in graph.initialisers:
        levels += 1
    operations = [KINDS[node.op_type] for node in graph.nodes if node.op_type in KINDS]
    kept = [kind for kind in operations if kind != "softmax"]  # unfolded weights have some of their own
    known = [list(operations_of(generation, levels)) for generation in (3, 4)]
    return found[0] if kept in known and operations[-1] == "softmax" else None


def operations_of(generation: int, levels: int) -> Iterator[str]:
    """List the operations of a network in the order of execution, but for the softmax at its end."""
    activation = {3: "relu", 4: "gelu"}[generation]
    block = [*["convolution", activation, "norm"] * 2, "convolution", "norm", activation]
    for level in range(levels):
        if level:
            yield {3: "maximum", 4: "convolution"}[generation]
        yield from block
    for _ in range(levels - 1):
        yield from ("transposed", *["convolution", "norm"] * 2, activation)
        yield from ("convolution", "norm", "sigmoid")
        yield from block
    yield "convolution"


def arrays_of(store: WeightStore) -> WeightStore:
    """Return the arrays of an HSF network under the names of a checkpoint.

    Parameters
    ----------
    store : WeightStore
        An open ONNX file.

    Returns
    -------
    WeightStore
        With ``mean_weight`` and ``var_weight`` of each normalisation; where the file has their softmax, the
        logarithm of that, which is another pair of the same softmax.

    Raises
    ------
    WeightsMismatch
        If the graph is not that of an HSF network.
    """
    graph = read_graph(store.path)
    prefix = prefix_of(graph)
    if prefix is None:
        raise WeightsMismatch(
            f"{store.path} is not a network of HSF: expected the weights {ANCHOR}... and the operations of "
            f"its third or fourth generation, found {len(graph.nodes)} nodes of another graph; load it with "
            "kerasneuro.convert"
        )
    shared = {
        node.outputs[0]: store[node.inputs[0]]
        for node in graph.nodes
        if node.op_type == "Identity" and node.inputs[0] in store
    }
    # The exporter writes equal weights once; the other names are made by Identity nodes.
    known = {**store, **shared}
    arrays = {name[len(prefix) :]: array for name, array in known.items() if name.startswith(prefix)}
    flow = _Flow(graph, known)
    for key in [key for key in arrays if key.endswith(".weight") and is_norm(arrays, key)]:
        scope = key.removesuffix(".weight")
        if f"{scope}.mean_weight" not in arrays:
            pairs = flow.pairs(prefix + key)
            for leaf, pair in zip(("mean_weight", "var_weight"), pairs, strict=True):
                arrays[f"{scope}.{leaf}"] = unfold(f"{scope}.{leaf}", pair)
    return WeightStore(store.path, store.format, arrays, attributes=store.attributes, close=store.close)


def is_norm(arrays: Mapping[str, LazyArray], key: str) -> bool:
    """Tell the factor of a normalisation, (1, C, 1, 1, 1), from a kernel by its offset of the same shape."""
    offset = arrays.get(f"{key.removesuffix('.weight')}.bias")
    return offset is not None and offset.shape == arrays[key].shape and len(offset.shape) == 5


def unfold(name: str, pair: tuple[float, float]) -> LazyArray:
    """Return weights whose softmax is a pair of numbers."""
    values = np.log(np.maximum(np.asarray(pair, np.float32), SMALLEST))
    return LazyArray(name, values.shape, values.dtype, lambda selection: values[selection].copy())


class _Flow:
    """Where the values of a graph come from and go to."""

    def __init__(self, graph: OnnxGraph, arrays: Mapping[str, LazyArray]) -> None:
        self.path, self.arrays = graph.path, arrays
        self.producers, self.consumers = graph.producers(), graph.consumers()

    def pairs(self, factor: str) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the softmax of ``mean_weight`` and of ``var_weight``, given the name of the factor.

        The block computes ``(x - a0 m - a1 M) / sqrt(b0 v + b1 V + epsilon) * factor``.
        """
        scaled = next((node for node in self.consumers.get(factor, ()) if node.op_type == "Mul"), None)
        if scaled is None:
            raise self._other(factor)
        quotient = self._node(next(name for name in scaled.inputs if name != factor), "Div", factor)
        centred = self._node(quotient.inputs[0], "Sub", factor)
        deviation = self._node(quotient.inputs[1], "Sqrt", factor)
        guarded = self._node(deviation.inputs[0], "Add", factor)
        variance = next(name for name in guarded.inputs if self._scalar(name) is None)
        return self._shares(centred.inputs[1], factor), self._shares(variance, factor)

    def _shares(self, total: str, factor: str) -> tuple[float, float]:
        """Return the two numbers of ``a0 m + a1 M``; M, that of all channels, is computed from m."""
        terms = []
        for name in self._node(total, "Add", factor).inputs:
            first, second = self._node(name, "Mul", factor).inputs
            share, statistic = self._scalar(first), second
            if share is None:
                share, statistic = self._scalar(second), first
            if share is None:
                raise self._other(factor)
            terms.append((share, statistic))
        if self._depends(terms[0][1], terms[1][1]):
            terms.reverse()
        return terms[0][0], terms[1][0]

    def _node(self, name: str, op_type: str, factor: str) -> OnnxNode:
        """Return the operation that computes a value, which must be of this kind."""
        node = self.producers.get(name)
        while node is not None and node.op_type in PASSING:
            node = self.producers.get(node.inputs[0])
        if node is None or node.op_type != op_type:
            raise self._other(factor)
        return node

    def _scalar(self, name: str) -> float | None:
        """Return a constant of one number."""
        node = self.producers.get(name)
        while node is not None and node.op_type == "Identity":
            name = node.inputs[0]
            node = self.producers.get(name)
        if node is not None:
            values: Any = next(iter(node.attributes.values())) if node.op_type == "Constant" else ()
            return float(np.reshape(values, ())) if np.size(values) == 1 else None
        array = self.arrays.get(name)
        return float(array.read().reshape(())) if array is not None and array.size == 1 else None

    def _depends(self, name: str, on: str) -> bool:
        """Tell whether a value is computed from another one within its block."""
        waiting, seen = [name], {name}
        while waiting:
            node = self.producers.get(waiting.pop())
            if node is None or node.op_type == "Conv":
                continue
            if on in node.inputs:
                return True
            new = [key for key in node.inputs if key not in seen]
            seen.update(new)
            waiting += new
        return False

    def _other(self, factor: str) -> WeightsMismatch:
        return WeightsMismatch(
            f"{self.path} is not a network of HSF as PyTorch exports it: the statistics that {factor} "
            "scales are not a weighted mixture; export it again without further optimisation"
        )
