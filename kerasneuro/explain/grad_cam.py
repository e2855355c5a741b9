"""Grad-CAM: which places of a feature map raise the score of a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasneuro.explain.gradients import (
    check_batch,
    compute_features,
    differentiate,
    require_gradients,
)
from kerasneuro.explain.grids import resize_map
from kerasneuro.explain.split import Split, default_layer, split_model
from kerasneuro.explain.target import ClassIndex, weights_of


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """A weighted feature map, float32.

    Attributes
    ----------
    raw : ndarray
        Shape ``(B, X', Y', Z')`` on the grid of the feature map: weighted sum of its channels, signed.
    alpha : ndarray
        Shape ``(B, C)``: weight of each channel.
    scores : ndarray
        Shape ``(B, K)`` or ``(B, X, Y, Z, K)``: output before a final softmax or sigmoid.
    classes : tuple of int
        The class that is explained, for each sample.
    """

    raw: np.ndarray
    alpha: np.ndarray
    scores: np.ndarray
    classes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class GradCam(ClassMap):
    """Heat maps, and the weighted feature maps they were made of.

    Attributes
    ----------
    heat : ndarray
        Shape ``(B, X, Y, Z)`` on the grid of the input, float32 in [0, 1] for each sample; 0 if constant.
    layer : str
        The layer of the feature map.
    """

    heat: np.ndarray
    layer: str


def grad_cam(
    model: Any,
    batch: np.ndarray,
    class_index: ClassIndex = None,
    layer: str | None = None,
    *,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Make the Grad-CAM heat map of a class.

    The weight of a channel is the mean over space of the derivative of the class score (before the softmax)
    by that channel; negative places of the weighted sum are set to 0; the map is resized trilinearly
    (half-pixel centres) to the input and scaled to [0, 1]. Of a segmentation, the mean score over a region
    is explained. `grad_cam_parts` gives the map before these steps.

    Parameters
    ----------
    model : keras.Model
        Functional, one input ``(B, X, Y, Z, C)``, one output.
    batch : ndarray
        Shape ``(B, X, Y, Z, C)``, preprocessed as the model wants it.
    class_index : int, sequence of int, or None
        The class, or one for each sample; None: the highest score (of a segmentation, the largest class but
        the background).
    layer : str, optional
        Layer of the feature map; None: the last one before the pooling, or before the last layer of a
        segmentation.
    mask : ndarray, optional
        Region of a segmentation, ``(B, X, Y, Z)``; None: where the network finds the class.

    Returns
    -------
    ndarray
        Shape ``(B, X, Y, Z)``, float32 in [0, 1].

    Raises
    ------
    InvalidOption
        If the backend has no gradients, or an argument does not fit the model.

    References
    ----------
    Selvaraju et al. (2017), https://doi.org/10.1109/ICCV.2017.74; over a region: Vinogradova et al. (2020),
    https://doi.org/10.1609/aaai.v34i10.7244.

    Examples
    --------
    >>> heat = grad_cam(model, batch, class_index=1)  # doctest: +SKIP
    """
    return grad_cam_parts(model, batch, class_index, layer, mask=mask).heat


def grad_cam_parts(
    model: Any,
    batch: np.ndarray,
    class_index: ClassIndex = None,
    layer: str | None = None,
    *,
    mask: np.ndarray | None = None,
) -> GradCam:
    """Make the Grad-CAM heat map of a class, and return its parts too; see `grad_cam`."""
    require_gradients()
    batch = check_batch(model, batch)
    layer = layer or default_layer(model)
    split = split_model(model, layer)
    found = class_map(split, compute_features(split, batch), class_index, mask)
    heat = [scale(resize_map(np.maximum(sample, 0), batch.shape[1:4])) for sample in found.raw]
    return GradCam(heat=np.stack(heat), layer=layer, **vars(found))


def class_map(
    split: Split, features: list[np.ndarray], class_index: ClassIndex, mask: np.ndarray | None
) -> ClassMap:
    """Weigh the channels of a feature map by their mean gradient; see `grad_cam` for the arguments."""
    weights, classes = weights_of(split, features, class_index, mask)
    scores, gradient = differentiate(split, features, weights)
    alpha = gradient.mean(axis=(1, 2, 3), dtype=np.float64)
    raw = np.einsum("bxyzc,bc->bxyz", features[0], alpha)
    return ClassMap(
        raw=raw.astype(np.float32), alpha=alpha.astype(np.float32), scores=scores, classes=classes
    )


def scale(heat: np.ndarray) -> np.ndarray:
    """Scale a map to [0, 1]; a constant one becomes 0."""
    low, high = float(heat.min()), float(heat.max())
    return (heat - low) / (high - low) if high > low else np.zeros_like(heat)
