"""Losses that are a mean over voxels: cross entropy, focal, weighted at borders, Bayesian."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import keras
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.training.losses.class_maps import as_indices, as_one_hot
from kerasneuro.training.losses.overlap import EPSILON


def cross_entropy(y_true: Any, y_pred: Any, *, from_logits: bool = False, focusing: float = 0.0) -> Any:
    """Compute the cross entropy of each voxel, in nats.

    Parameters
    ----------
    y_true : tensor
        One-hot or soft ``(B, ..., C)``, or class indices ``(B, ...)``; where C is 1, 0 to 1.
    y_pred : tensor (B, ..., C)
        Probabilities, or logits with `from_logits`. One channel is the probability of the foreground.
    from_logits : bool
        Predictions are logits: exact also where a probability is next to 0.
    focusing : float
        Exponent of ``1 - p`` by which a voxel counts whose class has the probability p; 0: all alike.

    Returns
    -------
    tensor (B, ..., C)
        Part of each class; with one channel ``(B, ..., 2)``, background first.

    References
    ----------
    T.-Y. Lin et al. (2017), doi:10.1109/ICCV.2017.324 (`focusing`).
    """
    y_pred = ops.cast(y_pred, "float32")
    truth = as_one_hot(y_true, y_pred)
    if y_pred.shape[-1] == 1:
        truth = ops.concatenate([1 - truth, truth], axis=-1)
        if from_logits:
            logs = -ops.softplus(ops.concatenate([y_pred, -y_pred], axis=-1))
        else:
            logs = _log(ops.concatenate([1 - y_pred, y_pred], axis=-1))
    else:
        logs = ops.log_softmax(y_pred, axis=-1) if from_logits else _log(y_pred)
    parts = -truth * logs
    return parts * ops.power(1 - ops.exp(logs), focusing) if focusing else parts


def _log(probability: Any) -> Any:
    return ops.log(ops.clip(probability, EPSILON, 1 - EPSILON))


def border_weights(labels: Any, strength: float = 10.0, width: float = 1.5, reach: int = 4) -> Any:
    """Weigh voxels by how near another label is: ``1 + strength * exp(-d^2 / (2 width^2))``.

    d counts the voxels between a voxel and the nearest one of another label, along axes and diagonals alike;
    0 for neighbours. The weights of O. Ronneberger et al. (2015), doi:10.1007/978-3-319-24574-4_28 (eq. 2),
    for the nearest border alone and without the weights of classes.

    Parameters
    ----------
    labels : tensor (B, ...)
        Class indices on 2 or 3 spatial axes.
    strength, width : float
        Height, and width in voxels.
    reach : int
        Beyond these voxels the weight is 1.

    Returns
    -------
    tensor (B, ...)
        1 and more, float32.
    """
    low = high = ops.expand_dims(ops.cast(labels, "float32"), -1)
    heights = [strength * math.exp(-(d**2) / (2 * width**2)) for d in range(reach)] + [0.0]
    weights = ops.ones_like(high)
    for nearer, farther in pairwise(heights):
        high = ops.max_pool(high, 3, strides=1, padding="same", data_format="channels_last")
        low = -ops.max_pool(-low, 3, strides=1, padding="same", data_format="channels_last")
        # A voxel with d within the first step is also within all later ones, so the steps add up.
        weights = weights + (nearer - farther) * ops.cast(high > low, "float32")
    return ops.squeeze(weights, -1)


@keras.saving.register_keras_serializable(package="kerasneuro")
class CrossEntropy(keras.losses.Loss):
    """Mean of `cross_entropy` over the voxels.

    `sample_weight` is one number for each item, or for each voxel ``(B, ...)``; the sum is divided by the
    number of voxels.

    Parameters
    ----------
    class_weights : sequence of float, optional
        One factor for each class; of two for a network of one channel, background first.
    focusing : float
        As in `cross_entropy`; 2 gives the focal loss of the article.
    from_logits : bool
        Predictions are logits.
    name : str
        Shown in logs.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        focusing: float = 0.0,
        from_logits: bool = False,
        name: str = "cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        self.focusing, self.from_logits = focusing, from_logits

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the loss of a batch."""
        if sample_weight is not None and len(sample_weight.shape) == 1:
            ones = (1,) * (len(y_pred.shape) - 2)
            sample_weight = ops.reshape(sample_weight, (-1, *ones))
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each voxel (B, ...)."""
        parts = cross_entropy(y_true, y_pred, from_logits=self.from_logits, focusing=self.focusing)
        if self.class_weights is not None:
            if len(self.class_weights) != parts.shape[-1]:
                raise InvalidOption(
                    f"class_weights are {parts.shape[-1]} numbers, one for each class, background first; "
                    f"found {len(self.class_weights)}"
                )
            parts = parts * ops.convert_to_tensor(self.class_weights, dtype="float32")
        return ops.sum(parts, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        names = ("class_weights", "focusing", "from_logits")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kerasneuro")
class BoundaryWeighted(CrossEntropy):
    """Cross entropy whose voxels are weighed by `border_weights` of the truth; a weighted mean of each item.

    Parameters
    ----------
    strength, width, reach
        As in `border_weights`.
    class_weights, focusing, from_logits, name
        As in `CrossEntropy`.
    """

    def __init__(
        self,
        strength: float = 10.0,
        width: float = 1.5,
        reach: int = 4,
        name: str = "boundary_weighted",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if not (strength >= 0 and width > 0 and reach >= 1):
            raise InvalidOption(
                f"expected a strength of 0 or more, a width above 0 and a reach of 1 or more, found "
                f"{strength}, {width} and {reach}"
            )
        self.strength, self.width, self.reach = strength, width, reach

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each voxel (B, ...)."""
        labels = as_indices(as_one_hot(y_true, y_pred))
        weights = border_weights(labels, self.strength, self.width, self.reach)
        space = tuple(range(1, len(weights.shape)))
        return super().call(y_true, y_pred) * weights / ops.mean(weights, axis=space, keepdims=True)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        own = {"strength": self.strength, "width": self.width, "reach": self.reach}
        return {**super().get_config(), **own}


def elbo(y_true: Any, y_pred: Any, divergences: Sequence[Any] = (), examples: int = 1) -> Any:
    """Compute the negative evidence lower bound: mean cross entropy + sum of the divergences / examples.

    Source: neuronets/nobrainer@976691d, ``nobrainer/losses.py``. The original's loss takes the divergences
    from the network, whose training adds them once more, undivided. In `fit`, use `CrossEntropy` and build
    the network with ``kl_weight=1 / examples``: each is then counted once, and this is the loss.

    Parameters
    ----------
    y_true : tensor
        Class indices ``(B, ...)`` or one-hot truth.
    y_pred : tensor (B, ..., C)
        Probabilities.
    divergences : sequence of scalars
        ``model.losses``: how far each layer's weights are from their prior.
    examples : int
        Items in the training set.

    Returns
    -------
    tensor
        Scalar, float32.
    """
    likelihood = ops.mean(ops.sum(cross_entropy(y_true, y_pred), axis=-1))
    return likelihood + sum(divergences) / examples


@keras.saving.register_keras_serializable(package="kerasneuro")
class Elbo(CrossEntropy):
    """The part of `elbo` that a loss is given; layers built with ``kl_weight=1 / examples`` add the other.

    Parameters
    ----------
    class_weights, focusing, from_logits, name
        As in `CrossEntropy`.
    """

    def __init__(self, name: str = "elbo", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
