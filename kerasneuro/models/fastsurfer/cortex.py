"""Tell left from right cortex: 19 parcels have one class for both hemispheres.

As FastSurfer 1.1.0 does (Deep-MI/FastSurfer@070647d, ``data_loader/load_neuroimaging_data.py``).
"""

from __future__ import annotations

import numpy as np

from kerasneuro.models.fastsurfer.labels import LEFT_WHITE, RIGHT_WHITE
from kerasneuro.volume.components import find_components
from kerasneuro.volume.crop import bounding_box, grow_box, slices
from kerasneuro.volume.labels import largest_component

BOTH_SIDES = (
    1003, 1006, 1007, 1008, 1009, 1011, 1015, 1018, 1019, 1020,
    1025, 1026, 1027, 1028, 1029, 1030, 1031, 1034, 1035,
)  # fmt: skip
"""Parcels whose pieces go to the nearer white matter."""
VOTED = (1011, 1019, 1026, 1029)
"""Parcels whose voxels go to the side with more white matter around them."""
TO_RIGHT = 1000
SIGMA = 3.0  # voxels
RADIUS = 12  # of a Gaussian that is cut off at four sigma


def split_cortex(labels: np.ndarray) -> np.ndarray:
    """Give the parcels of the right hemisphere their own labels.

    Parameters
    ----------
    labels : ndarray
        FreeSurfer labels ``(I, J, K)`` as the classes give them.

    Returns
    -------
    ndarray
        Same shape and type; 1000 is added on the right side.
    """
    right, left = white_matter_centre(labels, RIGHT_WHITE), white_matter_centre(labels, LEFT_WHITE)
    return vote_by_voxel(split_pieces(labels, right, left))


def white_matter_centre(labels: np.ndarray, label: int) -> np.ndarray:
    """Return the mean voxel index of the largest piece of a label (missing: of the whole volume)."""
    piece = largest_piece(labels == label)
    found = np.nonzero(piece[slices(box := bounding_box(piece))])
    return np.array([(axis + low).mean() for axis, (low, _) in zip(found, box, strict=True)])


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """Return the second most frequent value of the numbered pieces of a mask, the background being one.

    The original takes the background to be the most frequent. It is, unless the mask fills most of the
    volume; so an empty mask gives the whole volume.
    """
    if not mask.any():
        return np.ones_like(mask)
    largest = largest_component(mask, connectivity=26)
    if largest.sum() <= mask.size - mask.sum():
        return largest
    # One piece larger than the background is taken for the background.
    rest = mask & ~largest
    second = largest_component(rest, connectivity=26)
    return second if second.sum() > mask.size - mask.sum() else ~mask


def split_pieces(labels: np.ndarray, right: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Move each connected piece that is nearer to the right white matter to the right hemisphere.

    Parameters
    ----------
    labels : ndarray
        ``(I, J, K)``.
    right, left : ndarray
        Centres of the white matter, voxels, shape ``(3,)``.
    """
    found = find_components(labels, BOTH_SIDES)
    added = np.zeros(len(found.sizes), labels.dtype)
    for piece in range(1, len(found.sizes)):
        centre = found.centres[piece]
        if np.linalg.norm(centre - right) < np.linalg.norm(centre - left):
            added[piece] = TO_RIGHT
    result = labels.copy()
    result[found.box] += added[found.pieces]
    return result


def vote_by_voxel(labels: np.ndarray) -> np.ndarray:
    """Give each voxel of four parcels to the side that has more white matter around it.

    White matter of either side is blurred (Gaussian, sigma 3 voxels, float64). Only the box that holds the
    four parcels, and what the Gaussian reaches from there, is computed; that changes no bit.
    """
    table = np.zeros(int(labels.max()) + 1 + TO_RIGHT, labels.dtype)
    for label in VOTED:
        table[[other for other in (label, label + TO_RIGHT) if other < len(table)]] = label
    parcels = table[labels]
    inner = bounding_box(parcels)
    if inner[0] == (0, 0):
        return labels.copy()
    outer = slices(grow_box(inner, RADIUS, labels.shape))
    on_right = blurred(labels[outer] == RIGHT_WHITE) > blurred(labels[outer] == LEFT_WHITE)
    result, parcels = labels.copy(), parcels[outer]
    result[outer] = np.where(parcels > 0, parcels + TO_RIGHT * on_right, result[outer])
    return result


def blurred(mask: np.ndarray) -> np.ndarray:
    """Blur a mask of value 1000: float64, reflected at the border."""
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(1000.0 * mask, SIGMA, mode="reflect", truncate=4.0))
