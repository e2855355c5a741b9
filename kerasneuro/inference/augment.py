"""Test-time augmentation by mirroring: exact, because a flip only reorders voxels."""

from __future__ import annotations

import itertools

import numpy as np

from kerasneuro.errors import InvalidOption

NAMES = {"x": 0, "y": 1, "z": 2}


def flip_axes(flips: bool | tuple[int | str, ...], axes: int) -> tuple[tuple[int, ...], ...]:
    """List the sets of axes to mirror.

    Parameters
    ----------
    flips : bool or tuple
        False: none; True: every combination of all axes; a tuple of axes (0, 1, 2 or "x", "y", "z"):
        every combination of these.
    axes : int
        Number of spatial axes.

    Returns
    -------
    tuple of tuple of int
        The first is always empty: the block as it is.

    Raises
    ------
    InvalidOption
        If an axis is unknown or named twice.
    """
    if isinstance(flips, bool):
        chosen = tuple(range(axes)) if flips else ()
    else:
        chosen = tuple(NAMES.get(a.lower(), -1) if isinstance(a, str) else int(a) for a in flips)
    if len(set(chosen)) < len(chosen) or any(not 0 <= axis < axes for axis in chosen):
        raise InvalidOption(
            f"flips must be True, False or different axes from 0 to {axes - 1}; got {flips!r}."
        )
    return tuple(
        combination
        for count in range(len(chosen) + 1)
        for combination in itertools.combinations(chosen, count)
    )


def flip(batch: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Mirror spatial axes of ``(B, ..., C)`` blocks; the second application undoes the first."""
    return np.flip(batch, tuple(axis + 1 for axis in axes)) if axes else batch
