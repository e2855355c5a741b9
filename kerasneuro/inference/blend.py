"""How overlapping blocks are put back: separable weights that sum to one at every voxel."""

from __future__ import annotations

from functools import reduce

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.inference.grid import Block, Grid
from kerasneuro.inference.settings import MERGES


def profile(extent: int, merge: str) -> np.ndarray:
    """Return the weight of a voxel by its place along one axis of the block.

    Parameters
    ----------
    extent : int
        Voxels of the block along the axis.
    merge : {"constant", "gaussian", "hann"}
        ``gaussian`` has a standard deviation of an eighth of the block (as nnU-Net,
        doi:10.1038/s41592-020-01008-z); ``hann`` is sampled at voxel centres, so it is never 0.

    Returns
    -------
    ndarray
        Shape ``(extent,)``, float64, positive.
    """
    centres = np.arange(extent) + 0.5
    if merge == "constant":
        return np.ones(extent)
    if merge == "gaussian":
        return np.exp(-0.5 * ((centres - extent / 2) / (extent / 8)) ** 2)
    if merge == "hann":
        return np.sin(np.pi * centres / extent) ** 2
    raise InvalidOption(f"merge must be one of {', '.join(MERGES)}; got {merge!r}.")


class BlendWeights:
    """Weights of each block of a grid, already divided by their sum over all blocks.

    The starts of a grid are a product of axes and so are the weights; therefore the normalised weight of a
    block is an outer product of one vector per axis, and no volume of summed weights is needed.

    Parameters
    ----------
    grid : Grid
        Where the blocks lie.
    merge : {"constant", "gaussian", "hann"}
        See `profile`.
    """

    def __init__(self, grid: Grid, merge: str) -> None:
        self._grid = grid
        self._vectors = []
        for extent, block, starts in zip(grid.shape, grid.block, grid.starts, strict=True):
            weight = profile(block, merge)
            total = np.zeros(max(extent, starts[-1] + block))
            for start in starts:
                total[start : start + block] += weight
            self._vectors.append([weight / total[start : start + block] for start in starts])

    def of(self, block: Block) -> np.ndarray:
        """Return the weights of the part of a block inside the volume, float32, one axis per grid axis."""
        here = self._grid.inside(block)[1]
        parts = [
            vectors[index][part]
            for vectors, index, part in zip(self._vectors, block.index, here, strict=True)
        ]
        return reduce(np.multiply.outer, parts).astype(np.float32)
