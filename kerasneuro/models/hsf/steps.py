"""From a crop to what the network sees: standard scores, and zeros around it."""

from __future__ import annotations

import numpy as np

from kerasneuro.errors import InvalidImage
from kerasneuro.volume import Volume, crop_to_box

MULTIPLE = 8  # three halvings


def standardise(array: np.ndarray, name: str = "crop") -> np.ndarray:
    """Subtract the mean and divide by the sample standard deviation (N - 1) over all voxels.

    Parameters
    ----------
    array : ndarray (X, Y, Z)
        The crop.
    name : str
        What an error calls it.

    Returns
    -------
    ndarray (X, Y, Z)
        float32.

    Raises
    ------
    InvalidImage
        If all voxels are the same.
    """
    values = array.astype(np.float32)
    if values.size < 2 or values.min() == values.max():
        raise InvalidImage(
            f"the {name} has the value {values.flat[0]:g} in all its voxels, expected contrast; check where "
            "its box lies"
        )
    mean, deviation = values.mean(dtype=np.float64), values.std(ddof=1, dtype=np.float64)
    # Rounded at each step, as the original does.
    values -= np.float32(mean)
    values /= np.float32(deviation)
    return values


def pad_around(volume: Volume, multiple: int = MULTIPLE) -> tuple[Volume, tuple[int, int, int]]:
    """Add zeros until each axis is a multiple of `multiple`; of an odd number, the larger part in front.

    Returns
    -------
    Volume
        Each voxel keeps its place in the world.
    before : tuple of int
        Zeros in front of the first voxel of each axis.
    """
    more = [-n % multiple for n in volume.shape]
    x, y, z = ((-((extra + 1) // 2), n + extra // 2) for n, extra in zip(volume.shape, more, strict=True))
    return crop_to_box(volume, (x, y, z))[0], (-x[0], -y[0], -z[0])


def prepare(crop: Volume, name: str = "crop") -> tuple[Volume, tuple[int, int, int]]:
    """Standardise and pad a crop.

    Raises
    ------
    InvalidImage
        If the crop is constant, or so small that the network would divide 0 by 0.
    """
    if max(crop.shape) <= MULTIPLE:
        raise InvalidImage(
            f"the {name} has {crop.shape} voxels, expected more than {MULTIPLE} along some axis: the network "
            "computes a variance at an eighth of this size, of one voxel; use a larger box or margin"
        )
    return pad_around(crop.replace(array=standardise(crop.array, name)))
