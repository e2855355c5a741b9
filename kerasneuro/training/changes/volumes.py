"""Random changes of training data in NumPy; every draw comes from a generator given by the caller."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BIAS_ORDER = 3  # of the polynomial that makes a smooth factor


def shift(array: np.ndarray, offsets: np.ndarray, pad: int) -> np.ndarray:
    """Pad images by their edge values and crop each back to its size at an offset of its own.

    Parameters
    ----------
    array : numpy.ndarray
        Shape ``(B, H, W)`` or ``(B, H, W, C)``.
    offsets : numpy.ndarray
        Shape ``(B, 2)``, int: first row and first column of each crop in the padded image, 0 ... 2 * pad;
        `pad` leaves the image as it is.
    pad : int
        Pixels added on each side.

    Returns
    -------
    numpy.ndarray
        Same shape and dtype; a new array.
    """
    _, height, width = array.shape[:3]
    result = np.empty_like(array)
    for index, (top, left) in enumerate(offsets - pad):
        rows = np.clip(np.arange(height) + top, 0, height - 1)
        columns = np.clip(np.arange(width) + left, 0, width - 1)
        result[index] = array[index][rows[:, None], columns]
    return result


def random_shift(
    arrays: Sequence[np.ndarray], generator: np.random.Generator, pad: int = 8
) -> tuple[np.ndarray, ...]:
    """Shift the images of a batch at random, and what belongs to them alike.

    The offsets are uniform in 0 ... 2 * pad - 1 of the padded image: the upper bound is left out, as in the
    original, so the shifts run from -pad to pad - 1 pixels.

    Source: Deep-MI/FastSurfer@070647d, ``FastSurferCNN/data_loader/augmentation.py``.

    Parameters
    ----------
    arrays : sequence of numpy.ndarray
        Images, labels, weights ...: each of shape ``(B, H, W)`` or ``(B, H, W, C)``.
    generator : numpy.random.Generator
        Where the offsets are drawn from.
    pad : int
        Largest shift, in pixels; 0 changes nothing.

    Returns
    -------
    tuple of numpy.ndarray
        Same shapes and dtypes.
    """
    if not pad:
        return tuple(arrays)
    offsets = generator.integers(0, 2 * pad, size=(len(arrays[0]), 2))
    return tuple(shift(array, offsets, pad) for array in arrays)


def random_flip(arrays: Sequence[np.ndarray], generator: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Flip images along the same axes, of which there may be none, or all.

    Not for maps that tell left from right. As in voxelmorph/voxelmorph@ca28315, ``voxelmorph/generators.py``.

    Parameters
    ----------
    arrays : sequence of numpy.ndarray
        Images, labels ...: of one shape ``(X, Y, Z)``, or any number of axes.
    generator : numpy.random.Generator
        Where the axes are drawn from.

    Returns
    -------
    tuple of numpy.ndarray
        Same shapes and dtypes; views.
    """
    rank = arrays[0].ndim
    axes = generator.permutation(rank)[: generator.integers(rank + 1)]
    return tuple(np.flip(array, axes.tolist()) for array in arrays)


def flip(volume: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Mirror a volume ``(X, Y, Z, C)`` along some of its axes."""
    return np.flip(volume, tuple(axes)) if len(axes) else volume


def affine(volume: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Turn, scale and shift a volume about its centre, all channels alike.

    Parameters
    ----------
    volume : numpy.ndarray
        Shape ``(X, Y, Z, C)``, float32.
    matrix : numpy.ndarray
        Shape ``(3, 3)``: from places in the result to places in `volume`, relative to the centre.
    offset : numpy.ndarray
        Shape ``(3,)``, in voxels.

    Returns
    -------
    numpy.ndarray
        Same shape, float32; outside of `volume` its nearest voxel is taken.
    """
    from scipy import ndimage

    centre = (np.array(volume.shape[:3]) - 1) / 2
    start = centre - matrix @ centre + offset
    channels = [
        ndimage.affine_transform(volume[..., channel], matrix, start, order=1, mode="nearest")
        for channel in range(volume.shape[-1])
    ]
    return np.stack(channels, axis=-1)


def random_affine(
    volume: np.ndarray, generator: np.random.Generator, rotation: float, scale: float, shift: float
) -> np.ndarray:
    """Turn by up to `rotation` degrees about each axis, scale and shift by up to a fraction, at random."""
    matrix = random_matrix(generator, rotation, scale)
    return affine(volume, matrix, generator.uniform(-shift, shift, 3) * volume.shape[:3])


def random_matrix(generator: np.random.Generator, rotation: float, scale: float) -> np.ndarray:
    """Draw a matrix ``(3, 3)`` of turns by up to `rotation` degrees about each axis, and of other sizes."""
    angles = np.deg2rad(generator.uniform(-rotation, rotation, 3))
    factors = 1 + generator.uniform(-scale, scale, 3)
    matrix = np.diag(factors)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        first, second = (other for other in range(3) if other != axis)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def bias_field(shape: Sequence[int], coefficients: np.ndarray) -> np.ndarray:
    """Return a smooth positive factor, the exponential of a polynomial over the volume.

    Parameters
    ----------
    shape : sequence of int
        ``(X, Y, Z)``.
    coefficients : numpy.ndarray
        Shape ``(4, 4, 4)``; those of a total order above 3 are not used.

    Returns
    -------
    numpy.ndarray
        Shape `shape`, float32.
    """
    orders = np.indices(coefficients.shape).sum(axis=0)
    used = np.where(orders <= BIAS_ORDER, coefficients, 0.0)
    x, y, z = (np.linspace(-1, 1, length)[:, None] ** np.arange(BIAS_ORDER + 1) for length in shape)
    return np.exp(np.einsum("abc,xa,yb,zc->xyz", used, x, y, z, optimize=True)).astype(np.float32)


def gamma(volume: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Raise the intensities of each channel to a power, between that channel's extremes.

    Parameters
    ----------
    volume : numpy.ndarray
        Shape ``(X, Y, Z, C)``, float32.
    exponents : numpy.ndarray
        Shape ``(C,)``, positive; 1 changes nothing.

    Returns
    -------
    numpy.ndarray
        Same shape, float32, with the same extremes.
    """
    low = volume.min(axis=(0, 1, 2))
    span = np.maximum(volume.max(axis=(0, 1, 2)) - low, np.finfo(np.float32).tiny)
    return (((volume - low) / span) ** exponents * span + low).astype(np.float32)


def random_intensity(
    volume: np.ndarray, generator: np.random.Generator, noise: float, gamma_log: float, bias: float
) -> np.ndarray:
    """Change the intensities of each channel by a power, a smooth factor and noise, drawn up to the bounds.

    Parameters
    ----------
    volume : numpy.ndarray
        Shape ``(X, Y, Z, C)``, float32.
    generator : numpy.random.Generator
        Where the draws come from.
    noise : float
        Largest standard deviation of Gaussian noise.
    gamma_log, bias : float
        Largest logarithm of the exponent, and of the coefficients of the smooth factor.

    Returns
    -------
    numpy.ndarray
        Same shape, float32.
    """
    channels = volume.shape[-1]
    if gamma_log:
        volume = gamma(volume, np.exp(generator.uniform(-gamma_log, gamma_log, channels)))
    if bias:
        draws = generator.uniform(-bias, bias, (channels, *[BIAS_ORDER + 1] * 3))
        volume = volume * np.stack([bias_field(volume.shape[:3], draw) for draw in draws], axis=-1)
    if noise:
        spread = np.float32(generator.uniform(0, noise))
        volume = volume + spread * generator.standard_normal(volume.shape, dtype=np.float32)
    return volume
