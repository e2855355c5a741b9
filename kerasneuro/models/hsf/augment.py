"""Test-time augmentation of HSF: mirrored, turned and bent copies of a crop, and the way back.

The rules are those of TorchIO 0.20 (https://doi.org/10.1016/j.cmpb.2021.106236) as HSF 1.2.3 uses it
(clementpoiret/HSF@bdd4f19). World coordinates are LPS millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kerasneuro.models.hsf.moves import Move, places

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Augmentation:
    """One way to change a padded crop.

    Attributes
    ----------
    flip : bool
        Reverse the first axis (right to left).
    move : Move or None
        Then turn, or bend.
    """

    flip: bool = False
    move: Move | None = None

    def apply(self, array: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Change a padded crop.

        Parameters
        ----------
        array : ndarray (X, Y, Z)
            float32.
        affine : ndarray (4, 4)
            Voxels to world (RAS+).

        Returns
        -------
        ndarray (X, Y, Z)
            float32; where it comes from outside, the minimum.
        """
        from scipy.ndimage import map_coordinates

        source = array[::-1] if self.flip else array
        if self.move is None:
            return np.ascontiguousarray(source)
        where = places(self.move, [np.arange(n) for n in array.shape], array.shape, affine)
        moved = map_coordinates(source.astype(np.float64), where, order=1, mode="nearest", prefilter=False)
        moved[~_inside(where, array.shape)] = source.min()
        return moved.astype(np.float32)

    def way_back(self, shape: Shape, affine: np.ndarray, before: Shape, crop: Shape) -> WayBack:
        """Find where each voxel of the crop lies in the changed, padded copy.

        Parameters
        ----------
        shape : tuple of int
            Of the padded crop.
        affine : ndarray (4, 4)
            Voxels of the padded crop to world (RAS+).
        before, crop : tuple of int
            Padding in front of each axis, and shape of the crop.
        """
        axes = [np.arange(start, start + n) for start, n in zip(before, crop, strict=True)]
        if self.flip:
            axes[0] = shape[0] - 1 - axes[0]
        if self.move is None:
            return WayBack(np.ravel_multi_index(np.ix_(*axes), shape), None, None)
        where = places(self.move, axes, shape, affine, back=True)
        outside = ~_inside(where, shape)
        index = np.zeros(crop, np.intp)
        for place, n in zip(where, shape, strict=True):
            index *= n
            index += np.clip(np.floor(place + 0.5), 0, n - 1).astype(np.intp)
        return WayBack(index, outside, self.move.fill)

    def describe(self) -> str:
        """State the parameters for the provenance."""
        move = self.move.describe() if self.move is not None else "unmoved"
        return f"mirrored, {move}" if self.flip else move


@dataclass(frozen=True)
class WayBack:
    """Bring the probabilities of a changed copy back to the crop, by nearest neighbour.

    Attributes
    ----------
    index : ndarray (x, y, z)
        Voxel of the padded copy, counted in C order, for each voxel of the crop.
    outside : ndarray (x, y, z) or None
        Voxels that the copy does not show.
    fill : float or None
        Their value; None is the minimum of each channel.
    """

    index: np.ndarray
    outside: np.ndarray | None
    fill: float | None

    def __call__(self, probability: np.ndarray) -> np.ndarray:
        """Take ``(X, Y, Z, C)`` of the copy to ``(x, y, z, C)`` of the crop."""
        rows = probability.reshape(-1, probability.shape[-1])
        found = rows.take(self.index.reshape(-1), axis=0).reshape(*self.index.shape, -1)
        if self.outside is not None:
            found[self.outside] = rows.min(axis=0) if self.fill is None else self.fill
        return found


def _inside(where: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Say which places lie in the image, up to half a voxel past the first and the last centre."""
    result = np.ones(where.shape[1:], bool)
    for place, n in zip(where, shape, strict=True):
        result &= (place >= -0.5) & (place < n - 0.5)
    return result
