"""Take the weights of a trained network over into a new one with another head."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from kerasneuro.errors import WeightsMismatch

if TYPE_CHECKING:
    import keras


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
        variable.assign(source[path])
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
