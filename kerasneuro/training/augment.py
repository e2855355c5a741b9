"""Random changes of training data in NumPy; every draw comes from a generator given by the caller."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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
