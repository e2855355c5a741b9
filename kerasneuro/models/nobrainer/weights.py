"""Which array of a nobrainer U-Net file goes to which variable of our graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kerasneuro.errors import WeightsMismatch
from kerasneuro.weights import Original

if TYPE_CHECKING:
    import keras

    from kerasneuro.weights import WeightStore

# Layers with weights, by kind: their name in a fresh Keras 2 session, and how many the U-Net has.
LAYERS = {"conv3d": 15, "conv3d_transpose": 3, "batch_normalization": 14}
WEIGHTS = {
    "conv3d": {"kernel", "bias"},
    "conv3d_transpose": {"kernel", "bias"},
    "batch_normalization": {"gamma", "beta", "moving_mean", "moving_variance"},
}


def infer_config(store: WeightStore) -> dict[str, Any]:
    """Read the configuration of the network off the shapes in its file.

    Parameters
    ----------
    store : WeightStore
        The opened file.

    Returns
    -------
    dict
        ``n_classes``, ``batchnorm``, ``filters`` and ``input_shape`` of `graph.build`.

    Raises
    ------
    WeightsMismatch
        If the file holds another network.
    """
    layers = file_layers(store)
    first = store[f"{layers['conv3d'][0]}/kernel"].shape
    last = store[f"{layers['conv3d'][-1]}/kernel"].shape
    if tuple(first[:3]) != (3, 3, 3) or tuple(last[:3]) != (1, 1, 1):
        raise WeightsMismatch(
            f"{store.path} is not a nobrainer U-Net: expected a first kernel of 3 x 3 x 3 and a last one of "
            f"1 x 1 x 1, found shapes {tuple(first)} and {tuple(last)}; give the file of this model"
        )
    return {
        "n_classes": int(last[4]),
        "batchnorm": bool(layers["batch_normalization"]),
        "filters": int(first[4]),
        "input_shape": (None, None, None, int(first[3])),
    }


def table(store: WeightStore, model: keras.Model) -> dict[str, str]:
    """Pair the variables of the graph with the arrays of the file.

    Layers are paired by name where the file uses the names of a fresh session; otherwise the n-th layer of a
    kind in the file belongs to the n-th of the graph (the counters in the names go on where an earlier model
    of the same session stopped). The arrays need no change.

    Parameters
    ----------
    store : WeightStore
        The opened file.
    model : keras.Model
        A graph made by `graph.build`.

    Returns
    -------
    dict of str to str
        Path of the variable -> key of the file.
    """
    source = {
        ours: theirs
        for kind, names in file_layers(store).items()
        for ours, theirs in zip(fresh_names(kind, len(names)), names, strict=True)
    }
    return {
        variable.path: f"{source.get(layer.name, layer.name)}/{variable.name}"
        for layer in model.layers
        for variable in layer.variables
    }


def original(model: keras.Model) -> Original:
    """Describe the Keras 2 file of the original network, with the layer names of a fresh session.

    Parameters
    ----------
    model : keras.Model
        A graph made by `graph.build`.

    Returns
    -------
    Original
        For `kerasneuro.weights.write_original`.
    """
    layers = tuple(layer.name for layer in model.layers)
    names = {
        variable.path: f"{layer.name}/{variable.name}"
        for layer in model.layers
        for variable in layer.variables
    }
    return Original("keras-h5", names, layers)


def file_layers(store: WeightStore) -> dict[str, list[str]]:
    """List the layers of the file by kind, in the order of the network.

    A layer's kind is read off its arrays, since its name may carry any counter or scope.
    """
    arrays: dict[str, set[str]] = {}
    for key in store:
        layer, _, weight = key.rpartition("/")
        arrays.setdefault(layer, set()).add(weight)
    found: dict[str, list[str]] = {kind: [] for kind in LAYERS}
    for layer, weights in arrays.items():
        found.setdefault(layer_kind(store, layer, weights), []).append(layer)
    counts = {kind: len(layers) for kind, layers in found.items()}
    allowed = [LAYERS, {**LAYERS, "batch_normalization": 0}]
    if counts not in allowed:
        raise WeightsMismatch(
            f"{store.path} is not a nobrainer U-Net: expected 15 convolutions, 3 transposed convolutions and "
            f"0 or 14 batch normalisations, found {describe(counts)}; give the file of this model"
        )
    return {kind: in_order(kind, layers) for kind, layers in found.items()}


def layer_kind(store: WeightStore, layer: str, weights: set[str]) -> str:
    """Tell the kind of a layer by the names and shapes of its arrays."""
    if weights == WEIGHTS["batch_normalization"]:
        return "batch_normalization"
    if weights == WEIGHTS["conv3d"]:
        kernel = store[f"{layer}/kernel"].shape
        if len(kernel) == 5:
            return "conv3d_transpose" if tuple(kernel[:3]) == (2, 2, 2) else "conv3d"
    return "other"


def fresh_names(kind: str, count: int) -> list[str]:
    """Name the layers of a kind as a fresh session of Keras 2 does."""
    return [kind, *(f"{kind}_{index}" for index in range(1, count))][:count]


def in_order(kind: str, layers: list[str]) -> list[str]:
    """Sort by name where the names are those of a fresh session; otherwise keep the order of the file."""
    expected = fresh_names(kind, len(layers))
    return expected if set(expected) == set(layers) else layers


def describe(counts: Mapping[str, int]) -> str:
    """Write the layer counts of a file for a message."""
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no layers"
