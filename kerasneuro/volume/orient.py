"""Reorder and flip axes, without resampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from nibabel.orientations import (
    OrientationError,
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from kerasneuro.errors import InvalidOption
from kerasneuro.volume.image import Volume

ArrayInverse = Callable[[np.ndarray], np.ndarray]


def to_axcodes(volume: Volume, axcodes: str | Sequence[str] = "RAS") -> tuple[Volume, ArrayInverse]:
    """Bring the axes into the order and direction closest to `axcodes`.

    Parameters
    ----------
    volume
        Any orientation; an oblique affine stays oblique.
    axcodes
        Three letters, one of each pair L/R, P/A, I/S: where each axis points to.

    Returns
    -------
    Volume
        The same voxels as a view; each keeps its place in the world.
    inverse
        Takes an array ``(X, Y, Z, ...)`` on the new grid back to the grid of `volume`.

    Raises
    ------
    InvalidOption
        If `axcodes` names no orientation.
    """
    try:
        wanted = axcodes2ornt(tuple(axcodes))
        complete = len(wanted) == 3 and not np.isnan(wanted).any() and len(set(wanted[:, 0])) == 3
    except (ValueError, OrientationError):
        complete = False
    if not complete:
        raise InvalidOption(f"expected an orientation of three letters such as 'RAS', found {axcodes!r}")
    found = io_orientation(volume.affine)
    forward = ornt_transform(found, wanted)
    backward = ornt_transform(wanted, found)
    affine = volume.affine @ inv_ornt_aff(forward, volume.shape)

    def inverse(array: np.ndarray) -> np.ndarray:
        return _reorder(array, backward)

    return volume.replace(array=_reorder(volume.array, forward), affine=affine), inverse


def _reorder(array: np.ndarray, orientation: Any) -> np.ndarray:
    return np.asarray(apply_orientation(array, orientation))
