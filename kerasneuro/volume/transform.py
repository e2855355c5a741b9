"""Spatial transforms between two images: a matrix, or a displacement for every voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from kerasneuro.errors import InvalidOption, InvalidTransform
from kerasneuro.volume.geometry import Geometry
from kerasneuro.volume.sample import Block, each_block

Space = Literal["voxel", "world"]
WarpFormat = Literal["abs_crs", "disp_crs", "abs_ras", "disp_ras"]
FORMATS: tuple[WarpFormat, ...] = get_args(WarpFormat)
"""The number of a format in FreeSurfer's files is its place here."""


@dataclass(frozen=True, eq=False)
class Affine:
    """Map points of a source (moving) image to a target (fixed) image by a matrix.

    Images are pulled with the inverse: a voxel of the target takes the value at its place in the source.

    Parameters
    ----------
    matrix
        Shape ``(4, 4)``, float64; its last row is 0 0 0 1.
    source, target
        Grids of the two images; None where a file did not say, which only a world matrix allows.
    space
        "voxel": from voxel indices of the source to those of the target. "world": in world coordinates
        (RAS+, mm).

    Raises
    ------
    InvalidTransform
        If the matrix is not finite or cannot be inverted, or a voxel matrix lacks a grid.
    """

    matrix: np.ndarray
    source: Geometry | None
    target: Geometry | None
    space: Space = "voxel"

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        check_matrix(matrix)
        if self.space not in ("voxel", "world"):
            raise InvalidOption(f"the space of an affine is 'voxel' or 'world', found {self.space!r}")
        if self.space == "voxel" and (self.source is None or self.target is None):
            raise InvalidTransform("a matrix between voxels needs the geometry of both images, found none")
        matrix.flags.writeable = False
        object.__setattr__(self, "matrix", matrix)

    def to_world(self) -> Affine:
        """Express the same transform in world coordinates."""
        if self.space == "world":
            return self
        assert self.source is not None and self.target is not None
        matrix = self.target.vox2world @ self.matrix @ self.source.world2vox
        return Affine(matrix, self.source, self.target, "world")

    def to_voxel(self, *, source: Geometry | None = None, target: Geometry | None = None) -> Affine:
        """Express the same transform in voxel indices, of other grids in the same world if they are given.

        Raises
        ------
        InvalidTransform
            If a grid is neither given nor stored.
        """
        new_source, new_target = source or self.source, target or self.target
        if new_source is None or new_target is None:
            missing = "source" if new_source is None else "target"
            raise InvalidTransform(f"the transform holds no {missing} grid; name an image that has it")
        if self.space == "voxel" and same(new_source, self.source) and same(new_target, self.target):
            return self
        matrix = new_target.world2vox @ self.to_world().matrix @ new_source.vox2world
        return Affine(matrix, new_source, new_target, "voxel")

    def inverse(self) -> Affine:
        """Return the transform from the target to the source, in the same space."""
        return Affine(np.linalg.inv(self.matrix), self.target, self.source, self.space)


@dataclass(frozen=True, eq=False)
class Warp:
    """Hold, for every voxel of the target (fixed) image, the place in the source (moving) image.

    Parameters
    ----------
    displacement
        Shape ``(X, Y, Z, 3)``, float32, on the grid of the target.
    source, target
        Grids of the two images. None for the source where a file did not say; then the format is a RAS one.
    format
        "disp_crs": voxel of the source minus voxel of the target. "disp_ras": the same in world
        coordinates (RAS+, mm). "abs_crs", "abs_ras": the place in the source itself.

    Raises
    ------
    InvalidTransform
        If the shape of the field is not that of the target, or a format in voxels lacks the source.
    """

    displacement: np.ndarray
    source: Geometry | None
    target: Geometry
    format: WarpFormat = "disp_crs"

    def __post_init__(self) -> None:
        field = np.asarray(self.displacement, dtype=np.float32)
        if self.format not in FORMATS:
            raise InvalidOption(f"the format of a warp is one of {', '.join(FORMATS)}, found {self.format!r}")
        if field.shape != (*self.target.shape, 3):
            raise InvalidTransform(
                f"warp: expected a field of shape {(*self.target.shape, 3)} on the target grid, "
                f"found {field.shape}"
            )
        if self.source is None and self.format.endswith("crs"):
            raise InvalidTransform("a warp in voxels of its source needs the source's geometry, found none")
        object.__setattr__(self, "displacement", field)

    def to(self, format: WarpFormat, *, source: Geometry | None = None) -> Warp:
        """Convert to another format.

        Parameters
        ----------
        format
            One of "disp_crs", "disp_ras", "abs_crs", "abs_ras".
        source
            The grid of the source, for a warp that does not hold it.

        Returns
        -------
        Warp
            Computed in float32, as ``surfa/transform/warp.py`` does (freesurfer/surfa 0.6.3).

        Raises
        ------
        InvalidTransform
            If the conversion needs the grid of the source, and there is none.
        """
        grid = self.source or source
        if format == self.format:
            return self
        if format not in FORMATS:
            raise InvalidOption(f"the format of a warp is one of {', '.join(FORMATS)}, found {format!r}")
        if grid is None and format[-3:] != self.format[-3:]:
            raise InvalidTransform("the warp holds no source grid; name the image that it is applied to")
        result = np.empty_like(self.displacement)

        def fill_block(block: Block) -> None:
            result[block] = self._converted(block, format, grid)

        each_block(self.target.shape, fill_block)
        return Warp(result, grid, self.target, format)

    def _converted(self, block: Block, format: WarpFormat, source: Geometry | None) -> np.ndarray:
        """Convert one block of the field."""
        indices = np.mgrid[block].astype(np.float32)
        grid = {"crs": indices, "ras": _apply(self.target.vox2world, indices)}
        (kind, old), (new_kind, new) = self.format.split("_"), format.split("_")
        values = np.moveaxis(self.displacement[block], -1, 0)
        places = values + grid[old] if kind == "disp" else values
        if old != new:
            assert source is not None
            places = _apply(source.vox2world if new == "ras" else source.world2vox, places)
        return np.moveaxis(places - grid[new] if new_kind == "disp" else places, 0, -1)


Transform = Affine | Warp


def check_matrix(matrix: np.ndarray) -> None:
    """Refuse what is not the matrix of an affine transform.

    Raises
    ------
    InvalidTransform
        If it is not a finite 4x4 matrix that can be inverted, with 0 0 0 1 as last row.
    """
    listed = np.array2string(matrix, precision=4, separator=",").replace("\n", "")
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InvalidTransform(f"expected a finite 4x4 matrix, found {listed}")
    if not np.allclose(matrix[3], [0, 0, 0, 1], rtol=0, atol=1e-9):
        raise InvalidTransform(f"expected a matrix whose last row is 0 0 0 1, found {listed}")
    lengths = float(np.prod(np.linalg.norm(matrix[:3, :3], axis=0)))
    if lengths == 0 or abs(np.linalg.det(matrix[:3, :3])) < 1e-9 * lengths:
        raise InvalidTransform(f"expected a matrix that can be inverted, found {listed}, which is singular")


def same(one: Geometry, other: Geometry | None) -> bool:
    """Say whether two geometries are equal to the last bit."""
    return other is not None and one.shape == other.shape and np.array_equal(one.vox2world, other.vox2world)


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a 4x4 matrix to points ``(3, ...)`` in float32."""
    single = matrix.astype(np.float32)
    moved = single[:3, :3] @ points.reshape(3, -1) + single[:3, 3:]
    return moved.reshape(points.shape)
