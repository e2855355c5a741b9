"""Take the weights of a trained network over into a new one: another head, more input channels."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.errors import WeightsMismatch
from kerasneuro.training.segmentation.graph_parts import first_layer

if TYPE_CHECKING:
    import keras

# Factor of a variable of the first convolution when its input channels are repeated n times, as a power of
# n. A normalised kernel (v, g) does not feel the length of v; deviations add up as squares.
REPEATED = {"kernel": -1.0, "v": 0.0, "g": -0.5, "kernel_a": -0.5}


def copy_weights(parent: keras.Model, model: keras.Model, *, new: Collection[str] = ()) -> list[str]:
    """Copy the weights of a network into another of the same build, layer by layer name.

    Everything is proven before anything is copied: each variable of `model` outside the layers `new` must
    have one of the same name and shape in `parent`, and none of the parent's may be left over.

    Parameters
    ----------
    parent : keras.Model
        The trained network.
    model : keras.Model
        The network that receives the weights.
    new : collection of str
        Names of the layers, in `model` and `parent`, that keep what they have: the head, as a rule.

    Returns
    -------
    list of str
        Paths of the variables that were copied.

    Raises
    ------
    WeightsMismatch
        If the networks differ anywhere else, or a layer of `new` does not exist.
    """
    source, target = _by_path(parent, new), _by_path(model, new)
    absent = set(new) - {layer.name for layer in model.layers}
    different = [path for path in source if path in target and source[path].shape != target[path].shape]
    unpaired = sorted(set(source) ^ set(target))
    if absent or different or unpaired:
        found = ", ".join([*sorted(absent), *different, *unpaired][:8])
        raise WeightsMismatch(
            f"the weights of {parent.name!r} do not fit {model.name!r} outside the new layers "
            f"({', '.join(sorted(new)) or 'none'}); expected equal names and shapes, found differences at "
            f"{found}; build both networks alike but for the head"
        )
    for path, variable in target.items():
        # A copy: JAX would share the array, and training gives up those of the new network.
        variable.assign(np.array(_numpy(source[path])))
    return list(target)


def _by_path(model: keras.Model, left_out: Collection[str]) -> dict[str, Any]:
    """Return path -> variable, without the layers that are left out and the states of random generators."""
    return {
        variable.path: variable
        for layer in model.layers
        if layer.name not in left_out
        for variable in layer.variables
        if "seed_generator_state" not in variable.path
    }


def inflate_input(parent: keras.Model, model: keras.Model) -> str:
    """Give the first convolution of a network with more input channels the weights of one with fewer.

    The parent's channels are repeated in turn, and divided by the number of repeats: on equal channels the
    network computes what the parent does.

    Parameters
    ----------
    parent : keras.Model
        The trained network.
    model : keras.Model
        The same network with n times as many input channels.

    Returns
    -------
    str
        Name of the layer, which `copy_weights` then leaves out.

    Raises
    ------
    WeightsMismatch
        If the channels are no multiple of the parent's, or the first layer is no convolution.
    """
    source, target = first_layer(parent), first_layer(model)
    fewer, more = int(parent.input_shape[-1]), int(model.input_shape[-1])
    names = {variable.name for variable in source.variables}
    if more % fewer or not names & {"kernel", "v"} or source.name != target.name:
        raise WeightsMismatch(
            f"{parent.name!r} takes {fewer} channels and cannot be widened to {more}; expected a multiple of "
            f"{fewer}, and a convolution as the first layer (found {source.name!r})"
        )
    repeats = more // fewer
    for one, other in zip(source.variables, target.variables, strict=True):
        values = np.asarray(_numpy(one)) * np.float32(repeats ** REPEATED.get(one.name, 0.0))
        if one.shape != other.shape:
            axis = len(one.shape) - 2
            values = np.concatenate([values] * repeats, axis=axis)
        if tuple(values.shape) != tuple(other.shape):
            raise WeightsMismatch(
                f"{other.path} has shape {tuple(other.shape)}, expected {tuple(values.shape)} for {more} "
                "channels; build both networks alike but for their channels and classes"
            )
        other.assign(values)
    return str(target.name)


def _numpy(variable: Any) -> Any:
    import keras

    return keras.ops.convert_to_numpy(variable)
