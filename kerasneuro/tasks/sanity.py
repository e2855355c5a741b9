"""Doubts about a mask that a program can have: empty, at the border of the scan, of an unlikely size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def touches_border(mask: np.ndarray) -> bool:
    """Say whether a mask reaches the first or last plane of any axis that has more than one plane.

    Parameters
    ----------
    mask : ndarray
        Shape ``(X, Y, Z)``; every value other than 0 counts.
    """
    found = np.asarray(mask) != 0
    for axis, extent in enumerate(found.shape):
        if extent > 1 and (found.take(0, axis).any() or found.take(-1, axis).any()):
            return True
    return False


def volume_warnings(
    mask: np.ndarray,
    zooms: Sequence[float],
    plausible_cm3: tuple[float, float] | None = None,
    *,
    name: str = "mask",
) -> tuple[str, ...]:
    """Return one sentence for every doubt about a mask or label map.

    Parameters
    ----------
    mask : ndarray
        Shape ``(X, Y, Z)``; every value other than 0 counts.
    zooms : sequence of float
        Voxel size along each axis in mm.
    plausible_cm3 : tuple of float, optional
        Lowest and highest volume in cm3 that raises no doubt.
    name : str
        What the sentences call it.

    Returns
    -------
    tuple of str
        Empty if there is nothing to say.
    """
    voxels = int(np.count_nonzero(mask))
    if voxels == 0:
        return (f"The {name} is empty: nothing was found in this scan.",)
    found = []
    if touches_border(mask):
        found.append(f"The {name} touches the border of the scan: part of it may be cut off.")
    volume = voxels * float(np.prod(np.asarray(zooms, dtype=float))) / 1000.0
    if plausible_cm3 is not None and not plausible_cm3[0] <= volume <= plausible_cm3[1]:
        low, high = plausible_cm3
        found.append(
            f"The {name} has {volume:.1f} cm3, outside the usual {low:g} to {high:g} cm3; look at it."
        )
    return tuple(found)
