"""Files that belong to a scan: found by a pattern in its folder, and brought to its grid."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.volume import Volume, load, to_axcodes

SAME_PLACE = 1e-2  # mm, between the voxels of two contrasts on one grid
WILDCARDS = frozenset("*?[")


def find_beside(scan: Volume, given: Any, name: str, *, required: bool = True) -> Any:
    """Return what was given, or the file in the scan's folder that a pattern fits.

    Parameters
    ----------
    scan : Volume
        Its path names the folder.
    given : path, image or None
        A file name with ``*``, ``?`` or ``[`` is a pattern; all else is returned as it is.
    name : str
        Name of the option.
    required : bool
        Refuse a pattern that fits no file, else return None.

    Raises
    ------
    InvalidOption
        If a pattern fits several files, none, or the scan has no folder.
    """
    pattern = os.fspath(given) if isinstance(given, str | os.PathLike) else ""
    if not WILDCARDS & set(pattern) or Path(pattern).exists():
        return given
    if scan.path is None:
        raise InvalidOption(
            f"{name}: the pattern {pattern!r} needs a scan that was read from a file; give a path instead"
        )
    folder = scan.path.parent / Path(pattern).parent
    found = sorted(path for path in folder.glob(Path(pattern).name) if path != scan.path)
    if len(found) > 1 or (required and not found):
        listed = f" ({', '.join(path.name for path in found)})" if found else ""
        raise InvalidOption(
            f"{name}: expected one file that fits {pattern!r} in {folder}, found "
            f"{len(found)}{listed}; make the pattern fit one, or give the path"
        )
    return found[0] if found else None


def second_contrast(first: Volume, given: Any, same_space: bool) -> list[Volume]:
    """Read another contrast onto the grid of the first, which is in RAS+ orientation; none gives no image.

    Raises
    ------
    InvalidImage
        If it should lie on that grid, and does not.
    """
    if given is None:
        return []
    scan, _ = to_axcodes(load(given), "RAS")
    if not same_space:
        from kerasneuro.models.hsf.multispectral import register_second

        return [register_second(first, scan)]
    shift = corner_distance(first, scan)
    if first.shape != scan.shape or shift > SAME_PLACE:
        raise InvalidImage(
            f"second: expected an image on the grid of the scan ({first.shape} voxels), found {scan.shape} "
            f"voxels, {shift:.2f} mm apart; register it with same_space=False (--no-same-space)"
        )
    return [scan]


def corner_distance(one: Volume, other: Volume) -> float:
    """Return how far the first and last voxels of two images lie apart, in mm."""
    ends = [
        scan.affine[:3, :3] @ np.array(corner) + scan.affine[:3, 3]
        for scan in (one, other)
        for corner in ((0, 0, 0), np.array(scan.shape) - 1)
    ]
    return float(max(np.linalg.norm(ends[0] - ends[2]), np.linalg.norm(ends[1] - ends[3])))


def gather_masks(masks: Any, right: Any, left: Any) -> Any:
    """Return what was given of both hippocampi: one thing for both, or a mask for each.

    Raises
    ------
    InvalidOption
        If both were given.
    """
    each = {side: mask for side, mask in (("right", right), ("left", left)) if mask is not None}
    if masks is not None and each:
        raise InvalidOption("give masks, or right_mask and left_mask, not both")
    return each or masks


def name_of(given: Any) -> Any:
    """Name a file for the provenance; an image in memory has none."""
    if isinstance(given, Mapping):
        return {str(key): name_of(value) for key, value in given.items()}
    return str(given) if isinstance(given, str | os.PathLike) else given and "image in memory"
