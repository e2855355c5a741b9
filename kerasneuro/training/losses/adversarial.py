"""Losses of Wasserstein networks, which nobrainer trains generators with.

Source: neuronets/nobrainer@976691d, ``nobrainer/losses.py``; I. Gulrajani et al. (2017), arXiv:1704.00028.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

PENALTY = 10.0
DRIFT = 0.001


@keras.saving.register_keras_serializable(package="kerasneuro")
class Wasserstein(keras.losses.Loss):
    """Mean of truth times prediction; truth is -1 for real and 1 for made images.

    Parameters
    ----------
    name : str
        Shown in logs.
    """

    def __init__(self, name: str = "wasserstein", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each value."""
        return y_true * y_pred


def gradient_penalty(
    gradient: Any,
    real: Any,
    *,
    penalty: float = PENALTY,
    drift: float = DRIFT,
    original: bool = False,
) -> Any:
    """Compute ``penalty (1 - ||gradient||)^2 + drift real^2`` of each item.

    Parameters
    ----------
    gradient : tensor (B, ...)
        Slope of the critic's answer at images between real and made ones.
    real : tensor (B, 1) or (B,)
        The critic's answer to real images.
    penalty, drift : float
        Factors of the two parts.
    original : bool
        Pair every gradient with every answer, ``(B, B)``, as the original does with answers ``(B, 1)``.

    Returns
    -------
    tensor (B,)
        float32; ``(B, B)`` with `original`.
    """
    squares = ops.sum(ops.square(gradient), axis=tuple(range(1, len(gradient.shape))))
    apart = penalty * ops.square(1 - ops.sqrt(squares))
    answers = ops.reshape(real, (-1,))
    if original:
        answers = answers[:, None]
    return apart + drift * ops.square(answers)
