"""Random changes of labelled patches, in NumPy and SciPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.training.changes.noise import smooth_noise
from kerasneuro.training.changes.patch_warp import PatchWarp
from kerasneuro.training.changes.sharpness import apply_along_axes, blur_matrix, coarse_matrix
from kerasneuro.training.changes.volumes import BIAS_ORDER, bias_field, gamma, random_matrix
from kerasneuro.training.config import option
from kerasneuro.training.scans.cutting import Changed


@dataclass(frozen=True)
class Augmentation:
    """Random changes, each with its probability; the image and its classes are moved alike.

    Flip, affine and elastic are one interpolation, linear for the image and nearest for the classes, out of
    the whole scan, so that a patch keeps its size and shows no border. The intensities follow in the order
    of the attributes. Every draw comes from the generator that is handed in. A probability of 0 switches a
    change off.

    Attributes
    ----------
    flip : float
        Probability of a mirror image along each of `flip_axes`.
    flip_axes : tuple of int
        None by default, since labels may tell left from right; (0,) mirrors the sides of a RAS+ scan.
    affine, rotation, scale, shift : float
        Probability; largest angle about each axis in degrees, relative change of size, shift as a fraction
        of the patch.
    elastic, elastic_spacing, elastic_size : float
        Probability; voxels from one random displacement to the next, their standard deviation in voxels.
    resolution, thickness : float
        Probability; most voxels that become one, along one axis.
    blur, blur_size : float
        Probability; largest standard deviation of a Gaussian in voxels, drawn for each axis.
    bias_field, bias_size : float
        Probability; largest coefficient of the logarithm of a smooth factor.
    contrast, contrast_size : float
        Probability; largest relative change of the distance from the mean.
    gamma, gamma_log : float
        Probability; largest logarithm of the exponent.
    noise, noise_size : float
        Probability; largest standard deviation, in standard deviations of the patch.

    Raises
    ------
    InvalidOption
        If a number lies outside its range.

    Examples
    --------
    >>> change = Augmentation(flip_axes=(0,), elastic=0)
    >>> image, classes = np.zeros((8, 8, 8, 1), np.float32), np.zeros((8, 8, 8), np.uint8)
    >>> moved, labels = change(image, classes, np.random.default_rng(1))
    >>> moved.shape, labels.shape
    ((8, 8, 8, 1), (8, 8, 8))
    """

    flip: float = option(0.5, "probability of a mirror image along each of flip_axes", least=0, most=1)
    flip_axes: tuple[int, ...] = option((), "axes of the prepared scan, such as 0", least=0, most=2)
    affine: float = option(0.3, "probability of a rotation, scaling and shift", least=0, most=1)
    rotation: float = option(15.0, "largest angle about each axis in degrees", least=0, most=180)
    scale: float = option(0.1, "largest relative change of size", least=0, most=0.9)
    shift: float = option(0.05, "largest shift as a fraction of the patch", least=0, most=1)
    elastic: float = option(0.1, "probability of a smooth random displacement", least=0, most=1)
    elastic_spacing: float = option(16.0, "voxels from one random displacement to the next", least=2)
    elastic_size: float = option(2.0, "standard deviation of the displacements in voxels", least=0)
    resolution: float = option(0.1, "probability of thick slices along one axis", least=0, most=1)
    thickness: float = option(3.0, "largest thickness of the slices in voxels", least=1)
    blur: float = option(0.1, "probability of a Gaussian blur", least=0, most=1)
    blur_size: float = option(1.0, "largest standard deviation of the blur in voxels", least=0)
    bias_field: float = option(0.2, "probability of a smooth factor over the patch", least=0, most=1)
    bias_size: float = option(0.2, "largest coefficient of the logarithm of that factor", least=0)
    contrast: float = option(0.2, "probability of another contrast", least=0, most=1)
    contrast_size: float = option(0.25, "largest relative change of the contrast", least=0, most=0.99)
    gamma: float = option(0.2, "probability of an exponent of the intensities", least=0, most=1)
    gamma_log: float = option(0.3, "largest logarithm of the exponent", least=0)
    noise: float = option(0.2, "probability of Gaussian noise", least=0, most=1)
    noise_size: float = option(0.1, "its largest deviation in standard deviations of the patch", least=0)

    def __post_init__(self) -> None:
        for name, field in self.__dataclass_fields__.items():
            least, most = field.metadata["least"], field.metadata["most"]
            value = getattr(self, name)
            values = value if isinstance(value, (tuple, list)) else (value,)
            if not all(least <= each and (most is None or each <= most) for each in values):
                raise InvalidOption(
                    f"augmentation: {name} is {field.metadata['help']}, from {least} to "
                    f"{'any size' if most is None else most}; found {value}"
                )

    def __call__(self, image: np.ndarray, classes: np.ndarray, generator: np.random.Generator) -> Changed:
        """Change an image ``(X, Y, Z, C)`` and its classes ``(X, Y, Z)``; zeros come in from outside."""
        return self.patch(image, classes, (0, 0, 0), classes.shape, generator)

    def patch(
        self,
        image: np.ndarray,
        classes: np.ndarray,
        start: Sequence[int],
        shape: Sequence[int],
        generator: np.random.Generator,
    ) -> Changed:
        """Take a changed patch out of a whole scan.

        Parameters
        ----------
        image : numpy.ndarray
            Shape ``(X, Y, Z, C)``, float32.
        classes : numpy.ndarray
            Class indices ``(X, Y, Z)``.
        start, shape : sequence of int
            First voxel and size of the patch.
        generator : numpy.random.Generator
            Where all is drawn from.

        Returns
        -------
        image : numpy.ndarray
            Shape ``(*shape, C)``, float32.
        classes : numpy.ndarray
            Shape `shape`, type of `classes`.
        """
        patch, labels = self.warp(shape, generator).apply(image, classes, start, shape)
        return self.intensities(patch, generator), labels

    def warp(self, shape: Sequence[int], generator: np.random.Generator) -> PatchWarp:
        """Draw how a patch of `shape` is moved."""
        mirrored = tuple(axis for axis in self.flip_axes if generator.random() < self.flip)
        matrix = offset = displacement = None
        if generator.random() < self.affine:
            matrix = random_matrix(generator, self.rotation, self.scale)
            offset = generator.uniform(-self.shift, self.shift, 3) * shape
        if generator.random() < self.elastic:
            displacement = smooth_noise(shape, (self.elastic_spacing,), (self.elastic_size,), generator, 3)
        return PatchWarp(matrix, offset, displacement, mirrored)

    def intensities(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Change the intensities of a patch ``(X, Y, Z, C)``; a new array where anything is changed."""
        shape, channels = image.shape[:3], image.shape[-1]
        image = self._lose_detail(image, generator)
        if generator.random() < self.bias_field:
            draws = generator.uniform(-self.bias_size, self.bias_size, (channels, *[BIAS_ORDER + 1] * 3))
            image = image * np.stack([bias_field(shape, draw) for draw in draws], axis=-1)
        if generator.random() < self.contrast:
            change = np.asarray(generator.uniform(-self.contrast_size, self.contrast_size, channels))
            mean = image.mean(axis=(0, 1, 2))
            image = image + (image - mean) * change.astype(np.float32)
        if generator.random() < self.gamma:
            exponents = np.exp(generator.uniform(-self.gamma_log, self.gamma_log, channels))
            image = gamma(image, exponents.astype(np.float32))
        if generator.random() < self.noise:
            spread = image.std(axis=(0, 1, 2)) * np.float32(generator.uniform(0, self.noise_size))
            image = image + spread * generator.standard_normal(image.shape, dtype=np.float32)
        return np.ascontiguousarray(image, np.float32)

    def _lose_detail(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Draw thick slices and blur, and apply both at once."""
        shape = image.shape[:3]
        matrices: list[np.ndarray | None] = [None] * 3
        if generator.random() < self.resolution:
            axis = int(generator.integers(3))
            matrices[axis] = coarse_matrix(shape[axis], generator.uniform(1, self.thickness))
        if generator.random() < self.blur:
            for axis, deviation in enumerate(generator.uniform(0, self.blur_size, 3)):
                blur = blur_matrix(shape[axis], deviation)
                coarse = matrices[axis]
                matrices[axis] = blur if coarse is None else coarse @ blur
        return apply_along_axes(image, matrices)
