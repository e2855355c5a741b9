"""The brain mask, and the segmentation without parcels of the cortex.

As ``reduce_to_aseg.py --outmask --fixwm`` of FastSurfer 1.1.0 (Deep-MI/FastSurfer@070647d, ``recon_surf``).
"""

from __future__ import annotations

import numpy as np

from kerasneuro.models.fastsurfer.labels import (
    CORTEX,
    LEFT_CORTEX,
    LEFT_WHITE,
    RIGHT_CORTEX,
    RIGHT_CORTEX_FIRST,
    RIGHT_WHITE,
)
from kerasneuro.volume.crop import bounding_box, grow_box, slices
from kerasneuro.volume.labels import dilate_cube, largest_component

FRONTAL = (1012, 2012, 1019, 2019)
"""Parcels above the eyes, where growing the mask would leave the brain."""
GROW, SHRINK = 5, 4  # voxels
SIGMA, RADIUS = 1.5, 6  # voxels; the Gaussian is cut off at four sigma


def brain_mask(labels: np.ndarray) -> np.ndarray:
    """Return the mask around all structures: grown, shrunk, largest piece; orbitofrontal cortex as it is.

    Parameters
    ----------
    labels : ndarray
        FreeSurfer labels ``(I, J, K)``, hemispheres told apart.

    Returns
    -------
    ndarray
        Same shape, bool.
    """
    frontal = np.isin(labels, FRONTAL)
    brain = (labels > 0) & ~frontal
    mask = np.zeros(labels.shape, bool)
    # Nothing outside the box is grown, and what it cuts off is background, so shrinking sees the same.
    box = slices(grow_box(bounding_box(brain), 2 * GROW, brain.shape))
    mask[box] = dilate_cube(dilate_cube(brain[box], GROW), -SHRINK)
    return largest_component(mask, connectivity=26) | frontal


def reduce_to_aseg(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Unite the parcels of each hemisphere to its cortex, 3 on the left and 42 on the right.

    Parameters
    ----------
    labels : ndarray
        FreeSurfer labels ``(I, J, K)``, hemispheres told apart.
    mask : ndarray
        Where the result may be other than 0.

    Returns
    -------
    ndarray
        Same shape, uint8.
    """
    table = np.arange(max(int(labels.max()), RIGHT_CORTEX_FIRST) + 1)
    table[CORTEX:] = LEFT_CORTEX
    table[RIGHT_CORTEX_FIRST:] = RIGHT_CORTEX
    return table.astype(np.uint8)[labels] * mask.astype(np.uint8)


def swap_islands(aseg: np.ndarray) -> np.ndarray:
    """Give islands of white matter to the side whose cortex and white matter lie around them.

    Parameters
    ----------
    aseg : ndarray
        From `reduce_to_aseg`, ``(I, J, K)``.

    Returns
    -------
    ndarray
        Same shape and type; only 2 and 41 change.
    """
    left, right = aseg == LEFT_WHITE, aseg == RIGHT_WHITE
    left &= ~largest_component(left, connectivity=26)
    right &= ~largest_component(right, connectivity=26)
    result = aseg.copy()
    box = bounding_box(left | right)
    if box[0] == (0, 0):
        return result
    outer = slices(grow_box(box, RADIUS, aseg.shape))
    nearby = _side_nearby(aseg[outer])
    inside = result[outer]
    inside[right[outer] & (nearby < 0)] = LEFT_WHITE
    inside[left[outer] & (nearby > 0)] = RIGHT_WHITE
    return result


def _side_nearby(aseg: np.ndarray) -> np.ndarray:
    """Blur +1 on the right and -1 on the left: float64; the voxels at the border go on outside."""
    from scipy import ndimage

    right = (aseg == RIGHT_WHITE) | (aseg == RIGHT_CORTEX)
    left = (aseg == LEFT_WHITE) | (aseg == LEFT_CORTEX)
    signed = right.astype(np.float64) - left
    return np.asarray(ndimage.gaussian_filter(signed, SIGMA, mode="nearest", truncate=4.0))
