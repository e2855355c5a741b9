"""Which layers of a network are its head, its encoder, its first one: read off the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kerasneuro.errors import InvalidOption

if TYPE_CHECKING:
    import keras

    Freeze = str | Callable[[keras.layers.Layer], bool] | None

PROBE = 64  # length of the axes on which the grids of the layers are compared
FREEZES = ("encoder", "all-but-head")


def head_layer(model: keras.Model) -> str:
    """Return the name of the layer that gives the classes: the last one with weights.

    Raises
    ------
    InvalidOption
        If no layer has weights, or the last one does not give the channels of the output.
    """
    weighted = [layer for layer in model.layers if layer.variables]
    classes = model.output_shape[-1]
    if not weighted or all(variable.shape[-1] != classes for variable in weighted[-1].variables):
        raise InvalidOption(
            f"{model.name!r} has no layer of {classes} outputs at its end; expected a network whose last "
            "weights give the classes"
        )
    return str(weighted[-1].name)


def first_layer(model: keras.Model) -> keras.layers.Layer:
    """Return the first layer with weights."""
    return next(layer for layer in model.layers if layer.variables)


def encoder_layers(model: keras.Model) -> list[str]:
    """List the layers of the encoder: all that the layers on the coarsest grid depend on, and these.

    Raises
    ------
    InvalidOption
        If all layers work on one grid, as those of a MeshNet do.
    """
    sizes = _grid_lengths(model)
    coarsest = min(sizes.values())
    if coarsest == max(sizes.values()):
        raise InvalidOption(
            f"{model.name!r} has no encoder: all its layers work on one grid; freeze 'all-but-head', "
            "nothing, or what a function of your own chooses"
        )
    names = {operation.name: operation for operation in model.operations}
    waiting = [name for name, size in sizes.items() if size == coarsest]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [parent for parent in _parents(names[name]) if parent in names]
    return [layer.name for layer in model.layers if layer.name in found]


def _parents(operation: Any) -> list[str]:
    """Name the operations whose results an operation takes."""
    tensors = [tensor for node in operation._inbound_nodes for tensor in node.input_tensors]
    return [tensor._keras_history.operation.name for tensor in tensors]


def _grid_lengths(model: keras.Model) -> dict[str, int]:
    """Return the length of the first spatial axis of every operation's result, for inputs of one size."""
    import keras

    rank = len(model.input_shape)
    outputs = {
        operation.name: first
        for operation in model.operations
        if len((first := keras.tree.flatten(operation.output)[0]).shape) == rank
    }
    fixed = [PROBE if axis is None else axis for axis in model.input_shape[1:-1]]
    probe = keras.KerasTensor((1, *fixed, model.input_shape[-1]))
    found = keras.Model(model.inputs, list(outputs.values())).compute_output_spec([probe])
    return {name: int(spec.shape[1]) for name, spec in zip(outputs, found, strict=True)}


def freeze_layers(model: keras.Model, freeze: Freeze, *, normalizations: bool = False) -> list[str]:
    """Choose the layers whose weights stay as they are; all others are trained.

    Parameters
    ----------
    model : keras.Model
        Compile it afterwards.
    freeze : {"encoder", "all-but-head"}, callable or None
        A callable is given each layer and says True for those that stay.
    normalizations : bool
        Keep batch normalisations as they are, too, statistics and factors: a small batch then changes
        nothing in them.

    Returns
    -------
    list of str
        Names of the layers with weights that are not trained.

    Raises
    ------
    InvalidOption
        If `freeze` is something else, or nothing is left to train.
    """
    if not (freeze is None or callable(freeze) or freeze in FREEZES):
        raise InvalidOption(
            f"freeze must be {' or '.join(map(repr, FREEZES))}, None or a function, found {freeze!r}"
        )
    encoder = set(encoder_layers(model)) if freeze == "encoder" else set()
    head = head_layer(model) if freeze == "all-but-head" else ""
    for layer in model.layers:
        if callable(freeze):
            fixed = bool(freeze(layer))
        else:
            fixed = layer.name in encoder or bool(head and layer.name != head)
        layer.trainable = not (fixed or (normalizations and "BatchNormalization" in type(layer).__name__))
    if not model.trainable_variables:
        raise InvalidOption(f"freeze leaves nothing of {model.name!r} to train; freeze fewer layers")
    return [layer.name for layer in model.layers if layer.weights and not layer.trainable]


def check_stages(freeze: Any) -> dict[int, Any]:
    """Return what is frozen from which epoch on: one value for all, or a mapping of epoch to value.

    Raises
    ------
    InvalidOption
        If the mapping does not begin with epoch 0.
    """
    if not isinstance(freeze, Mapping):
        return {0: freeze}
    stages = {int(epoch): value for epoch, value in sorted(freeze.items())}
    if not stages or min(stages) != 0:
        raise InvalidOption(
            f"freeze by epoch must say what is frozen from epoch 0 on, found {dict(freeze)!r}"
        )
    return stages
