"""Scores of a network and their gradient by a feature map or by the input, on every training backend."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.explain.split import Split, check_model, split_model
from kerasneuro.inference.engine import Engine
from kerasneuro.inference.graph import functional_of

Differentiate = Callable[[list[np.ndarray], np.ndarray], tuple[np.ndarray, np.ndarray]]
Weights = np.ndarray | Callable[[np.ndarray], np.ndarray]
# Compiled functions outlive a call but not their model; see `split`.
_COMPILED: weakref.WeakKeyDictionary[Split, Differentiate] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Gradients:
    """What `gradients` returns, all float32.

    Attributes
    ----------
    scores : ndarray
        Output before a final softmax or sigmoid, shape ``(B, K)`` or ``(B, X, Y, Z, K)``.
    features : ndarray
        The feature map (or the input), shape ``(B, X', Y', Z', C)``.
    gradient : ndarray
        Derivative of ``sum(weights * scores)`` by `features`, of their shape.
    """

    scores: np.ndarray
    features: np.ndarray
    gradient: np.ndarray


def gradients(model: Any, batch: np.ndarray, weights: Weights, layer: str | None = None) -> Gradients:
    """Compute scores and the gradient of a weighted sum of them.

    Parameters
    ----------
    model : keras.Model
        Functional, one input ``(B, X, Y, Z, C)``, one output; computed in inference mode.
    batch : ndarray
        Shape ``(B, X, Y, Z, C)``, preprocessed as the model wants it.
    weights : ndarray or callable
        Weight of each score, of their shape; or a function that makes it from the scores.
    layer : str, optional
        The layer by whose output is differentiated; None: by the input.

    Returns
    -------
    Gradients

    Raises
    ------
    InvalidOption
        If the backend has no gradients, or model, batch or layer do not fit.
    """
    require_gradients()
    batch = check_batch(model, batch)
    split = split_model(model, layer)
    features = compute_features(split, batch)
    if callable(weights):
        weights = weights(compute_scores(split, features))
    scores, gradient = differentiate(split, features, weights)
    return Gradients(scores, features[0], gradient)


def require_gradients() -> None:
    """Refuse a backend that only computes forward.

    Raises
    ------
    InvalidOption
        Under OpenVINO and NumPy.
    """
    import keras

    backend = keras.backend.backend()
    if backend not in _BUILDERS:
        raise InvalidOption(
            f"gradients need the backend tensorflow, jax or torch, and this is {backend}: set KERAS_BACKEND "
            "to one of them, or use occlusion, which needs no gradients"
        )


def check_batch(model: Any, batch: np.ndarray) -> np.ndarray:
    """Return a batch as float32 if the model can take it.

    Raises
    ------
    InvalidOption
        If it has another rank, size or channel count, is empty, or holds NaN or infinite values.
    """
    check_model(model)
    wanted = tuple(functional_of(model).inputs[0].shape)  # type: ignore[union-attr]
    found = np.asarray(batch)
    fits = len(found.shape) == len(wanted) and all(
        size is None or size == extent for size, extent in zip(wanted, found.shape, strict=True)
    )
    if not fits or found.size == 0:
        raise InvalidOption(f"the model takes a batch {wanted} (None: any size), found {found.shape}")
    found = found.astype(np.float32, copy=False)
    if not np.isfinite(found).all():
        raise InvalidOption("the batch holds NaN or infinite values; replace them first")
    return found


def compute_features(split: Split, batch: np.ndarray) -> list[np.ndarray]:
    """Compute the feature map and what bypasses it, without gradients."""
    if split.head is None:
        return [batch]
    if not split.bypasses:
        return [Engine(split.head)(batch)]
    import keras

    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            tensors = split.head(batch, training=False)
    else:
        tensors = split.head(batch, training=False)
    return [keras.ops.convert_to_numpy(tensor) for tensor in tensors]


def score_shape(split: Split, features: list[np.ndarray]) -> tuple[int, ...]:
    """Return the shape of the scores of a feature map."""
    shapes = [array.shape for array in features]
    return tuple(split.tail.compute_output_shape(shapes if split.bypasses else shapes[0]))


def compute_scores(split: Split, features: list[np.ndarray]) -> np.ndarray:
    """Compute the scores of a feature map; the compiled gradient serves, so that nothing compiles twice."""
    return differentiate(split, features, np.zeros(score_shape(split, features), np.float32))[0]


def differentiate(
    split: Split, features: list[np.ndarray], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores and the gradient of ``sum(weights * scores)`` by the first of the features."""
    import keras

    if split not in _COMPILED:
        _COMPILED[split] = _BUILDERS[keras.backend.backend()](weakref.ref(split))
    scores, gradient = _COMPILED[split](features, np.asarray(weights, np.float32))
    return np.asarray(scores, np.float32), np.asarray(gradient, np.float32)


def _tail(split: Split, feature: Any, others: list[Any]) -> Any:
    return split.tail([feature, *others] if others else feature, training=False)


def _tensorflow(split: Callable[[], Any]) -> Differentiate:
    import tensorflow as tf

    def both(feature: Any, others: list[Any], weights: Any) -> tuple[Any, Any]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(feature)
            scores = tf.cast(_tail(split(), feature, others), tf.float32)
            total = tf.reduce_sum(scores * weights)
        return scores, tape.gradient(total, feature, unconnected_gradients="zero")

    function = tf.function(both, autograph=False)

    def compute(features: list[np.ndarray], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, *others = (tf.constant(array) for array in features)
        scores, gradient = function(first, others, tf.constant(weights))
        return scores.numpy(), gradient.numpy()

    return compute


def _jax(split: Callable[[], Any]) -> Differentiate:
    import jax
    import keras

    def total(feature: Any, others: list[Any], weights: Any, values: list[Any]) -> tuple[Any, Any]:
        pairs = zip(split().tail.variables, values, strict=True)
        with keras.StatelessScope(state_mapping=list(pairs)):
            scores = _tail(split(), feature, others).astype("float32")
        return (scores * weights).sum(), scores

    function = jax.jit(jax.value_and_grad(total, has_aux=True))

    def compute(features: list[np.ndarray], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, *others = features
        # Variables are arguments, not constants: changed weights need no new compilation.
        values = [variable.value for variable in split().tail.variables]
        (_, scores), gradient = function(first, others, weights, values)
        return np.asarray(scores), np.asarray(gradient)

    return compute


def _torch(split: Callable[[], Any]) -> Differentiate:
    import torch

    def compute(features: list[np.ndarray], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        variables = split().tail.variables
        place = variables[0].value.device if variables else torch.device("cpu")
        first, *others = (torch.tensor(array, device=place) for array in features)
        with torch.enable_grad():
            scores = _tail(split(), first.requires_grad_(), others).float()
            total = (scores * torch.tensor(weights, device=place)).sum()
            (gradient,) = torch.autograd.grad(total, first)
        return scores.detach().cpu().numpy(), gradient.cpu().numpy()

    return compute


_BUILDERS: dict[str, Callable[[Callable[[], Any]], Differentiate]] = {
    "tensorflow": _tensorflow,
    "jax": _jax,
    "torch": _torch,
}
