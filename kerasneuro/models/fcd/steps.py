"""From a scan to what the FCD network sees: scale the intensities, resize, stack (model card's script)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kerasneuro.errors import InvalidOption

SHAPE = (128, 128, 128)
PERCENTILES = (1, 99)
SMALLEST_RANGE = 1e-8
EDGES = ("constant", "nearest")


def scale_intensity(array: np.ndarray) -> np.ndarray:
    """Scale the 1st and the 99th percentile of the positive voxels to 0 and 1.

    The whole array is clipped to the two percentiles, so the background becomes 0.

    Parameters
    ----------
    array : ndarray (X, Y, Z)
        Float32.

    Returns
    -------
    ndarray (X, Y, Z)
        Float32 in [0, 1]; zeros if all voxels are equal, the array itself if no voxel is positive.
    """
    if array.max() == array.min():
        return np.zeros(array.shape, np.float32)
    positive = array[array > 0]
    if not positive.size:
        return array
    low, high = (float(np.percentile(positive, rank)) for rank in PERCENTILES)
    clipped = np.clip(array.astype(np.float64), low, high)
    least, most = clipped.min(), clipped.max()
    return ((clipped - least) / (most - least + SMALLEST_RANGE)).astype(np.float32)


def resize(array: np.ndarray, shape: Sequence[int], edge: str = "constant") -> np.ndarray:
    """Resize linearly, the centres of the first and of the last voxels kept in place, by SciPy's zoom.

    Parameters
    ----------
    array : ndarray (X, Y, Z)
        Float32.
    shape : sequence of int
        New shape.
    edge : {"constant", "nearest"}
        ``constant`` is the original: for some pairs of lengths (16 to 160, 50 to 96; never to 64 or 128)
        rounding puts the last plane a hair outside of the scan, where all is 0. ``nearest`` avoids this.

    Returns
    -------
    ndarray (*shape)
        Float32.
    """
    from scipy.ndimage import zoom

    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    resized = zoom(array, factors, order=1, mode="nearest" if edge == "nearest" else "constant")
    return np.asarray(resized, np.float32)


def prepare(arrays: Sequence[np.ndarray], shape: Sequence[int] = SHAPE, edge: str = "constant") -> np.ndarray:
    """Make the batch of one person from its images.

    Parameters
    ----------
    arrays : sequence of ndarray (X, Y, Z)
        Float32: T1w, then FLAIR, or the only one; axes as stored, no reorientation.
    shape : sequence of int
        Spatial shape of the batch.
    edge : {"constant", "nearest"}
        See `resize`.

    Returns
    -------
    ndarray (1, *shape, len(arrays))
        Float32 in [0, 1].

    Raises
    ------
    InvalidOption
        If the shape or the edge is not allowed.
    """
    if len(shape) != 3 or any(int(size) != size or size < 1 for size in shape):
        raise InvalidOption(f"shape must be three whole numbers of at least 1, found {tuple(shape)}")
    if edge not in EDGES:
        raise InvalidOption(f"edge must be one of {', '.join(EDGES)}; got {edge!r}")
    channels = [resize(scale_intensity(np.asarray(array, np.float32)), shape, edge) for array in arrays]
    return np.stack(channels, axis=-1)[np.newaxis]
