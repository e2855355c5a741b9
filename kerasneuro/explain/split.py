"""Cut the graph of a network at a feature map: gradients are then computed through the rest alone."""

from __future__ import annotations

import difflib
import weakref
from dataclasses import dataclass
from typing import Any

from kerasneuro.errors import InvalidOption
from kerasneuro.inference.graph import GraphPlan, Step, functional_of

FEATURE_RANK = 5  # (B, X, Y, Z, C)
SQUASHING = ("softmax", "sigmoid")  # the scores before these are explained, not the probabilities after them
# Splits share the layers of their model but never hold the model itself, so they end with it.
_SPLITS: weakref.WeakKeyDictionary[Any, dict[str | None, Split]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Split:
    """A network in two parts.

    Attributes
    ----------
    layer : str or None
        The layer whose output is the feature map; None: the input itself.
    head : keras.Model or None
        Maps the input to the feature map, followed by what bypasses it (skip connections).
    tail : keras.Model
        Maps these tensors to the scores, before a final softmax or sigmoid.
    bypasses : int
        Number of tensors beside the feature map.
    threshold : float
        Score of a single output channel above which a voxel belongs to the class.
    """

    layer: str | None
    head: Any
    tail: Any
    bypasses: int
    threshold: float


def split_model(model: Any, layer: str | None) -> Split:
    """Cut a model behind a layer; None cuts nothing: the tail then begins at the input.

    Parameters
    ----------
    model : keras.Model
        Functional, one input ``(B, X, Y, Z, C)``, one output.
    layer : str or None
        Name of a layer with an output ``(B, X, Y, Z, C)``.

    Raises
    ------
    InvalidOption
        If the model is not such a graph, or has no such layer.
    """
    known = _SPLITS.setdefault(model, {})
    if layer not in known:
        known[layer] = _split(check_model(model), layer)
    return known[layer]


def check_model(model: Any) -> GraphPlan:
    """Return the layer calls of a model that can be explained."""
    functional = functional_of(model)
    if functional is None:
        raise InvalidOption(
            "an explanation needs a functional model with one input and one output, "
            f"found {type(model).__name__}; for a task, give task.model"
        )
    if len(functional.inputs[0].shape) != FEATURE_RANK:
        shape = tuple(functional.inputs[0].shape)
        raise InvalidOption(f"an explanation needs a model of volumes (B, X, Y, Z, C), found input {shape}")
    return GraphPlan(model)


def default_layer(model: Any) -> str:
    """Name the last feature map: before the pooling of a classifier, before the last layer of a segmenter.

    Raises
    ------
    InvalidOption
        If the model has no feature map with three spatial axes.
    """
    steps = check_model(model).steps
    if len(_scores(steps).shape) == FEATURE_RANK:
        return _before_projection(steps)
    for step in reversed(steps):
        if _is_map(step) and "Pooling" not in type(step.operation).__name__:
            return str(step.operation.name)
    raise InvalidOption("the model has no feature map (B, X, Y, Z, C) before its output; use the input")


def feature_layers(model: Any) -> list[str]:
    """List the layers whose output is a feature map, from the input to the output."""
    return [step.operation.name for step in check_model(model).steps if _is_map(step)]


def _is_map(step: Step) -> bool:
    shapes = [tuple(tensor.shape) for tensor in step.node.outputs]
    return len(shapes) == 1 and len(shapes[0]) == FEATURE_RANK and shapes[0][1:4] != (1, 1, 1)


def _scores(steps: tuple[Step, ...]) -> Any:
    """Return the tensor to explain: the output, or what its own final softmax or sigmoid reads."""
    last = steps[-1]
    kind = type(last.operation).__name__.lower()
    named = getattr(getattr(last.operation, "activation", None), "__name__", "")
    if kind in SQUASHING or (kind == "activation" and named in SQUASHING):
        return last.node.input_tensors[0]
    return last.node.outputs[0]


def _before_projection(steps: tuple[Step, ...]) -> str:
    """Name the layer that feeds the last layer with weights."""
    makers = {key: step for step in steps for key in step.outputs}
    step = makers[id(_scores(steps))]
    while len(step.inputs) == 1 and step.inputs[0] in makers:
        has_weights = bool(getattr(step.operation, "weights", ()))
        step = makers[step.inputs[0]]
        if has_weights:
            break
    return str(step.operation.name)


def _split(plan: GraphPlan, layer: str | None) -> Split:
    import keras

    scores = _scores(plan.steps)
    makers = {key: step for step in plan.steps for key in step.outputs}
    activation = getattr(getattr(makers[id(scores)].operation, "activation", None), "__name__", "")
    threshold = 0.5 if activation == "sigmoid" else 0.0
    entry = next(t for step in plan.steps for t in step.node.input_tensors if id(t) == plan.input)
    if layer is None:
        return Split(None, None, keras.Model(entry, scores), 0, threshold)
    cut = _position(plan.steps, layer)
    feature = plan.steps[cut].node.outputs[0]
    if feature is scores:
        raise InvalidOption(f"layer {layer!r} is the output itself; name a layer before it")
    live = [feature, *_bypasses(plan.steps, cut, feature)]
    head = keras.Model(entry, live if len(live) > 1 else feature)
    tail = keras.Model(live if len(live) > 1 else feature, scores)
    return Split(layer, head, tail, len(live) - 1, threshold)


def _position(steps: tuple[Step, ...], layer: str) -> int:
    """Return the last call of a layer by its name."""
    found = [i for i, step in enumerate(steps) if step.operation.name == layer and _is_map(step)]
    if found:
        return found[-1]
    names = [step.operation.name for step in steps if _is_map(step)]
    near = difflib.get_close_matches(layer, names, n=5, cutoff=0.4) or names[-5:]
    raise InvalidOption(f"no layer {layer!r} with an output (B, X, Y, Z, C); some that have one: {near}")


def _bypasses(steps: tuple[Step, ...], cut: int, feature: Any) -> list[Any]:
    """Return the tensors known before the cut, other than the feature map, that are read behind it."""
    behind = {key for step in steps[cut + 1 :] for key in step.outputs}
    read = {id(t): t for step in steps[cut + 1 :] for t in step.node.input_tensors}
    return [t for key, t in read.items() if key not in behind and t is not feature]
