"""Images of random contrast made from label maps: the generative model of SynthMorph, in NumPy.

Sources: M. Hoffmann et al. (2022), doi:10.1109/TMI.2021.3116879, with field of view and thick slices from
M. Hoffmann et al. (2023), doi:10.1117/12.2653251; adalca/neurite@7c4b05e, ``neurite/tf/models.py``
(`labels_to_image`, `labels_to_image_new`). The draws come from NumPy's generators, so they are not those of
the original for the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.training.changes.noise import random_displacement, smooth_noise, warp_labels

BRIGHTEST = 255.0
# Grid that the settings of the article belong to: its shortest axis, in voxels.
ARTICLE_SIZE = 160


@dataclass(frozen=True)
class SynthesisSettings:
    """Ranges of the random changes; 0 switches one off. The defaults are those of the shapes model.

    Attributes
    ----------
    warp_scales, warp_deviation
        Voxels between random velocities, and their largest standard deviation (voxels of the half grid).
    crop, crop_probability : float
        Largest part of one axis that lies outside the field of view (label 0), and how often any does.
    mean, spread : tuple of float
        Range of the mean intensity of a label, and of the standard deviation inside it, on a scale of 255.
    zero_background : float
        How often label 0 is exactly 0.
    blur : float
        Largest standard deviation of the Gaussian blur, in voxels; drawn for each axis.
    bias_scales, bias_deviation
        Voxels between random values of the bias field, and their largest standard deviation (of the log).
    thickness, thickness_probability : float
        Largest thickness of the slices across one axis, in voxels, and how often they are thicker than 1.
    gamma : float
        Standard deviation of the logarithm of the exponent applied to the image.
    """

    warp_scales: tuple[float, ...] = (8, 16, 32)
    warp_deviation: float = 3.0
    crop: float = 0.2
    crop_probability: float = 0.0
    mean: tuple[float, float] = (25, 225)
    spread: tuple[float, float] = (5, 25)
    zero_background: float = 0.2
    blur: float = 1.0
    bias_scales: tuple[float, ...] = (40,)
    bias_deviation: float = 0.3
    thickness: float = 8.0
    thickness_probability: float = 0.0
    gamma: float = 0.25

    def __post_init__(self) -> None:
        chances = (self.crop, self.crop_probability, self.zero_background, self.thickness_probability)
        sizes = (self.warp_deviation, *self.mean, *self.spread, self.blur, self.bias_deviation, self.gamma)
        rising = self.mean[0] <= self.mean[1] and self.spread[0] <= self.spread[1]
        steps = (self.thickness, *self.warp_scales, *self.bias_scales)
        if not (min(sizes) >= 0 and min(steps) >= 1 and rising and all(0 <= part <= 1 for part in chances)):
            raise InvalidOption(
                "settings of the synthesis are not negative, ranges rise, scales and thickness are at least "
                f"1 voxel, parts and probabilities lie in [0, 1]; found {self}"
            )

    def fitted(self, shape: Sequence[int]) -> SynthesisSettings:
        """Return the settings for images of another size: warps and bias fields shrink in proportion."""
        factor = min(shape) / ARTICLE_SIZE
        return replace(
            self,
            warp_scales=tuple(max(2.0, scale * factor) for scale in self.warp_scales),
            warp_deviation=self.warp_deviation * factor,
            bias_scales=tuple(max(1.0, scale * factor) for scale in self.bias_scales),
        )


def synthesise(
    labels: np.ndarray, generator: np.random.Generator, settings: SynthesisSettings | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Warp a label map at random, and make an image of random contrast from it.

    In this order: warp (nearest label), field of view; then the intensities of the labels, blur, bias field,
    thick slices, scaling to [0, 1], gamma.

    Parameters
    ----------
    labels : numpy.ndarray
        Shape ``(X, Y, Z)`` or ``(X, Y)``, whole numbers of at least 0; 0 is the background.
    generator : numpy.random.Generator
        Where all is drawn from.
    settings : SynthesisSettings, optional
        By default those of the shapes model.

    Returns
    -------
    image : numpy.ndarray
        Shape of `labels`, float32, from 0 to 1.
    labels : numpy.ndarray
        Labels of the image, same shape and dtype.

    Raises
    ------
    InvalidImage
        If `labels` is no label map of 2 or 3 axes.

    Examples
    --------
    >>> import numpy as np
    >>> from kerasneuro.training.registration.shapes import random_shapes
    >>> generator = np.random.default_rng(1)
    >>> image, labels = synthesise(random_shapes((32, 32), generator), generator)
    >>> image.dtype.name, float(image.min()), float(image.max())
    ('float32', 0.0, 1.0)
    """
    settings = settings or SynthesisSettings()
    labels = np.asarray(labels)
    if labels.ndim not in (2, 3) or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise InvalidImage(
            "a label map has 2 or 3 axes and whole numbers of at least 0, found "
            f"shape {labels.shape}, {labels.dtype}, smallest {labels.min(initial=0)}"
        )
    if settings.warp_deviation:
        move = random_displacement(labels.shape, settings.warp_scales, settings.warp_deviation, generator)
        labels = warp_labels(labels, move)
    if generator.random() < settings.crop_probability:
        labels = crop(labels, generator.uniform(0, settings.crop), generator)
    image = random_contrast(labels, generator, settings)
    if settings.blur:
        image = ndimage.gaussian_filter(
            image, generator.uniform(0, settings.blur, labels.ndim), mode="constant"
        )
    if settings.bias_deviation:
        deviations = generator.uniform(0, settings.bias_deviation, len(settings.bias_scales))
        image = image * np.exp(
            smooth_noise(labels.shape, settings.bias_scales, deviations, generator)[..., 0]
        )
    image = np.clip(image, 0, BRIGHTEST)
    if generator.random() < settings.thickness_probability:
        axis = int(generator.integers(labels.ndim))
        image = thick_slices(image, axis, generator.uniform(1, settings.thickness))
    image = scale_to_unit(image)
    if settings.gamma:
        image = image ** np.float32(np.exp(generator.normal(0, settings.gamma)))
    return image, labels


