"""Read the numbers that are written into the graph of a TensorFlow SavedModel; the graph is never run."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.weights import wire
from kerasneuro.weights.savedmodel import read_bounded

GRAPH = "saved_model.pb"
MOST_GRAPH_BYTES = 64 << 20
EMPTY = memoryview(b"")


def scalar_constants(folder: Path) -> dict[str, float]:
    """Read the single float32 numbers that are written into the graph of a SavedModel.

    Parameters
    ----------
    folder : Path
        The SavedModel; without a readable ``saved_model.pb`` there are no constants.

    Returns
    -------
    dict of str to float
        Name of the node (``layer_1/bernoulli/scalar``) -> value.

    Raises
    ------
    WeightsCorrupt
        If the file is damaged.
    """
    path = folder / GRAPH
    if not path.is_file():
        return {}
    try:
        # SavedModel.meta_graphs, MetaGraphDef.graph_def, GraphDef.node
        graphs = _messages(_messages([memoryview(read_bounded(path, MOST_GRAPH_BYTES))], 2), 2)
        return dict(found for node in _messages(graphs, 1) for found in _constant(node))
    except WeightsCorrupt as error:
        raise WeightsCorrupt(f"{path} {error}; fetch it again") from error


def _messages(messages: Iterable[memoryview], field: int) -> Iterator[memoryview]:
    """Return the messages in one field of some messages."""
    for message in messages:
        yield from (wire.content(value) for key, value in wire.fields(message) if key == field)


def _constant(node: memoryview) -> Iterator[tuple[str, float]]:
    parts = [(key, value) for key, value in wire.fields(node) if key in (1, 2, 5)]
    kind = next((wire.text(value) for key, value in parts if key == 2), "")
    if kind != "Const":
        return
    name = next((wire.text(value) for key, value in parts if key == 1), "")
    for attribute in (wire.content(value) for key, value in parts if key == 5):
        pair = dict(wire.fields(attribute))
        if bytes(wire.content(pair.get(1, EMPTY))) != b"value":
            continue
        for tensor in _messages([wire.content(pair.get(2, EMPTY))], 8):
            yield from ((name, value) for value in _float_scalar(tensor))


def _float_scalar(tensor: memoryview) -> Iterator[float]:
    values = dict(wire.fields(tensor))
    if values.get(1) != 1 or bytes(wire.content(values.get(2, EMPTY))):
        return
    for field in (4, 5):  # the raw bytes, or the list of floats with one element
        data = bytes(wire.content(values.get(field, EMPTY)))
        if len(data) == 4:
            yield struct.unpack("<f", data)[0]
