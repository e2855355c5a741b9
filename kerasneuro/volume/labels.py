"""Clean masks: the largest piece, filled holes, grown or shrunk borders."""

from __future__ import annotations

from typing import Literal

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.volume.crop import bounding_box, slices


def largest_component(
    mask: np.ndarray, connectivity: Literal[6, 18, 26] = 26, tie: Literal["first", "last"] = "first"
) -> np.ndarray:
    """Keep the connected component with most voxels.

    Parameters
    ----------
    mask
        Shape ``(X, Y, Z)``; voxels other than 0 are foreground.
    connectivity
        Voxels are neighbours across faces (6), also edges (18), also corners (26).
    tie
        Of components of one size, the one whose first voxel in C order comes "first" or "last".

    Returns
    -------
    ndarray
        Shape ``(X, Y, Z)``, bool; empty if the mask is empty.

    Raises
    ------
    InvalidOption
        If `connectivity` or `tie` is none of these.
    """
    if connectivity not in (6, 18, 26) or tie not in ("first", "last"):
        raise InvalidOption(
            f"connectivity is 6, 18 or 26 and tie is 'first' or 'last', found {connectivity!r} and {tie!r}"
        )
    import cc3d

    box = slices(bounding_box(mask))
    result = np.zeros(mask.shape, bool)
    inside = mask[box] != 0
    if not inside.size:
        return result
    # Labels follow the order of the memory, C order by the rule of ties; the border keeps cc3d
    # from running out of labels in arrays one voxel thin.
    labels = cc3d.connected_components(_with_border(inside, False), connectivity=connectivity)
    sizes = np.bincount(labels.reshape(-1))
    sizes[0] = 0
    label = sizes.argmax() if tie == "first" else len(sizes) - 1 - sizes[::-1].argmax()
    result[box] = (labels == label)[1:-1, 1:-1, 1:-1]
    return result


def _with_border(mask: np.ndarray, value: bool) -> np.ndarray:
    """Return a copy in C order with one more voxel of `value` on each side."""
    result = np.full([n + 2 for n in mask.shape], value)
    result[1:-1, 1:-1, 1:-1] = mask
    return result


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill the background that no path across voxel faces joins to the border of the array.

    Parameters
    ----------
    mask
        Shape ``(X, Y, Z)``; voxels other than 0 are foreground.

    Returns
    -------
    ndarray
        Shape ``(X, Y, Z)``, bool; the same as ``scipy.ndimage.binary_fill_holes``.
    """
    import cc3d

    box = slices(bounding_box(mask))
    result = mask != 0
    if not result[box].size:
        return result
    # A border of background joins all that is reachable, and nothing outside the box is enclosed.
    background = _with_border(~result[box], True)
    labels = cc3d.connected_components(background, connectivity=6)
    result[box] = (labels != labels[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return result


def dilate(mask: np.ndarray, n: int) -> np.ndarray:
    """Grow a mask by `n` steps across voxel faces, or shrink it by ``-n``.

    Parameters
    ----------
    mask
        Shape ``(X, Y, Z)``; voxels other than 0 are foreground.
    n
        Steps; the border of the array does not shrink the mask.

    Returns
    -------
    ndarray
        Shape ``(X, Y, Z)``, bool.
    """
    result = mask != 0
    if n < 0:
        return ~dilate(~result, -n)
    for _ in range(n):
        grown = result.copy()
        for axis in range(3):
            ahead = (slice(None),) * axis + (slice(1, None),)
            behind = (slice(None),) * axis + (slice(None, -1),)
            grown[ahead] |= result[behind]
            grown[behind] |= result[ahead]
        result = grown
    return result


def dilate_cube(mask: np.ndarray, n: int) -> np.ndarray:
    """Grow a mask by `n` steps in all 26 directions, or shrink it by ``-n``.

    Parameters
    ----------
    mask
        Shape ``(X, Y, Z)``; voxels other than 0 are foreground.
    n
        Steps; the border of the array does not shrink the mask.

    Returns
    -------
    ndarray
        Shape ``(X, Y, Z)``, bool.
    """
    result = mask != 0
    if n < 0:
        return ~dilate_cube(~result, -n)
    # A cube is the product of three lines, so each axis is grown alone.
    for axis in range(3):
        source = result
        result = source.copy()
        for step in range(1, min(n, mask.shape[axis] - 1) + 1):
            ahead = (slice(None),) * axis + (slice(step, None),)
            behind = (slice(None),) * axis + (slice(None, -step),)
            result[ahead] |= source[behind]
            result[behind] |= source[ahead]
    return result
