"""The transforms that Nobrainer trains with: of voxels, and at random of voxels with their classes.

Source: neuronets/nobrainer 1.2.1, ``nobrainer/intensity_transforms.py``, ``spatial_transforms.py`` and
``transform.py``. Its centre crop and constant padding are `kerasneuro.volume.crop_or_pad_centred` and
`kerasneuro.volume.cut`. The random ones are for `PatchDataset` and `Chain`.
"""

from __future__ import annotations

import math

import numpy as np

from kerasneuro.training.scans.cutting import Changed
from kerasneuro.volume.warp import rotation_matrix, warp_affine

FARTHEST = 0.05  # shift, as a fraction of the first axis
NOISE = 0.1


def min_max(image: np.ndarray) -> np.ndarray:
    """Scale to [0, 1]: ``(x - min) / (max - min + 1e-8)``, float32."""
    image = np.asarray(image, np.float32)
    low, high = image.min(), image.max()
    return (image - low) / (high - low + np.float32(1e-8))


def scale_between(image: np.ndarray, low: float = 0.0, high: float = 100.0) -> np.ndarray:
    """Scale to [low, high]: `min_max`, stretched; float32."""
    return min_max(image) * np.float32(high - low) + np.float32(low)


def mask_image(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Multiply by a mask of the same shape; float32."""
    return np.asarray(image, np.float32) * np.asarray(mask, np.float32)


def adjust_contrast(image: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """Raise to a power between the extremes: ``((x - min) / (max - min + 1e-7))^g (max - min) + min``."""
    image = np.asarray(image, np.float32)
    low = image.min()
    span = image.max() - low
    return ((image - low) / (span + np.float32(1e-7))) ** np.float32(gamma) * span + low


def gaussian_noise(image: np.ndarray, classes: np.ndarray, generator: np.random.Generator) -> Changed:
    """Add noise of mean 0 and standard deviation 0.1 to an image ``(X, Y, Z, C)``; classes are kept."""
    noise = generator.standard_normal(image.shape, dtype=np.float32) * np.float32(NOISE)
    return image + noise, classes


def random_mirror(image: np.ndarray, classes: np.ndarray, generator: np.random.Generator) -> Changed:
    """Mirror image and classes along one axis of three, drawn at random."""
    axis = int(generator.integers(3))
    return np.flip(image, axis), np.flip(classes, axis)


def random_rigid(image: np.ndarray, classes: np.ndarray, generator: np.random.Generator) -> Changed:
    """Turn by any angle about each axis, and shift by up to 5 % of the first axis, as brainy was trained.

    Parameters
    ----------
    image : numpy.ndarray
        Shape ``(X, Y, Z, C)``, float32; linear, the border repeats.
    classes : numpy.ndarray
        Class indices ``(X, Y, Z)``; nearest neighbour, 0 comes in from outside.
    generator : numpy.random.Generator
        Where angles and shifts are drawn from.

    Returns
    -------
    image, classes : numpy.ndarray
        Same shapes and types.
    """
    far = FARTHEST * classes.shape[0]
    angles, shift = generator.uniform(-math.pi, math.pi, 3), generator.uniform(-far, far, 3)
    matrix = rotation_matrix(classes.shape, angles.tolist(), shift.tolist())
    turned = [warp_affine(np.asarray(channel, np.float32), matrix) for channel in np.moveaxis(image, -1, 0)]
    labels = warp_affine(classes.astype(np.float32), matrix, "nearest").astype(classes.dtype)
    return np.stack(turned, axis=-1), labels
