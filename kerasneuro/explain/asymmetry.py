"""Asymmetry: how much brighter a voxel is than its mirror image on the other side of the head."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.volume import Volume, load, to_axcodes, to_image
from kerasneuro.volume.image import Image

PART_OF_BRIGHT = 1e-3  # epsilon as a part of a bright voxel, so that empty background gives 0
BRIGHT_PERCENTILE = 99.0


def asymmetry_map(
    image: Image | Volume, *, midline: str | float = "head", epsilon: float | None = None
) -> Any:
    """Compare each voxel with its mirror image across the mid-sagittal plane.

    ``2 (I - M) / (I + M + epsilon)`` with the image I in RAS+ axis order and its left-right mirror image M:
    on the left side of the head this is 2 (L - R) / (L + R + epsilon), on the right side its negative. The
    plane stands upright in the grid, so a tilted head has to be straightened first.

    Parameters
    ----------
    image : path, nibabel image or Volume
        A scan; negative voxels count as 0.
    midline : {"head", "centre"} or float
        Where the plane lies on the axis to the right, in voxels counted from the left: ``head`` finds the
        place (to half a voxel) where the scan fits its mirror image best, ``centre`` is the middle of the
        grid.
    epsilon : float, optional
        Keeps the quotient of dark voxels small; None: 0.1 % of the 99th percentile of positive voxels.

    Returns
    -------
    nibabel image
        float32 in [-2, 2], on the grid and with the header of the input; 0 where the mirror voxel lies
        outside.

    Raises
    ------
    InvalidImage
        If the scan cannot be used.
    InvalidOption
        If `midline` or `epsilon` is out of range.

    Examples
    --------
    >>> save_image(asymmetry_map("FLAIR.nii.gz"), "asymmetry.nii.gz")  # doctest: +SKIP
    """
    scan = load(image)
    oriented, inverse = to_axcodes(scan, "RAS")
    array = np.maximum(oriented.array, 0).astype(np.float32, copy=False)
    if epsilon is None:
        epsilon = (
            PART_OF_BRIGHT * float(np.percentile(array[array > 0], BRIGHT_PERCENTILE)) if array.any() else 1.0
        )
    if not epsilon > 0:
        raise InvalidOption(f"epsilon must be above 0; got {epsilon!r}")
    mirrored, inside = _mirror(array, _twice_midline(array, midline))
    index = 2 * (array - mirrored) / (array + mirrored + np.float32(epsilon))
    index[~inside] = 0
    return to_image(inverse(index), scan, dtype=np.float32)


def find_midline(array: np.ndarray) -> float:
    """Find the plane across the first axis about which a volume fits its own mirror image best.

    Parameters
    ----------
    array : ndarray
        Shape ``(X, Y, Z)``, not negative.

    Returns
    -------
    float
        Position in voxels, a multiple of 0.5.
    """
    extent = array.shape[0]
    total = np.zeros(extent + 1, np.complex128)
    for plane in np.moveaxis(
        array, 2, 0
    ):  # plane by plane: the spectrum of a whole head would fill the memory
        total += (np.fft.rfft(plane, 2 * extent, axis=0) ** 2).sum(axis=1)
    # The sum over x of I(x) I(t - x) is largest where t is twice the position of the plane.
    return int(np.fft.irfft(total, 2 * extent)[: 2 * extent - 1].argmax()) / 2


def _twice_midline(array: np.ndarray, midline: str | float) -> int:
    last = array.shape[0] - 1
    if midline == "centre":
        return last
    if midline == "head":
        return int(2 * find_midline(array))
    twice = 2 * midline if isinstance(midline, int | float) else -1.0
    if not 0 <= twice <= 2 * last or twice != int(twice):
        raise InvalidOption(
            f"midline must be 'head', 'centre', or a multiple of 0.5 from 0 to {last}; got {midline!r}"
        )
    return int(twice)


def _mirror(array: np.ndarray, twice_midline: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mirror image, and the planes of the first axis whose mirror plane lies inside."""
    partner = twice_midline - np.arange(array.shape[0])
    inside = (partner >= 0) & (partner < array.shape[0])
    return array[np.clip(partner, 0, array.shape[0] - 1)], inside
