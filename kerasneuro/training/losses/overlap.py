"""Losses of overlap: Dice, Jaccard, Tversky, focal Tversky, generalised Dice; the values of nobrainer.

Source: neuronets/nobrainer@976691d, ``nobrainer/losses.py``. Every loss takes one-hot truth ``(B, ..., C)``
or class indices ``(B, ...)``, and probabilities, or logits where told so; one value for each item.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.training.losses.class_maps import as_one_hot, as_probability

EPSILON = 1e-7


def overlap(truth: Any, prediction: Any, alpha: float, beta: float, axis: Any, smooth: float) -> Any:
    """Compute Tversky's index: ``(TP + smooth) / (TP + alpha FP + beta FN + smooth)``.

    ``alpha = beta = 0.5`` is Dice's coefficient, ``alpha = beta = 1`` Jaccard's.

    Parameters
    ----------
    truth, prediction : tensor (B, ..., C)
        Memberships, 0 to 1.
    alpha, beta : float
        Cost of false positives and of false negatives.
    axis : tuple of int
        Summed over.
    smooth : float
        What makes 1 of the index where there is nothing to find and nothing found.

    Returns
    -------
    tensor
        The axes that are left.
    """
    common = ops.sum(truth * prediction, axis=axis)
    positive, relevant = ops.sum(prediction, axis=axis), ops.sum(truth, axis=axis)
    whole = common + alpha * (positive - common) + beta * (relevant - common)
    return (common + smooth) / (whole + smooth)


class OverlapLoss(keras.losses.Loss):
    """One minus Tversky's index; the base of the losses of overlap.

    Parameters
    ----------
    per_class : bool
        Compute each class by itself and average; otherwise all classes are summed into one overlap, in which
        large classes count most.
    background : bool
        With `per_class`: whether class 0 is one of those averaged, where there are more.
    batch : bool
        Sum over the batch as well, and return one value for it.
    from_logits : bool
        Predictions are logits.
    smooth : float
        Added to numerator and denominator. The value of the original, 1e-7, makes a class that an item lacks
        count as wholly wrong at the slightest false probability; 1 or more is gentler with small patches.
    name : str
        Shown in logs.
    """

    alpha, beta = 0.5, 0.5
    smooth_share = 1.0  # of `smooth`, that is added to either side of Tversky's index

    def __init__(
        self,
        per_class: bool = False,
        background: bool = True,
        batch: bool = False,
        from_logits: bool = False,
        smooth: float = EPSILON,
        name: str = "overlap",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.per_class, self.background, self.batch = per_class, background, batch
        self.from_logits, self.smooth = from_logits, smooth

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the loss of a batch; `sample_weight` is one number for each item."""
        if sample_weight is not None and (self.batch or len(sample_weight.shape) != 1):
            raise InvalidOption(f"{self.name} weighs items of a batch, not voxels or whole batches")
        return super().__call__(y_true, y_pred, sample_weight)

    def index(self, y_true: Any, y_pred: Any) -> Any:
        """Return the index of each item and class, ``(B, C)``; ``(B, 1)`` where classes are summed."""
        prediction = as_probability(y_pred, self.from_logits)
        truth = as_one_hot(y_true, prediction)
        if self.per_class and not self.background and truth.shape[-1] > 1:
            truth, prediction = truth[..., 1:], prediction[..., 1:]
        last = len(truth.shape) - 1
        axis = (0,) * self.batch + tuple(range(1, last)) + (last,) * (not self.per_class)
        smooth = self.smooth * self.smooth_share
        found = overlap(truth, prediction, self.alpha, self.beta, axis, smooth)
        return found if self.per_class else ops.expand_dims(found, -1)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each item (B,)."""
        return 1 - ops.mean(self.index(y_true, y_pred), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        names = ("per_class", "background", "batch", "from_logits", "smooth")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kerasneuro")
class Dice(OverlapLoss):
    """One minus ``(2 TP + smooth) / (truth + prediction + smooth)``.

    With its defaults the loss of nobrainer, which sums all classes into one overlap. ``per_class=True,
    background=False`` is the usual form for several classes.

    Parameters
    ----------
    per_class, background, batch, from_logits, smooth, name
        As in `OverlapLoss`.

    References
    ----------
    F. Milletari et al. (2016), doi:10.1109/3DV.2016.79.

    Examples
    --------
    >>> from kerasneuro.training.losses.overlap import Dice
    >>> float(Dice()([[[0.0], [1.0], [1.0]]], [[[0.0], [1.0], [0.0]]]))  # doctest: +ELLIPSIS
    0.333333...
    """

    smooth_share = 0.5

    def __init__(self, per_class: bool = False, name: str = "dice", **kwargs: Any) -> None:
        super().__init__(per_class, name=name, **kwargs)


@keras.saving.register_keras_serializable(package="kerasneuro")
class Jaccard(OverlapLoss):
    """One minus ``(TP + smooth) / (truth + prediction - TP + smooth)``: the loss of brainy.

    Parameters
    ----------
    per_class, background, batch, from_logits, smooth, name
        As in `OverlapLoss`.
    """

    alpha, beta = 1.0, 1.0

    def __init__(self, per_class: bool = False, name: str = "jaccard", **kwargs: Any) -> None:
        super().__init__(per_class, name=name, **kwargs)


@keras.saving.register_keras_serializable(package="kerasneuro")
class Tversky(OverlapLoss):
    """One minus Tversky's index, averaged over the classes.

    The loss of nobrainer; its metric of that name is the sum over the classes, up to C.

    Parameters
    ----------
    alpha, beta : float
        Cost of false positives and of false negatives.
    per_class, background, batch, from_logits, smooth, name
        As in `OverlapLoss`.

    References
    ----------
    S. S. M. Salehi et al. (2017), doi:10.1007/978-3-319-67389-9_44.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        per_class: bool = True,
        name: str = "tversky",
        **kwargs: Any,
    ) -> None:
        super().__init__(per_class, name=name, **kwargs)
        if not (alpha >= 0 and beta >= 0 and alpha + beta > 0):
            raise InvalidOption(f"alpha and beta are 0 or more, not both 0; found {alpha} and {beta}")
        self.alpha, self.beta = alpha, beta

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        return {**super().get_config(), "alpha": self.alpha, "beta": self.beta}


@keras.saving.register_keras_serializable(package="kerasneuro")
class FocalTversky(Tversky):
    """``(1 - index) ** (1 / gamma)``, averaged over the classes; nobrainer names it, and stops.

    The article sums the classes; the mean keeps the size of the loss apart from their number.

    Parameters
    ----------
    alpha, beta : float
        Cost of false positives and of false negatives.
    gamma : float
        Above 1, classes that are found well count more than by their share, as in the article.
    per_class, background, batch, from_logits, smooth, name
        As in `OverlapLoss`.

    References
    ----------
    N. Abraham and N. M. Khan (2019), doi:10.1109/ISBI.2019.8759329.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 4 / 3,
        name: str = "focal_tversky",
        **kwargs: Any,
    ) -> None:
        super().__init__(alpha, beta, name=name, **kwargs)
        if not gamma > 0:
            raise InvalidOption(f"gamma is a number above 0, found {gamma}")
        self.gamma = gamma

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each item (B,)."""
        # Kept off 0, where the slope of a root has no bounds.
        missed = ops.maximum(1 - self.index(y_true, y_pred), EPSILON)
        return ops.mean(ops.power(missed, 1 / self.gamma), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        return {**super().get_config(), "gamma": self.gamma}
