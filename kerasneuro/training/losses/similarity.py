"""Losses that compare a warped image or its warped labels with the fixed one; one value for each pair.

Source: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/losses.py``; G. Balakrishnan et al. (2019),
doi:10.1109/TMI.2019.2897538. Every function returns a value for each item of the batch, so that
`sample_weight` weighs pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kerasneuro.errors import InvalidOption

WINDOW = 9
EPSILON = 1e-5


def local_correlation(
    fixed: Any, moved: Any, window: int | Sequence[int] = WINDOW, epsilon: float = EPSILON
) -> Any:
    """Compute the squared normalised correlation of two images in a window about each voxel.

    Covariance and variances are sums over the window (zeros outside the image, divided by the full window)
    and over the channels; each is at least `epsilon`, so a flat or an anticorrelated window counts as
    ``epsilon**2`` by the variances, not as a match.

    Source: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/losses.py`` (`NCC`); B. B. Avants et al. (2008),
    doi:10.1016/j.media.2007.06.004.

    Parameters
    ----------
    fixed, moved : tensor (B, X, Y, Z, C) or (B, X, Y, C)
        Images, best in [0, 1]: `epsilon` is absolute.
    window : int or sequence of int
        Voxels along each axis.
    epsilon : float
        Least covariance and variance.

    Returns
    -------
    tensor (B, X, Y, Z)
        From 0 to 1, float32.

    Raises
    ------
    InvalidOption
        If the window does not fit the number of axes.
    """
    fixed, moved = ops.cast(fixed, "float32"), ops.cast(moved, "float32")
    widths = _widths(window, len(fixed.shape) - 2)
    count = math.prod(widths) * fixed.shape[-1]
    parts = (fixed, moved, fixed * moved, fixed * fixed, moved * moved)
    sums = window_sum(ops.stack([ops.sum(part, axis=-1) for part in parts], axis=-1), widths)
    total_fixed, total_moved, cross, fixed_square, moved_square = (sums[..., part] for part in range(5))
    covariance = ops.maximum(cross - total_fixed * total_moved / count, epsilon)
    fixed_variance = ops.maximum(fixed_square - total_fixed * total_fixed / count, epsilon)
    moved_variance = ops.maximum(moved_square - total_moved * total_moved / count, epsilon)
    return (covariance / fixed_variance) * (covariance / moved_variance)


def window_sum(maps: Any, widths: Sequence[int]) -> Any:
    """Sum maps ``(B, X, Y, Z, C)`` over a window about each voxel, with zeros outside.

    Parameters
    ----------
    maps : tensor
    widths : sequence of int
        Voxels of the window along each axis; of an even number, one more lies after the voxel.

    Returns
    -------
    tensor
        Same shape.
    """
    for axis, width in enumerate(widths, start=1):
        padding = [(0, 0)] * len(maps.shape)
        padding[axis] = ((width - 1) // 2, width // 2)
        padded = ops.pad(maps, padding)
        before = (slice(None),) * axis
        maps = padded[(*before, slice(0, 1 - width or None))]
        for start in range(1, width):
            maps = maps + padded[(*before, slice(start, start + 1 - width or None))]
    return maps


def _widths(window: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """Return the width of a window along each axis, refused if it is none."""
    widths = (window,) * rank if isinstance(window, int) else tuple(window)
    if len(widths) != rank or min(widths) < 1:
        raise InvalidOption(
            f"a window has one width of at least 1 for each of the {rank} axes, found {window!r}"
        )
    return widths


def _mean(values: Any) -> Any:
    """Average ``(B, ...)`` over all but the batch."""
    return ops.mean(values, axis=tuple(range(1, len(values.shape))))


def label_dice(fixed: Any, moved: Any) -> Any:
    """Compute the Dice coefficient of each label of each pair.

    Parameters
    ----------
    fixed, moved : tensor (B, X, Y, Z, L)
        One-hot or soft labels, not negative.

    Returns
    -------
    tensor (B, L)
        From 0 to 1; 0 for a label that neither of the two has.
    """
    fixed, moved = ops.cast(fixed, "float32"), ops.cast(moved, "float32")
    space = tuple(range(1, len(fixed.shape) - 1))
    whole = ops.sum(fixed + moved, axis=space)
    # Divided by 1 where both are empty: the gradient of 0 / 0 would be NaN.
    return 2 * ops.sum(fixed * moved, axis=space) / ops.where(whole > 0, whole, ops.ones_like(whole))


@keras.saving.register_keras_serializable(package="kerasneuro")
class LocalNCC(keras.losses.Loss):
    """Minus the mean of `local_correlation`: from -1 (a linear relation in every window) to 0.

    Parameters
    ----------
    window, epsilon
        As in `local_correlation`.
    name : str
        Shown in logs.

    Examples
    --------
    >>> from kerasneuro.training.losses.similarity import LocalNCC
    >>> loss = LocalNCC(window=5)
    >>> # network.compile(loss=[loss, FieldGradient("l2")]); fit on ((moving, fixed), (fixed, zeros))
    """

    def __init__(
        self,
        window: int | Sequence[int] = WINDOW,
        epsilon: float = EPSILON,
        name: str = "local_ncc",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.window = window if isinstance(window, int) else list(window)
        self.epsilon = epsilon

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each pair (B,): the fixed image, then the moved one."""
        return -_mean(local_correlation(y_true, y_pred, self.window, self.epsilon))

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        return {**super().get_config(), "window": self.window, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="kerasneuro")
class ImageMSE(keras.losses.Loss):
    """Mean squared difference of two images, divided by the variance of their noise.

    Source: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/losses.py`` (`MSE`).

    Parameters
    ----------
    image_sigma : float
        Standard deviation of the noise, in units of the images.
    name : str
        Shown in logs.

    Raises
    ------
    InvalidOption
        If `image_sigma` is not above 0.
    """

    def __init__(self, image_sigma: float = 1.0, name: str = "image_mse", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        if not image_sigma > 0:
            raise InvalidOption(f"image_sigma is a number above 0, found {image_sigma}")
        self.image_sigma = image_sigma

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each pair (B,)."""
        return _mean(ops.square(y_true - y_pred)) / self.image_sigma**2

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        return {**super().get_config(), "image_sigma": self.image_sigma}


@keras.saving.register_keras_serializable(package="kerasneuro")
class LabelDice(keras.losses.Loss):
    """One minus the mean of `label_dice` over the labels, for label maps that were warped one-hot.

    A label that neither map has counts as missed, as in the original, which returns minus the mean and adds
    the 1 in its training script (voxelmorph/voxelmorph@ca28315, ``scripts/tf/train_synthmorph.py``).

    Parameters
    ----------
    name : str
        Shown in logs.

    References
    ----------
    M. Hoffmann et al. (2022), doi:10.1109/TMI.2021.3116879.
    """

    def __init__(self, name: str = "label_dice", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each pair (B,): labels of the fixed image, then the moved ones."""
        return 1 - _mean(label_dice(y_true, y_pred))
