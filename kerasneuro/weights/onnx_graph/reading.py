"""Read nodes, inputs and outputs of an ONNX file with the safe reader of its weights.

Layout: onnx/onnx@v1.17.0, onnx/onnx.proto (GraphProto, NodeProto, AttributeProto, ValueInfoProto).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from kerasneuro.errors import UnsupportedGraph, WeightsCorrupt
from kerasneuro.weights import wire
from kerasneuro.weights.onnx_file import MOST_TEXT, GraphFile, open_graph
from kerasneuro.weights.onnx_graph.graph import DEFAULT_DOMAINS, OnnxGraph, OnnxNode, OnnxValue
from kerasneuro.weights.onnx_tensor import DTYPES, read_tensor

MOST_NODES = 200_000
MOST_AXES = 32
# Numbers of the fields of GraphProto, NodeProto and AttributeProto.
NODE, INPUT, OUTPUT = 1, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, OP_TYPE, ATTRIBUTE, DOMAIN = 1, 2, 3, 4, 5, 7
ATTRIBUTE_NAME, FLOAT, INTEGER, TEXT, TENSOR, GRAPH = 1, 2, 3, 4, 5, 6
FLOATS, INTEGERS, TEXTS, TENSORS, GRAPHS = 7, 8, 9, 10, 11
REFERENCE, SPARSE_TENSOR, SPARSE_TENSORS = 21, 22, 23
LISTS = (FLOATS, INTEGERS, TEXTS, TENSORS)
EMPTY = memoryview(b"")


def read_graph(path: str | Path) -> OnnxGraph:
    """Read the graph of an ONNX file; nothing is run, and the package onnx is not needed.

    Parameters
    ----------
    path : str or Path
        The file. Values in other files ("external data") are read if these lie in its folder, or below.

    Returns
    -------
    OnnxGraph
        Nodes in order, weights that are read on demand, inputs, outputs and the versions of the operators.

    Raises
    ------
    WeightsCorrupt
        If the file is damaged, is no ONNX model, or leads outside its folder.
    WeightsNotFound
        If it, or a file of external data, is missing.
    UnsupportedGraph
        If it holds graphs within nodes (If, Loop, Scan) or functions.
    """
    path = Path(path)
    with open_graph(path) as file:
        nodes = tuple(_read_node(part, file) for part in _listed(file, NODE))
        inputs = (_read_value(part, file) for part in _listed(file, INPUT))
        graph = OnnxGraph(
            path,
            nodes,
            file.initialisers,
            tuple(value for value in inputs if value.name not in file.initialisers),
            tuple(_read_value(part, file) for part in _listed(file, OUTPUT)),
            {"" if domain in DEFAULT_DOMAINS else domain: version for domain, version in file.opsets},
            file.producer,
        )
        _check_names(graph)
    return graph


def _listed(file: GraphFile, number: int) -> list[memoryview]:
    found = [wire.content(value) for key, value in file.fields(file.graph) if key == number]
    if len(found) > MOST_NODES:
        raise WeightsCorrupt(f"holds more than {MOST_NODES} nodes, inputs or outputs; it is not a model")
    return found


def _read_node(message: memoryview, file: GraphFile) -> OnnxNode:
    texts: dict[int, list[str]] = {key: [] for key in (NODE_INPUT, NODE_OUTPUT, NODE_NAME, OP_TYPE, DOMAIN)}
    parts = []
    for key, value in file.fields(message):
        if key in texts:
            texts[key].append(wire.text(value))
        elif key == ATTRIBUTE:
            parts.append(wire.content(value))
    op_type, name, domain = (("".join(texts[key][-1:]))[:MOST_TEXT] for key in (OP_TYPE, NODE_NAME, DOMAIN))
    where = f"{op_type[:100]} (node {name[:200]!r})"
    attributes = dict(_read_attribute(part, file, where) for part in parts)
    domain = "" if domain in DEFAULT_DOMAINS else domain
    return OnnxNode(op_type, name, domain, tuple(texts[NODE_INPUT]), tuple(texts[NODE_OUTPUT]), attributes)


def _read_attribute(message: memoryview, file: GraphFile, where: str) -> tuple[str, Any]:
    name, found, lists = "", [], {key: [] for key in LISTS}  # type: tuple[str, list[Any], dict[int, list[Any]]]
    for key, value in file.fields(message):
        if key == ATTRIBUTE_NAME:
            name = wire.text(value)
        elif key in (GRAPH, GRAPHS):
            raise UnsupportedGraph(f"{where} holds a graph of its own, which is not supported")
        elif key in (REFERENCE, SPARSE_TENSOR, SPARSE_TENSORS):
            raise UnsupportedGraph(
                f"{where} has an attribute of a function, or sparse, which is not supported"
            )
        elif key in LISTS:
            lists[key] += _items(key, value, file)
        elif key in (FLOAT, INTEGER, TEXT, TENSOR):
            found += _items(
                {FLOAT: FLOATS, INTEGER: INTEGERS, TEXT: TEXTS, TENSOR: TENSORS}[key], value, file
            )
    filled = [values for values in lists.values() if values]
    if len(filled) + len(found) > 1:
        raise WeightsCorrupt(f"is damaged: the attribute {name[:200]!r} of {where} has several values")
    if found:
        return name, found[0]
    return name, filled[0] if filled else []


def _items(kind: int, value: int | memoryview, file: GraphFile) -> list[Any]:
    """Read one value of an attribute, or those of a packed list."""
    if kind == TENSORS:
        return [read_tensor(wire.content(value), file.path, file.place, file.fields).read()]
    if kind == TEXTS:
        return [wire.text(value)]
    if kind == FLOATS:
        data = bytes(wire.content(value))
        if len(data) % 4:
            raise WeightsCorrupt("is damaged: a list of numbers ends within a number")
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    if isinstance(value, int):
        return [_signed(value)]
    found, position = [], 0
    while position < len(value):
        number, position = wire.read_varint(value, position)
        found.append(_signed(number))
    return found


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _read_value(message: memoryview, file: GraphFile) -> OnnxValue:
    """Read a ValueInfoProto: name, and the type of a tensor where it is declared."""
    parts = dict(file.fields(message))
    name = wire.text(parts.get(1, EMPTY))
    kind = dict(file.fields(wire.content(parts.get(2, EMPTY))))
    if kind and 1 not in kind:
        raise UnsupportedGraph(f"the input or output {name[:200]!r} is no tensor, which is not supported")
    tensor = dict(file.fields(wire.content(kind.get(1, EMPTY))))
    number = wire.number(tensor.get(1, 0))
    dtype = DTYPES.get(number, str(number)) if number else ""
    if 2 not in tensor:
        return OnnxValue(name, dtype, None)
    axes = [wire.content(value) for key, value in file.fields(wire.content(tensor[2])) if key == 1]
    if len(axes) > MOST_AXES:
        raise WeightsCorrupt(
            f"declares {len(axes)} axes for {name[:200]!r}, at most {MOST_AXES} are possible"
        )
    return OnnxValue(name, dtype, tuple(_read_axis(axis, file) for axis in axes))


def _read_axis(message: memoryview, file: GraphFile) -> int | str | None:
    parts = dict(file.fields(message))
    if 1 in parts:
        size = _signed(wire.number(parts[1]))
        return size if size >= 0 else None
    return wire.text(parts[2])[:MOST_TEXT] if 2 in parts else None


def _check_names(graph: OnnxGraph) -> None:
    """Make sure that every value is computed once, and before it is used."""
    known = {*graph.initialisers, *(value.name for value in graph.inputs), ""}
    for node in graph.nodes:
        missing = [name for name in node.inputs if name not in known]
        if missing:
            raise WeightsCorrupt(
                f"is damaged: {node.op_type} (node {node.name[:200]!r}) needs {missing[0][:200]!r}, "
                "which nothing before it computes"
            )
        twice = [name for name in node.outputs if name and name in known]
        if twice:
            raise WeightsCorrupt(f"is damaged: two nodes compute {twice[0][:200]!r}")
        known.update(node.outputs)
    missing = [value.name for value in graph.outputs if value.name not in known or not value.name]
    if missing or not graph.outputs:
        raise WeightsCorrupt(f"is damaged: nothing computes its output {''.join(missing[:1])[:200]!r}")
