"""Which array of an FCD checkpoint goes to which variable of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.errors import WeightsMismatch
from kerasneuro.weights import Entry, Original, kernel_entry

if TYPE_CHECKING:
    import keras

    from kerasneuro.weights import LazyArray, WeightStore

ANCHOR = "stem.0.weight"
"""An array of every file; what stands before it (``model.``, ``module.``) is not part of the names."""
ROOT = "model"
"""Where the training program puts the network, beside other things."""
HEAD = "conv_head.0.weight"
CLASSIFIER = "classifier.3.weight"
IGNORED = ("*.num_batches_tracked",)
"""Counters of the training program."""
LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "squeeze_kernel": "se.1.weight",
    "squeeze_bias": "se.1.bias",
    "excite_kernel": "se.3.weight",
    "excite_bias": "se.3.bias",
}
PUBLISHED_HEAD = 576
MOST_DECIMALS = 6


def flatten_pointwise(array: np.ndarray) -> np.ndarray:
    """Turn a kernel (out, in, 1, 1, 1) into a matrix (in, out)."""
    return array.reshape(array.shape[:2]).T


def restore_pointwise(array: np.ndarray) -> np.ndarray:
    """Undo `flatten_pointwise`."""
    return array.T[..., np.newaxis, np.newaxis, np.newaxis]


def original_name(layer: str) -> str:
    """Name a layer as the original does: ``blocks_3_conv_0_1`` -> ``blocks.3.conv.0.1``."""
    return layer.replace("_", ".").replace("conv.head", "conv_head")


def infer_config(store: WeightStore) -> dict[str, Any]:
    """Read the configuration of the network off the shapes in its file.

    Parameters
    ----------
    store : WeightStore
        The arrays of the network, without what a checkpoint puts before their names.

    Returns
    -------
    dict
        ``in_channels``, ``classes`` and ``width`` of `graph.build`.

    Raises
    ------
    WeightsMismatch
        If the file holds another network.
    """
    ranks = {ANCHOR: 5, HEAD: 5, CLASSIFIER: 2}
    if not all(key in store and len(store[key].shape) == rank for key, rank in ranks.items()):
        raise WeightsMismatch(
            f"{store.path} is not a checkpoint of the FCD classifier: expected the arrays "
            f"{', '.join(ranks)}, found {', '.join(store.roots[:5]) or 'nothing'}; give another file"
        )
    return {
        "in_channels": int(store[ANCHOR].shape[1]),
        "classes": int(store[CLASSIFIER].shape[0]),
        "width": shortest_factor(int(store[HEAD].shape[0]), PUBLISHED_HEAD),
    }


def shortest_factor(channels: int, published: int) -> float:
    """Return the factor with the fewest decimals that gives this number of channels."""
    exact = channels / published
    candidates = (round(exact, decimals) for decimals in range(MOST_DECIMALS))
    return next((factor for factor in candidates if round(published * factor) == channels), exact)


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
        Variable path -> key of the file, for `kerasneuro.weights.assign`.
    """
    entries: dict[str, Entry | str] = {}
    for variable in model.weights:
        layer, leaf = variable.path.split("/")[-2:]
        key = f"{original_name(layer)}.{LEAVES.get(leaf, leaf)}"
        shape = tuple(store[key].shape) if key in store else ()
        if leaf == "kernel" and len(variable.shape) == 5:
            entries[variable.path] = kernel_entry(store, key, rank=5)
        elif leaf == "kernel":
            entries[variable.path] = Entry((key,), np.transpose, shape[::-1] or None, np.transpose)
        elif leaf.endswith("_kernel"):
            known = shape[1::-1] if shape[2:] == (1, 1, 1) else None
            entries[variable.path] = Entry((key,), flatten_pointwise, known, restore_pointwise)
        else:
            entries[variable.path] = key
    return entries


def original(model: keras.Model) -> Original:
    """Describe the bare state dict of the original network.

    Parameters
    ----------
    model : keras.Model
        From `graph.build`.

    Returns
    -------
    Original
        For `kerasneuro.weights.write_original`.
    """
    return Original("torch", table({}, model))
