"""Bring what a loss is given into one form: probabilities, and one-hot truth, float32."""

from __future__ import annotations

from typing import Any

from keras import ops

from kerasneuro.errors import InvalidOption


def as_probability(prediction: Any, from_logits: bool) -> Any:
    """Return probabilities ``(B, ..., C)``: of logits the softmax, or the sigmoid where C is 1."""
    prediction = ops.cast(prediction, "float32")
    if not from_logits:
        return prediction
    return ops.sigmoid(prediction) if prediction.shape[-1] == 1 else ops.softmax(prediction, axis=-1)


def as_one_hot(truth: Any, prediction: Any) -> Any:
    """Return the truth as ``(B, ..., C)`` like the prediction.

    Parameters
    ----------
    truth : tensor
        ``(B, ..., C)``, one-hot or soft, as it is; or class indices ``(B, ...)`` or ``(B, ..., 1)``. Where C
        is 1, the values themselves.
    prediction : tensor
        ``(B, ..., C)``.

    Raises
    ------
    InvalidOption
        If the shapes do not belong together.
    """
    truth = ops.convert_to_tensor(truth)
    classes, rank = prediction.shape[-1], len(prediction.shape)
    if len(truth.shape) not in (rank, rank - 1) or (
        len(truth.shape) == rank and truth.shape[-1] not in (1, classes)
    ):
        raise InvalidOption(
            f"the truth of a prediction {tuple(prediction.shape)} has that shape, or class indices without "
            f"its last axis; found {tuple(truth.shape)}"
        )
    if len(truth.shape) == rank and truth.shape[-1] == classes:
        return ops.cast(truth, "float32")
    if classes == 1:
        return ops.cast(ops.expand_dims(truth, -1), "float32")
    indices = truth if len(truth.shape) == rank - 1 else ops.squeeze(truth, -1)
    return ops.one_hot(ops.cast(indices, "int32"), classes, dtype="float32")


def as_indices(truth: Any) -> Any:
    """Return class indices ``(B, ...)``, int32, of one-hot truth ``(B, ..., C)``; where C is 1, above 0.5."""
    if truth.shape[-1] == 1:
        return ops.cast(ops.squeeze(truth, -1) > 0.5, "int32")
    return ops.argmax(truth, axis=-1)
