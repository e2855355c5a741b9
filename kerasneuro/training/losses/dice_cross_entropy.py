"""Losses of segmentation, as Keras objects over integer labels and logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

SMOOTH = 0.001


def soft_dice(
    labels: Any,
    logits: Any,
    *,
    class_factors: Sequence[float] | None = None,
    ignore_index: int | None = None,
    smooth: float = SMOOTH,
) -> Any:
    """Compute one minus the soft Dice coefficient, averaged over the classes.

    The sums run over the batch and all positions; the denominator is linear, the background is a class like
    the others, and an absent class counts as almost fully wrong (``smooth`` stands in the denominator alone).

    Source: Henschel et al., NeuroImage 219 (2020) 117012, doi 10.1016/j.neuroimage.2020.117012;
    Deep-MI/FastSurfer@070647d, ``FastSurferCNN/models/losses.py``.

    Parameters
    ----------
    labels : tensor
        Class indices, shape ``(B, ..., )``, any number of spatial axes; whole numbers of any dtype.
    logits : tensor
        Shape ``(B, ..., C)``.
    class_factors : sequence of float, optional
        One factor for each class's term; the mean still divides by C.
    ignore_index : int, optional
        Positions with this label take part in no sum; it may lie outside 0 ... C - 1.
    smooth : float
        Added to the denominator.

    Returns
    -------
    tensor
        Scalar, float32.
    """
    probability = ops.softmax(ops.cast(logits, "float32"), axis=-1)
    labels, kept = _without(labels, ignore_index)
    truth = ops.one_hot(labels, probability.shape[-1], dtype="float32")
    if kept is not None:
        probability, truth = probability * kept[..., None], truth * kept[..., None]
    axes = tuple(range(len(probability.shape) - 1))
    overlap = 2 * ops.sum(probability * truth, axis=axes)
    terms = 1 - overlap / (ops.sum(probability + truth, axis=axes) + smooth)
    if class_factors is not None:
        terms = terms * ops.convert_to_tensor(list(class_factors), dtype="float32")
    return ops.mean(terms)


def pixel_cross_entropy(labels: Any, logits: Any, *, ignore_index: int | None = None) -> Any:
    """Compute the cross entropy of each position, in nats.

    Parameters
    ----------
    labels : tensor
        Class indices, shape ``(B, ...)``; whole numbers of any dtype.
    logits : tensor
        Shape ``(B, ..., C)``.
    ignore_index : int, optional
        Positions with this label get 0.

    Returns
    -------
    tensor
        Shape ``(B, ...)``, float32.
    """
    labels, kept = _without(labels, ignore_index)
    entropy = ops.sparse_categorical_crossentropy(labels, ops.cast(logits, "float32"), from_logits=True)
    return entropy if kept is None else entropy * kept


def _without(labels: Any, ignore_index: int | None) -> tuple[Any, Any]:
    """Return labels that all lie among the classes, and 1 where they count (None: everywhere)."""
    labels = ops.cast(labels, "int32")
    if ignore_index is None:
        return labels, None
    kept = ops.not_equal(labels, ignore_index)
    return ops.where(kept, labels, ops.zeros_like(labels)), ops.cast(kept, "float32")


@keras.saving.register_keras_serializable(package="kerasneuro")
class SoftDice(keras.losses.Loss):
    """`soft_dice` as a Keras loss; weights of samples do not change it.

    Parameters
    ----------
    class_factors, ignore_index, smooth
        As in `soft_dice`.
    name : str
        Shown in logs.
    """

    def __init__(
        self,
        class_factors: Sequence[float] | None = None,
        ignore_index: int | None = None,
        smooth: float = SMOOTH,
        name: str = "soft_dice",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.class_factors = None if class_factors is None else [float(value) for value in class_factors]
        self.ignore_index = ignore_index
        self.smooth = smooth

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the loss of a batch; `sample_weight` belongs to losses that are sums over positions."""
        return super().__call__(y_true, y_pred)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of a batch."""
        return soft_dice(
            y_true,
            y_pred,
            class_factors=self.class_factors,
            ignore_index=self.ignore_index,
            smooth=self.smooth,
        )

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        own = {
            "class_factors": self.class_factors,
            "ignore_index": self.ignore_index,
            "smooth": self.smooth,
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="kerasneuro")
class PixelCrossEntropy(keras.losses.Loss):
    """Cross entropy times the weight of each position, divided by the number of positions.

    `sample_weight` of shape ``(B, ...)`` holds the weights; the sum is divided by the count of positions, not
    by the sum of the weights.

    Parameters
    ----------
    ignore_index : int, optional
        Positions with this label add nothing; they still count in the divisor.
    name : str
        Shown in logs.
    """

    def __init__(
        self, ignore_index: int | None = None, name: str = "pixel_cross_entropy", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.ignore_index = ignore_index

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the cross entropy of each position."""
        return pixel_cross_entropy(y_true, y_pred, ignore_index=self.ignore_index)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        return {**super().get_config(), "ignore_index": self.ignore_index}


@keras.saving.register_keras_serializable(package="kerasneuro")
class DiceCrossEntropy(keras.losses.Loss):
    """Sum of `SoftDice` and of `PixelCrossEntropy`, the second weighted position by position.

    Source: Henschel et al., NeuroImage 219 (2020) 117012, doi 10.1016/j.neuroimage.2020.117012.

    Parameters
    ----------
    dice_weight, cross_entropy_weight : float
        Factors of the two parts.
    class_factors : sequence of float, optional
        Factors of the classes in the Dice part.
    ignore_index : int, optional
        Label that neither part looks at.
    name : str
        Shown in logs.

    Examples
    --------
    >>> from kerasneuro.training.losses.dice_cross_entropy import DiceCrossEntropy
    >>> loss = DiceCrossEntropy(ignore_index=255)
    >>> # model.compile(loss=loss); fit on (image, labels, weights of the pixels)
    """

    def __init__(
        self,
        dice_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        class_factors: Sequence[float] | None = None,
        ignore_index: int | None = None,
        name: str = "dice_cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.dice_weight = dice_weight
        self.cross_entropy_weight = cross_entropy_weight
        self.dice = SoftDice(class_factors, ignore_index)
        self.cross_entropy = PixelCrossEntropy(ignore_index, reduction=self.reduction)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the loss of a batch: labels ``(B, ...)``, logits ``(B, ..., C)``, weights ``(B, ...)``."""
        entropy = self.cross_entropy(y_true, y_pred, sample_weight)
        return self.dice_weight * self.dice(y_true, y_pred) + self.cross_entropy_weight * entropy

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of a batch without weights of positions."""
        return self(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        own = {
            "dice_weight": self.dice_weight,
            "cross_entropy_weight": self.cross_entropy_weight,
            "class_factors": self.dice.class_factors,
            "ignore_index": self.dice.ignore_index,
        }
        return {**super().get_config(), **own}
