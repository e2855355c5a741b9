"""Remove small islands from a parcellation (option ``--clean`` of FastSurfer 1.1.0)."""

from __future__ import annotations

from itertools import product

import numpy as np

from kerasneuro.models.fastsurfer.labels import CORTEX, structures
from kerasneuro.volume.components import find_components

LARGEST_ISLAND = 25  # voxels
PARCELS = (1026, 2026)
"""The parcels of the cortex that are cleaned; of all other structures, each is."""


def remove_islands(labels: np.ndarray) -> np.ndarray:
    """Replace islands of up to 25 voxels by the median label of the 27 voxels about each of their voxels.

    Parameters
    ----------
    labels : ndarray
        FreeSurfer labels ``(I, J, K)``, hemispheres told apart.

    Returns
    -------
    ndarray
        Same shape and type. All voxels are replaced at once, by the labels before the cleaning.
    """
    cleaned = [found.label for found in structures() if 0 < found.label < CORTEX]
    found = find_components(labels, (*cleaned, *PARCELS))
    small = found.sizes <= LARGEST_ISLAND
    small[0] = False
    where = tuple(
        place + (edge.start or 0)
        for place, edge in zip(np.nonzero(small[found.pieces]), found.box, strict=True)
    )
    result = labels.copy()
    if where[0].size:
        result[where] = median_of_neighbours(labels, where)
    return result


def median_of_neighbours(labels: np.ndarray, where: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the median of 3 x 3 x 3 voxels about some voxels; the border is reflected.

    Parameters
    ----------
    labels : ndarray
        ``(I, J, K)``.
    where : tuple of ndarray
        Voxel indices, three arrays of shape ``(N,)``.
    """
    last = np.array(labels.shape)[:, np.newaxis] - 1
    centres = np.stack(where)
    # One step beyond the border, reflection shows the voxel at the border.
    neighbours = [
        labels[tuple(np.clip(centres + np.array(step)[:, np.newaxis], 0, last))]
        for step in product((-1, 0, 1), repeat=3)
    ]
    return np.sort(np.stack(neighbours), axis=0)[len(neighbours) // 2]
