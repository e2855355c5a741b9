"""Connected pieces of a label map: their label, size and centre."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kerasneuro.volume.crop import bounding_box, slices


@dataclass(frozen=True, eq=False)
class Components:
    """The connected pieces of some labels of a map; piece 0 stands for all other voxels.

    Attributes
    ----------
    pieces : ndarray
        Number of the piece at each voxel of `box`.
    box : tuple of slice
        Where `pieces` lies in the map.
    labels, sizes : ndarray
        Shape ``(N + 1,)``: label and voxels of each piece.
    centres : ndarray
        Shape ``(N + 1, 3)``, float64: mean voxel index of each piece in the map.
    """

    pieces: np.ndarray
    box: tuple[slice, ...]
    labels: np.ndarray
    sizes: np.ndarray
    centres: np.ndarray


def find_components(labels: np.ndarray, wanted: Iterable[int]) -> Components:
    """Find the connected pieces of some labels of a map.

    Parameters
    ----------
    labels
        Shape ``(X, Y, Z)``, integers of at least 0. Voxels of one label that touch, if only by a corner,
        are one piece (26 neighbours).
    wanted
        Labels to look at; 0 is ignored.

    Returns
    -------
    Components
        In the order of their first voxel (C order).
    """
    import cc3d

    looked_up = np.zeros(int(labels.max()) + 1, np.uint16)
    for label in wanted:
        if 0 < label < len(looked_up):
            looked_up[label] = label
    box = slices(bounding_box(labels))
    # The border keeps cc3d from running out of labels in arrays one voxel thin.
    inside = np.pad(looked_up[labels[box]], 1)
    pieces = cc3d.connected_components(inside, connectivity=26)[1:-1, 1:-1, 1:-1]
    places = np.nonzero(pieces)
    numbers = pieces[places]
    sizes = np.bincount(numbers, minlength=1)
    owners = np.zeros(len(sizes), labels.dtype)
    owners[numbers] = inside[1:-1, 1:-1, 1:-1][places]
    # Sums of indices are exact in float64, so a centre is the same wherever the box begins.
    sums = [
        np.bincount(numbers, place + (edge.start or 0), minlength=len(sizes))
        for place, edge in zip(places, box, strict=True)
    ]
    return Components(pieces, box, owners, sizes, np.stack(sums, 1) / np.maximum(sizes, 1)[:, np.newaxis])
