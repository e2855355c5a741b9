"""Which array of an HSF file, checkpoint or ONNX network, goes to which variable of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.errors import WeightsMismatch
from kerasneuro.weights import Entry, Original, kernel_entry

if TYPE_CHECKING:
    import keras

    from kerasneuro.registry import ModelCard
    from kerasneuro.weights import LazyArray, WeightStore

ANCHOR = "encoders.0.basic_module.conv1.conv.weight"
"""An array of every file; what stands before it is not part of the names."""
INTERCHANGEABLE = True
"""Every HSF name takes every HSF network: the file tells its generation, widths and classes."""
CLASSIFIER = "final_conv.weight"
POOLING = "encoders.1.pooling.weight"
"""Only generation 4 halves the grid by convolutions."""
ORIGINAL_ROOT = "_model."
WORDS = ("basic_module", "final_conv", "W_g", "W_x")
"""Names of the original that hold a "_" themselves."""
LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
LAYERS = ("pooling", "upsampling", "attention", "basic")
"""Of a block, in the order of execution."""


def select(card: ModelCard, part: str, store: WeightStore) -> WeightStore:
    """Take the arrays of the network out of an ONNX file, with the weights that its exporter folded.

    Parameters
    ----------
    card : ModelCard
        Not used: every HSF name takes every HSF network.
    part : str
        Not used, either.
    store : WeightStore
        The opened file.

    Returns
    -------
    WeightStore
        The arrays under the names of a checkpoint; other files as they are.

    Raises
    ------
    WeightsMismatch
        If the graph is not that of an exported HSF network.
    """
    if store.format != "onnx":
        return store
    from kerasneuro.models.hsf.exported import arrays_of

    return arrays_of(store)


def build_other(card: ModelCard, store: WeightStore) -> keras.Model | None:
    """Build a network of another architecture from its ONNX graph, which HSF allows too.

    Parameters
    ----------
    card : ModelCard
        The model it is loaded as.
    store : WeightStore
        The opened file.

    Returns
    -------
    keras.Model or None
        Standard scores (B, X, Y, Z, 1) to the first output of the graph; None for a network of HSF.

    Raises
    ------
    UnsupportedGraph
        If the graph has an operator that cannot be converted.
    WeightsMismatch
        If it does not map one image of one channel to classes of each voxel.
    """
    if store.format != "onnx":
        return None
    from kerasneuro.models.hsf.exported import prefix_of
    from kerasneuro.weights.onnx_graph import read_graph

    graph = read_graph(store.path)
    if prefix_of(graph) is not None:
        return None
    shapes = [value.shape or () for value in (*graph.inputs, *graph.outputs[:1])]
    if [len(shape) for shape in shapes] != [5, 5] or shapes[0][1] not in (1, None):
        raise WeightsMismatch(
            f"{store.path} does not segment one image: expected an input (N, 1, X, Y, Z) and an output "
            f"(N, classes, X, Y, Z), found {', '.join(map(str, shapes))}; {card.name} takes such networks"
        )
    import keras

    from kerasneuro.onnx_models import graph_to_keras

    model = graph_to_keras(graph)
    # What follows the probabilities is no output of HSF.
    return model if len(model.outputs) == 1 else keras.Model(model.inputs, model.outputs[0], name=model.name)


def infer_config(store: WeightStore) -> dict[str, Any]:
    """Read the configuration of the network off the arrays of its file.

    Parameters
    ----------
    store : WeightStore
        The arrays of the network, under the names of a checkpoint.

    Returns
    -------
    dict
        ``generation``, ``filters`` and ``n_classes`` of `graph.build`.

    Raises
    ------
    WeightsMismatch
        If the file holds another network.
    """
    if not all(key in store and len(store[key].shape) == 5 for key in (ANCHOR, CLASSIFIER)):
        raise WeightsMismatch(
            f"{store.path} is not a network of HSF: expected the 5-D arrays {ANCHOR} and {CLASSIFIER}, found "
            f"{', '.join(store.roots[:5]) or 'nothing'}; give an ONNX file or a checkpoint of HSF"
        )
    filters: list[int] = []
    while (key := ANCHOR.replace("0", str(len(filters)), 1)) in store:
        filters.append(int(store[key].shape[0]))
    return {
        "generation": 4 if POOLING in store else 3,
        "filters": filters,
        "n_classes": int(store[CLASSIFIER].shape[0]),
    }


def table(store: Mapping[str, LazyArray], model: keras.Model) -> Mapping[str, Entry | str]:
    """Name the file's array, and its change of axes, for each variable of the graph.

    Parameters
    ----------
    store : WeightStore
        The arrays of the network; they tell the shapes. The names do not depend on it.
    model : keras.Model
        From `graph.build`.

    Returns
    -------
    mapping of str to Entry or str
        Variable path -> key of the file, for `kerasneuro.weights.assign`, in the order of execution.
    """
    entries: dict[str, Entry | str] = {}
    for variable in model.variables:
        layer, leaf = variable.path.split("/")[-2:]
        key = f"{original_name(layer)}.{LEAVES.get(leaf, leaf)}"
        if leaf == "kernel":
            entries[variable.path] = kernel_entry(store, key, rank=5)
        elif leaf in ("gamma", "beta"):
            entries[variable.path] = norm_entry(store, key)
        else:
            entries[variable.path] = key
    return entries


def original_name(layer: str) -> str:
    """Return the original's name of a layer of ours.

    Examples
    --------
    >>> original_name("decoders_0_attention_W_g_1")
    'decoders.0.attention.W_g.1'
    """
    for word in WORDS:
        layer = layer.replace(word, word.replace("_", " "))
    return layer.replace("_", ".").replace(" ", "_")


def norm_entry(store: Mapping[str, LazyArray], key: str) -> Entry:
    """Describe the factor or offset of a normalisation: (1, C, 1, 1, 1) in the file, (C,) in the graph."""
    shape = tuple(store[key].shape) if key in store else ()
    known = shape[1:2] if len(shape) == 5 and shape == (1, shape[1], 1, 1, 1) else None
    return Entry((key,), flatten, known, spread)


def flatten(array: np.ndarray) -> np.ndarray:
    """Turn (1, C, 1, 1, 1) into (C,)."""
    return array.reshape(-1)


def spread(array: np.ndarray) -> np.ndarray:
    """Turn (C,) into (1, C, 1, 1, 1)."""
    return array.reshape(1, -1, 1, 1, 1)


def original(model: keras.Model) -> Original:
    """Describe the state dict of the original network.

    Parameters
    ----------
    model : keras.Model
        From `graph.build`.

    Returns
    -------
    Original
        For `kerasneuro.weights.write_original`; the names start with ``_model.``, as in a checkpoint.
    """
    entries = {
        path: Entry((ORIGINAL_ROOT + entry,)) if isinstance(entry, str) else _below_root(entry)
        for path, entry in table({}, model).items()
    }
    return Original("torch", entries)


def _below_root(entry: Entry) -> Entry:
    return Entry((ORIGINAL_ROOT + entry.keys[0],), entry.convert, entry.shape, entry.invert)
