"""Read the initialisers of an ONNX file without the package onnx; its graph is never run.

The file is one protocol-buffer message, ModelProto of onnx/onnx@v1.17.0, onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerasneuro.errors import UnsupportedGraph, WeightsCorrupt, WeightsNotFound
from kerasneuro.weights import wire
from kerasneuro.weights.onnx_tensor import Fields, Place, read_tensor
from kerasneuro.weights.store import LazyArray, WeightStore

FORMAT = "onnx"
MOST_FIELDS = 5_000_000
MOST_TEXT = 4096
HEAD_BYTES = 16
# The first field is the version of the format; the first published one was 3.
VERSION_FIELD = 0x08
OLDEST_VERSION, LATEST_VERSION = 3, 127
# Numbers of the fields of ModelProto and GraphProto.
IR_VERSION, PRODUCER, PRODUCER_VERSION, GRAPH, OPSET, FUNCTION = 1, 2, 3, 7, 8, 25
INITIALIZER, SPARSE_INITIALIZER = 5, 15
EMPTY = memoryview(b"")


def is_onnx(head: bytes) -> bool:
    """Say whether a file can be an ONNX model, from its first bytes."""
    return len(head) > 2 and head[0] == VERSION_FIELD and OLDEST_VERSION <= head[1] <= LATEST_VERSION


def open_onnx(path: Path) -> WeightStore:
    """List the initialisers of an ONNX file.

    Parameters
    ----------
    path : Path
        The file. Values in other files ("external data") are read if these lie in its folder, or below.

    Returns
    -------
    WeightStore
        Name of the initialiser -> array, in the order of the file. Constants that are nodes of the graph, and
        the initialisers of graphs inside nodes, are left out. ``attributes`` holds ``producer``,
        ``ir_version`` and ``opset`` ("ai.onnx 17").

    Raises
    ------
    WeightsCorrupt
        If the file is damaged, or leads outside its folder.
    WeightsNotFound
        If a file of external data is missing.
    """
    with _located(path):
        file = _read_model(np.memmap(path, np.uint8, "r"), path)
    attributes = {
        "producer": file.producer,
        "ir_version": str(file.ir_version),
        "opset": ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in file.opsets),
    }
    return WeightStore(path, FORMAT, file.initialisers, attributes=attributes)


class _Walk:
    """Count of the fields seen, since a file can hold millions that mean nothing."""

    def __init__(self) -> None:
        self.seen = 0

    def fields(self, message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        for pair in wire.fields(message):
            self.seen += 1
            if self.seen > MOST_FIELDS:
                raise WeightsCorrupt(f"holds more than {MOST_FIELDS} fields; it is not a model")
            yield pair


@dataclass(frozen=True)
class GraphFile:
    """The parts of an ONNX file that was checked: its graph as bytes, and how to read tensors from it."""

    path: Path
    graph: memoryview
    initialisers: dict[str, LazyArray]
    opsets: list[tuple[str, int]]
    producer: str
    ir_version: int
    fields: Fields
    place: Place


@contextmanager
def open_graph(path: Path) -> Iterator[GraphFile]:
    """Open an ONNX file to read its graph; what is wrong with it becomes one error with its path.

    Raises
    ------
    WeightsCorrupt
        If the file is damaged, is no ONNX model, or leads outside its folder.
    UnsupportedGraph
        If it holds functions.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError as error:
        raise WeightsNotFound(f"there is no ONNX file at {path}: check the path") from error
    except OSError as error:
        raise WeightsNotFound(f"{path} can not be opened: {error}") from error
    if not is_onnx(head):
        raise WeightsCorrupt(f"{path} is not an ONNX model; fetch it again")
    with _located(path):
        yield _read_model(np.memmap(path, np.uint8, "r"), path, whole=True)


@contextmanager
def _located(path: Path) -> Iterator[None]:
    """Put the path before what is wrong with a file."""
    try:
        yield
    except (WeightsCorrupt, UnsupportedGraph) as error:
        raise type(error)(f"{path} {error}") from error
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise WeightsCorrupt(f"{path} can not be read: {error}; fetch it again") from error


def _read_model(content: np.ndarray, path: Path, *, whole: bool = False) -> GraphFile:
    walk, numbers = _Walk(), {IR_VERSION: 0}
    texts, opsets, graphs = {PRODUCER: "", PRODUCER_VERSION: ""}, [], []
    for key, value in walk.fields(content.data):
        if key in numbers:
            numbers[key] = wire.number(value)
        elif key in texts:
            texts[key] = wire.text(value)[:MOST_TEXT]
        elif key == OPSET:
            opsets.append(_opset(wire.content(value)))
        elif key == GRAPH:
            graphs.append(wire.content(value))
        elif key == FUNCTION and whole:
            raise UnsupportedGraph("holds functions, which are not supported: inline them (onnx.inliner)")
    if len(graphs) != 1 or not opsets:
        raise WeightsCorrupt("is not an ONNX model: it has no graph, or several")
    first = content.ctypes.data

    def place(part: memoryview) -> tuple[int, int]:
        return np.frombuffer(part, np.uint8).ctypes.data - first, len(part)

    arrays = _initialisers(graphs[0], path, walk, place)
    producer = " ".join(filter(None, texts.values()))
    return GraphFile(path, graphs[0], arrays, opsets, producer, numbers[IR_VERSION], walk.fields, place)


def _opset(message: memoryview) -> tuple[str, int]:
    values = dict(wire.fields(message))
    return wire.text(values.get(1, EMPTY))[:MOST_TEXT], wire.number(values.get(2, 0))


def _initialisers(graph: memoryview, path: Path, walk: _Walk, place: Place) -> dict[str, LazyArray]:
    arrays: dict[str, LazyArray] = {}
    for key, value in walk.fields(graph):
        if key == SPARSE_INITIALIZER:
            raise WeightsCorrupt("holds sparse initialisers, which are not supported: save them densely")
        if key != INITIALIZER:
            continue
        array = read_tensor(wire.content(value), path, place, walk.fields)
        if not array.name or array.name in arrays:
            raise WeightsCorrupt(
                f"is damaged: the name {array.name[:200]!r} of an initialiser is empty or given twice"
            )
        arrays[array.name] = array
    return arrays
