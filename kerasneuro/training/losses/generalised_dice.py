"""Dice's coefficient over classes that are weighed by their size."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasneuro.training.losses.class_maps import as_one_hot, as_probability
from kerasneuro.training.losses.overlap import EPSILON


def generalised_dice_score(
    y_true: Any, y_pred: Any, *, original: bool = False, from_logits: bool = False
) -> Any:
    """Compute ``2 sum(w TP) / sum(w (truth + prediction))`` of each item; w is 1 / (size of the class)^2.

    The original (neuronets/nobrainer@976691d) has two faults that are mended here. A class that an item lacks
    got the weight 1e-7, so that false voxels of it cost next to nothing; it has the weight of the rarest
    class that the item has (1 where it has none). And 1e-7 was added to sums of weights that are themselves
    as small, 1 / size, so that a large structure which was missed altogether scored above 0; the weights of
    an item add up to 1 here.

    Parameters
    ----------
    y_true : tensor
        One-hot ``(B, ..., C)``, or class indices ``(B, ...)``.
    y_pred : tensor (B, ..., C)
        Probabilities, or logits with `from_logits`.
    original : bool
        Give the values of the original.
    from_logits : bool
        Predictions are logits.

    Returns
    -------
    tensor (B,)
        0 to 1, float32.

    References
    ----------
    C. H. Sudre et al. (2017), doi:10.1007/978-3-319-67558-9_28.
    """
    prediction = as_probability(y_pred, from_logits)
    truth = as_one_hot(y_true, prediction)
    axis = tuple(range(1, len(truth.shape) - 1))
    sizes = ops.sum(truth, axis=axis)
    inverse = 1 / ops.square(ops.where(sizes > 0, sizes, ops.ones_like(sizes)))
    if original:
        weights = ops.where(sizes > 0, inverse, EPSILON * ops.ones_like(sizes))
    else:
        largest = ops.max(ops.where(sizes > 0, inverse, ops.zeros_like(sizes)), axis=-1, keepdims=True)
        largest = ops.where(largest > 0, largest, ops.ones_like(largest))
        weights = ops.where(sizes > 0, inverse, largest * ops.ones_like(sizes))
        weights = weights / ops.sum(weights, axis=-1, keepdims=True)
    common = ops.sum(weights * ops.sum(truth * prediction, axis=axis), axis=-1)
    whole = ops.sum(weights * (sizes + ops.sum(prediction, axis=axis)), axis=-1)
    return (2 * common + EPSILON) / (whole + EPSILON)


@keras.saving.register_keras_serializable(package="kerasneuro")
class GeneralisedDice(keras.losses.Loss):
    """One minus `generalised_dice_score`.

    Parameters
    ----------
    original : bool
        Give the values of nobrainer, faults included.
    from_logits : bool
        Predictions are logits.
    name : str
        Shown in logs.
    """

    def __init__(
        self,
        original: bool = False,
        from_logits: bool = False,
        name: str = "generalised_dice",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.original, self.from_logits = original, from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each item (B,)."""
        score = generalised_dice_score(y_true, y_pred, original=self.original, from_logits=self.from_logits)
        return 1 - score

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        return {**super().get_config(), "original": self.original, "from_logits": self.from_logits}
