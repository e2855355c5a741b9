"""From the ONNX file of a segmentation network to a Keras graph, as its description says it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kerasneuro.errors import WeightsMismatch

if TYPE_CHECKING:
    import keras

    from kerasneuro.registry import ModelCard
    from kerasneuro.weights import WeightStore

SPATIAL_AXES = 3


def build_other(card: ModelCard, store: WeightStore) -> keras.Model:
    """Build the network of an ONNX file.

    Parameters
    ----------
    card : ModelCard
        How many channels go in, and how many classes come out.
    store : WeightStore
        The opened file.

    Returns
    -------
    keras.Model
        Images (B, X, Y, Z, channels) to the first output (B, X, Y, Z, classes).

    Raises
    ------
    WeightsMismatch
        If it is no ONNX file, or has other inputs and outputs than described.
    UnsupportedGraph
        If the graph has an operator that cannot be converted.
    """
    if store.format != "onnx":
        raise WeightsMismatch(f"{store.path} is no ONNX file, which {card.name} needs; found {store.format}")
    import keras

    from kerasneuro.onnx_models import graph_to_keras
    from kerasneuro.weights.onnx_graph import read_graph

    model = graph_to_keras(read_graph(store.path))
    if len(model.outputs) > 1:
        model = keras.Model(model.inputs, model.outputs[0], name=model.name)
    check_shapes(card, model, store)
    return model


def check_shapes(card: ModelCard, model: keras.Model, store: WeightStore) -> None:
    """Refuse a network that does not map the images of the card to its classes.

    Raises
    ------
    WeightsMismatch
        With what the network has.
    """
    channels, classes = len(card.input["images"]), len(card.output["labels"])
    taken, given = [tuple(tensor.shape) for tensor in model.inputs], tuple(model.outputs[0].shape)
    sound = len(taken) == 1 and len(taken[0]) == len(given) == SPATIAL_AXES + 2
    if not sound or taken[0][-1] not in (channels, None) or given[-1] != classes:
        raise WeightsMismatch(
            f"{store.path} does not fit the description of {card.name}: expected one input of {channels} "
            f"channel(s) and {classes} classes of each voxel, found {taken} to {given} (channels last)"
        )


def infer_config(store: WeightStore) -> dict[str, Any]:
    """Return no configuration: the file holds the graph itself."""
    return {}


def table(store: WeightStore, model: keras.Model) -> Mapping[str, str]:
    """Return no table: the arrays come with the graph."""
    return {}
