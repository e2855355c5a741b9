"""Which variable of a kwyk SavedModel goes to which variable of our graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kerasneuro.errors import WeightsMismatch
from kerasneuro.weights.graph_constants import scalar_constants

if TYPE_CHECKING:
    import keras

    from kerasneuro.weights import WeightStore

# Counts the steps of the training; every other variable of the file has its place in the graph. The
# deviations (kernel_a, bias_a) of bwn and bwn_multi, which their graphs do not use, are kept as variables
# that do not train.
IGNORED = ("global_step",)
OUR_SCOPE = re.compile(r"^(layer_\d+|logits)_(conv3d|concrete_dropout)")
HIDDEN_LAYER = re.compile(r"layer_(\d+)/conv3d/v")
# The factor of the Bernoulli dropout in the graph: without a scope in the published file (TensorFlow 1.12).
KEEP_CONSTANT = re.compile(r"(layer_\d+/bernoulli/)?cond(_\d+)?/(scalar|dropout/keep_prob)")


def infer_config(store: WeightStore) -> dict[str, Any]:
    """Read the configuration of the network off the shapes in its file.

    Parameters
    ----------
    store : WeightStore
        The opened SavedModel.

    Returns
    -------
    dict
        ``variant``, ``n_classes``, ``filters``, ``input_shape`` of `graph.build`; ``keep_probability`` where
        the graph of the file tells it. The variables of ``bwn`` and ``bwn_multi`` are the same; they are told
        apart by the dropout in the graph, and without a graph ``variant`` is left to the card.

    Raises
    ------
    WeightsMismatch
        If the file holds another network.
    """
    numbers = sorted(int(found[1]) for key in store if (found := HIDDEN_LAYER.fullmatch(key)))
    if not numbers or numbers != list(range(1, len(numbers) + 1)) or "logits/conv3d/v" not in store:
        raise WeightsMismatch(
            f"{store.path} is not a kwyk network: expected variables layer_1/conv3d/v, ... and "
            f"logits/conv3d/v, found {', '.join(list(store)[:4]) or 'none'}; give the folder of this model"
        )
    first, last = store["layer_1/conv3d/v"].shape, store["logits/conv3d/v"].shape
    if len(first) != 5 or len(last) != 5:
        raise WeightsMismatch(f"{store.path} is not a kwyk network: its kernels are not three-dimensional")
    config: dict[str, Any] = {
        "n_classes": int(last[4]),
        "filters": int(first[4]),
        "input_shape": (None, None, None, int(first[3])),
    }
    if "layer_1/concrete_dropout/p" in store:
        return {**config, "variant": "bvwn_multi_prior"}
    constants = scalar_constants(store.path)
    if not constants:
        return config
    keep = keep_probability(constants)
    if keep is None:
        return {**config, "variant": "bwn"}
    return {**config, "variant": "bwn_multi", "keep_probability": keep}


def keep_probability(constants: Mapping[str, float]) -> float | None:
    """Find the keep probability among the constants of a graph; None if the graph has no Bernoulli dropout.

    Raises
    ------
    WeightsMismatch
        If the layers differ, or the number is no probability.
    """
    found = {value for name, value in constants.items() if KEEP_CONSTANT.fullmatch(name)}
    if not found:
        return None
    keep = round(max(found), 6)  # the nearest short decimal of a float32
    if len(found) > 1 or not 0 < keep <= 1:
        raise WeightsMismatch(
            f"the graph of the file keeps {sorted(found)} of the elements; expected one number, "
            "above 0 and at most 1"
        )
    return keep


def table(store: WeightStore, model: keras.Model) -> dict[str, str]:
    """Pair the variables of the graph with those of the file; names differ in one separator, arrays do not.

    Parameters
    ----------
    store : WeightStore
        The opened SavedModel.
    model : keras.Model
        A graph made by `graph.build`.

    Returns
    -------
    dict of str to str
        Path of our variable (``layer_1_conv3d/v``) -> variable of the file (``layer_1/conv3d/v``).
    """
    return {variable.path: OUR_SCOPE.sub(r"\1/\2", variable.path) for variable in model.weights}