def random_contrast(
    labels: np.ndarray, generator: np.random.Generator, settings: SynthesisSettings
) -> np.ndarray:
    """Draw normal intensities with a mean and a standard deviation of each label.

    The background's mean reaches down to 0 and so does its standard deviation; with the probability
    `zero_background` it is 0.

    Parameters
    ----------
    labels : numpy.ndarray
        Whole numbers of at least 0.
    generator : numpy.random.Generator
        Where all is drawn from.
    settings : SynthesisSettings
        Ranges of the draws.

    Returns
    -------
    numpy.ndarray
        Shape of `labels`, float32, on a scale of 255, not clipped.
    """
    present, places = np.unique(labels, return_inverse=True)
    lowest = np.where(present == 0, 0, settings.mean[0])
    tightest = np.where(present == 0, 0, settings.spread[0])
    means = generator.uniform(lowest, settings.mean[1]).astype(np.float32)
    spreads = generator.uniform(tightest, settings.spread[1]).astype(np.float32)
    places = places.reshape(labels.shape)
    image = means[places] + spreads[places] * generator.standard_normal(labels.shape, dtype=np.float32)
    if generator.random() < settings.zero_background:
        image[labels == 0] = 0
    return image


def crop(array: np.ndarray, part: float, generator: np.random.Generator) -> np.ndarray:
    """Set what lies outside a smaller field of view to 0: a part of one axis, drawn with its two ends.

    Parameters
    ----------
    array : numpy.ndarray
        Label map or image.
    part : float
        Of the axis that is taken away, 0 to 1, shared between its two ends at random.
    generator : numpy.random.Generator
        Where the axis and the share are drawn from.

    Returns
    -------
    numpy.ndarray
        Same shape and dtype; a new array.
    """
    axis = int(generator.integers(array.ndim))
    size = array.shape[axis]
    first = generator.random() * part * size
    kept = (np.arange(size) >= first) & (np.arange(size) < first + (1 - part) * size)
    return array * np.expand_dims(kept, [other for other in range(array.ndim) if other != axis])


def thick_slices(image: np.ndarray, axis: int, thickness: float) -> np.ndarray:
    """Lower the resolution along an axis: keep every n-th slice, and fill in with the nearest one.

    Parameters
    ----------
    image : numpy.ndarray
    axis : int
        Axis across the slices.
    thickness : float
        Voxels of a slice, at least 1.

    Returns
    -------
    numpy.ndarray
        Same shape and dtype.
    """
    size = image.shape[axis]
    count = max(1, int(size / thickness + 0.5))
    kept = (np.linspace(0, size - 1, count) + 0.5).astype(int)
    nearest = (np.linspace(0, count - 1, size) + 0.5).astype(int)
    return np.take(image, kept[nearest], axis=axis)


def scale_to_unit(image: np.ndarray) -> np.ndarray:
    """Scale an image linearly to [0, 1]; a constant one becomes 0.

    Parameters
    ----------
    image : numpy.ndarray

    Returns
    -------
    numpy.ndarray
        Same shape, float32.
    """
    image = image.astype(np.float32)
    low, high = image.min(), image.max()
    return np.zeros_like(image) if high == low else (image - low) / (high - low)
