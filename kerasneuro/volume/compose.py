"""Join transforms into one, so that an image is interpolated once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kerasneuro.errors import InvalidOption, InvalidTransform
from kerasneuro.volume.geometry import Geometry
from kerasneuro.volume.sample import Block, Source, each_block, sample_places
from kerasneuro.volume.transform import Affine, Transform, Warp, same


def compose_transforms(transforms: Sequence[Transform], *, target: Geometry | None = None) -> Transform:
    """Join transforms that move an image one after the other.

    Parameters
    ----------
    transforms
        In the order in which they move the image: the first starts from the source of the result, the last
        ends on its target. They meet in world coordinates, so their grids need not be the same.
    target
        Grid of the result; None takes that of the last transform.

    Returns
    -------
    Affine or Warp
        A world matrix if all are matrices, else a warp of the format "disp_ras". Beyond its grid, a warp in
        the middle moves as its border does.

    Raises
    ------
    InvalidOption
        If there is no transform.
    InvalidTransform
        If the result is a warp and no target grid is known.
    """
    if not transforms:
        raise InvalidOption("expected at least one transform to compose, found none")
    last = transforms[-1]
    grid = target or last.target
    if len(transforms) == 1 and grid is not None and last.target is not None and same(grid, last.target):
        return last
    if all(isinstance(transform, Affine) for transform in transforms):
        matrix = np.eye(4)
        for transform in transforms:
            assert isinstance(transform, Affine)
            matrix = transform.to_world().matrix @ matrix
        return Affine(matrix, transforms[0].source, grid, "world")
    if grid is None:
        raise InvalidTransform("the last transform holds no target grid; name an image that has it")
    steps = [_Step(transform) for transform in reversed(transforms)]
    field = np.empty((*grid.shape, 3), np.float32)

    def fill_block(block: Block) -> None:
        world = _map(grid.vox2world, np.mgrid[block].astype(np.float64))
        place = world
        for step in steps:
            place = step.pull(place)
        field[block] = np.moveaxis(place - world, 0, -1)

    each_block(grid.shape, fill_block)
    return Warp(field, transforms[0].source, grid, "disp_ras")


class _Step:
    """One transform, ready to pull points of the world, ``(3, ...)`` float64, to its source."""

    def __init__(self, transform: Transform) -> None:
        if isinstance(transform, Affine):
            self.matrix = np.linalg.inv(transform.to_world().matrix)
            self.field: Source | None = None
        else:
            self.matrix = transform.target.world2vox
            self.field = Source.of(transform.to("disp_ras").displacement)

    def pull(self, place: np.ndarray) -> np.ndarray:
        moved = _map(self.matrix, place)
        if self.field is None:
            return moved
        shift = np.empty(place.shape, np.float32)
        sample_places(self.field, list(moved.astype(np.float32)), shift, fill=None)
        return place + shift


def _map(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    moved = matrix[:3, :3] @ points.reshape(3, -1) + matrix[:3, 3:]
    return moved.reshape(points.shape)
