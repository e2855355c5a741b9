"""The loss of HSF: a focal Tversky loss over labels of several protocols."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasneuro.errors import InvalidOption

FALSE_POSITIVES, FALSE_NEGATIVES, FOCUS = 0.3, 0.7, 0.75
CA1 = 2  # the subfield that a hippocampal tail is taken to be, beside the last one (subiculum)
# Channels of a prediction (background, DG, CA1, CA2, CA3, SUB) that are added up, by what labels tell apart.
MERGED = {
    "1/2/3": ((0,), (1,), (2,), (3,), (4,), (5,)),
    "1/23": ((0,), (1,), (2,), (3, 4), (5,)),
    "123": ((0,), (1,), (2, 3, 4), (5,)),
}


def tversky_index(
    truth: Any,
    probability: Any,
    *,
    false_positives: float = FALSE_POSITIVES,
    false_negatives: float = FALSE_NEGATIVES,
    smooth: float = 1.0,
    per_sample: bool = True,
) -> Any:
    """Compute the soft Tversky index of each class: true positives by a weighted sum of those and the faults.

    Source: S. S. M. Salehi et al., MLMI 2017, doi:10.1007/978-3-319-67389-9_44.

    Parameters
    ----------
    truth, probability : tensor
        Shape ``(B, ..., C)``; `truth` may hold several classes, or more than 1, at a position.
    false_positives, false_negatives : float
        Weights of the two kinds of fault.
    smooth : float
        Added to numerator and denominator.
    per_sample : bool
        Count in each sample; else over the whole batch.

    Returns
    -------
    tensor
        Shape ``(B, C)``, or ``(C,)`` over the batch; float32.
    """
    truth, probability = ops.cast(truth, "float32"), ops.cast(probability, "float32")
    axes = tuple(range(int(per_sample), len(probability.shape) - 1))
    hits = ops.sum(truth * probability, axis=axes)
    extra = ops.sum((1 - truth) * probability, axis=axes)
    missed = ops.sum(truth * (1 - probability), axis=axes)
    return (hits + smooth) / (hits + false_positives * extra + false_negatives * missed + smooth)


def forgive(truth: Any, head: int | None = None, tail: int | None = None) -> Any:
    """Let every subfield be right where a label says only "head" or "tail" of the hippocampus.

    The head is added to all classes but the background, then the tail to CA1 and to the last class. (Where
    both are given, the head is part of what the tail's channel adds, too, as in the original.)

    Parameters
    ----------
    truth : tensor
        One-hot labels, shape ``(B, X, Y, Z, K)``.
    head, tail : int, optional
        Channels of `truth` to take out; None where the labels have no such class.

    Returns
    -------
    tensor
        Shape ``(B, X, Y, Z, K - 1)`` or ``K - 2``; values may be more than 1.

    Raises
    ------
    InvalidOption
        If `head` or `tail` is no channel of the labels, the background, or the other one.
    """
    channels = truth.shape[-1]
    for name, channel in (("head", head), ("tail", tail)):
        if channel is not None and not 1 <= channel < channels:
            raise InvalidOption(f"{name} is a channel of the labels, 1 to {channels - 1}, found {channel}")
    if head is not None and head == tail:
        raise InvalidOption(f"head and tail are two channels of the labels, found {head} for both")
    truth = ops.cast(truth, "float32")
    if head is not None:
        truth, taken = _without(truth, head)
        truth = ops.concatenate([truth[..., :1], truth[..., 1:] + taken], axis=-1)
        # The original moves the tail even if the head lies behind it, and then takes another class.
        tail = tail - 1 if tail is not None and tail > head else tail
    if tail is not None:
        truth, taken = _without(truth, tail)
        parts = [truth[..., :CA1], truth[..., CA1 : CA1 + 1] + taken, truth[..., CA1 + 1 : -1]]
        truth = ops.concatenate([*parts, truth[..., -1:] + taken], axis=-1)
    return truth


def merge(probability: Any, ca_mode: str) -> Any:
    """Add up the channels of CA fields that the labels do not tell apart.

    Parameters
    ----------
    probability : tensor
        Shape ``(B, X, Y, Z, 6)``; any number of channels for the mode ``"1/2/3"``.
    ca_mode : {"1/2/3", "1/23", "123"}
        Which CA fields the labels tell apart.

    Returns
    -------
    tensor
        Shape ``(B, X, Y, Z, 6 | 5 | 4)``.
    """
    if ca_mode == "1/2/3":
        return probability
    groups = [sum(probability[..., index] for index in group) for group in MERGED[ca_mode]]
    return ops.stack(groups, axis=-1)


def _without(truth: Any, channel: int) -> tuple[Any, Any]:
    """Return labels without one channel, and that channel."""
    rest = ops.concatenate([truth[..., :channel], truth[..., channel + 1 :]], axis=-1)
    return rest, truth[..., channel : channel + 1]


@keras.saving.register_keras_serializable(package="kerasneuro")
class ForgivingTversky(keras.losses.Loss):
    """Focal Tversky loss over probabilities, for labels that may be coarser than the prediction.

    ``(1 - mean Tversky index) ** focus``, with the mean over samples and classes, background included.

    Source: clementpoiret/hsf_train@127435f; C. Poiret et al., Front. Neuroinform. 17 (2023) 1130845,
    doi:10.3389/fninf.2023.1130845.

    Parameters
    ----------
    ca_mode : {"1/2/3", "1/23", "123"}
        Which CA fields the labels tell apart.
    head, tail : int, optional
        Channels of the labels for voxels of the hippocampal head, or tail, that have no subfield.
    focus : float
        Exponent; below 1 it raises the gradient as the loss falls.
    name : str
        Shown in logs.
    **kwargs
        As every Keras loss takes them.

    Raises
    ------
    InvalidOption
        If `ca_mode` is another one; when called, if labels and prediction do not fit each other.

    Examples
    --------
    >>> from kerasneuro.training.losses.forgiving import ForgivingTversky
    >>> loss = ForgivingTversky("1/23", tail=5)  # labels: background, DG, CA1, CA2/3, SUB, tail
    """

    def __init__(
        self,
        ca_mode: str = "1/2/3",
        head: int | None = None,
        tail: int | None = None,
        focus: float = FOCUS,
        name: str = "forgiving_tversky",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if ca_mode not in MERGED:
            raise InvalidOption(f"ca_mode is one of {', '.join(map(repr, MERGED))}, found {ca_mode!r}")
        self.ca_mode, self.head, self.tail, self.focus = ca_mode, head, tail, focus

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of a batch: one-hot labels ``(B, ..., K)``, probabilities ``(B, ..., C)``."""
        merged, truth = merge(y_pred, self.ca_mode), forgive(y_true, self.head, self.tail)
        if merged.shape[-1] != truth.shape[-1]:
            raise InvalidOption(
                f"the prediction has {merged.shape[-1]} classes as {self.ca_mode!r}, the labels have "
                f"{truth.shape[-1]} without head and tail; give the ca_mode, head and tail of the labels"
            )
        lost = 1 - ops.mean(tversky_index(truth, merged))
        return ops.power(ops.maximum(lost, keras.config.epsilon()), self.focus)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        own = {"ca_mode": self.ca_mode, "head": self.head, "tail": self.tail, "focus": self.focus}
        return {**super().get_config(), **own}
