"""Where the voxels of an image lie in the world: shape, matrix, and the parts of the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike

from kerasneuro.errors import InvalidImage
from kerasneuro.volume.header_check import check_affine
from kerasneuro.volume.image import Volume

TOLERANCE = 1e-3  # mm or voxels: two geometries that differ less are the same one
LEAST_SHEAR = 1e-5
# Directions of the axes of the networks' grid, one per column: left, inferior, anterior.
LIA = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


@dataclass(frozen=True, eq=False)
class Geometry:
    """Hold the grid of an image in world coordinates.

    Parameters
    ----------
    shape
        Voxels along each axis, ``(X, Y, Z)``.
    vox2world
        Shape ``(4, 4)``, float64: voxel indices (zero-based) to world coordinates (RAS+, mm).
    stored_voxel_size
        Voxel size in mm as a header stores it; None, or one that contradicts the matrix, is computed from it.

    Raises
    ------
    InvalidImage
        If the shape has not three positive lengths, or the matrix cannot be inverted.
    """

    shape: tuple[int, int, int]
    vox2world: np.ndarray
    stored_voxel_size: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        shape = tuple(int(length) for length in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise InvalidImage(f"geometry: expected three axes of at least one voxel, found {shape}")
        matrix = np.array(self.vox2world, dtype=np.float64)
        check_affine(matrix, "geometry")
        matrix.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "vox2world", matrix)

    @classmethod
    def of(cls, image: Volume | SpatialImage | Geometry) -> Geometry:
        """Read the geometry of a `Volume` or a nibabel image."""
        if isinstance(image, Geometry):
            return image
        if not isinstance(image, Volume) and len(image.shape) < 3:
            raise InvalidImage(f"expected an image of three axes or more, found {len(image.shape)}-D")
        x, y, z = image.shape[:3]
        if image.affine is None:
            raise InvalidImage("expected an image with a 4x4 affine, found none")
        return cls((x, y, z), image.affine, _header_voxel_size(image.header))

    @classmethod
    def of_parts(
        cls,
        shape: Sequence[int],
        voxel_size: ArrayLike,
        rotation: ArrayLike,
        centre: ArrayLike,
        shear: ArrayLike = (0.0, 0.0, 0.0),
    ) -> Geometry:
        """Compose a geometry from its parts, as FreeSurfer's files store them.

        Parameters
        ----------
        shape
            Voxels along each axis.
        voxel_size
            mm, shape ``(3,)``.
        rotation
            Shape ``(3, 3)``: the world direction of each axis in its column.
        centre
            World coordinates of the voxel index ``shape / 2``, shape ``(3,)``.
        shear
            Entries (0, 1), (0, 2) and (1, 2) of the shear matrix.
        """
        x, y, z = (int(length) for length in shape)
        sizes = np.asarray(voxel_size, dtype=np.float64)
        matrix = np.eye(4)
        matrix[:3, :3] = np.asarray(rotation, np.float64) @ np.diag(sizes) @ shear_matrix(shear)
        matrix[:3, 3] = np.asarray(centre, np.float64) - matrix[:3, :3] @ (np.array([x, y, z]) / 2)
        a, b, c = (float(size) for size in sizes)
        return cls((x, y, z), matrix, (a, b, c))

    def __eq__(self, other: object) -> bool:
        """Compare within 1e-3, as the files of FreeSurfer hold single precision."""
        if not isinstance(other, Geometry):
            return NotImplemented
        return self.shape == other.shape and all(
            np.allclose(mine, theirs, rtol=0, atol=TOLERANCE)
            for mine, theirs in ((self.vox2world, other.vox2world), (self.centre, other.centre))
        )

    @property
    def world2vox(self) -> np.ndarray:
        """World coordinates to voxel indices, shape ``(4, 4)``, float64."""
        return np.linalg.inv(self.vox2world)

    @property
    def voxel_size(self) -> np.ndarray:
        """Voxel size in mm, shape ``(3,)``; the header's own where it agrees within 1e-3."""
        computed = self._decomposed[0]
        if self.stored_voxel_size is not None:
            stored = np.array(self.stored_voxel_size, dtype=np.float64)
            if np.allclose(stored, computed, rtol=0, atol=TOLERANCE):
                return stored
        return computed

    @property
    def rotation(self) -> np.ndarray:
        """Orthonormal directions of the axes, one per column, shape ``(3, 3)``."""
        return self._decomposed[1]

    @property
    def shear(self) -> np.ndarray:
        """Entries (0, 1), (0, 2) and (1, 2) of the shear matrix, shape ``(3,)``."""
        return self._decomposed[2]

    @property
    def centre(self) -> np.ndarray:
        """World coordinates of the voxel index ``shape / 2`` (not ``(shape - 1) / 2``), shape ``(3,)``."""
        return (self.vox2world @ np.append(np.array(self.shape) / 2, 1))[:3]

    @property
    def vox2surface(self) -> np.ndarray:
        """Voxel indices to FreeSurfer's surface coordinates (LIA, centred), shape ``(4, 4)``."""
        matrix = np.eye(4)
        matrix[:3, :3] = LIA * self.voxel_size
        matrix[:3, 3] = -matrix[:3, :3] @ (np.array(self.shape) / 2)
        return matrix

    @property
    def _decomposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Divide the 3x3 part into rotation, voxel size and shear, with positive voxel sizes."""
        turn, upper = np.linalg.qr(self.vox2world[:3, :3])
        signs = np.sign(np.diag(upper))
        sizes = np.abs(np.diag(upper))
        sheared = signs[:, np.newaxis] * upper / sizes[:, np.newaxis]
        return sizes, turn * signs, np.array([sheared[0, 1], sheared[0, 2], sheared[1, 2]])

    def without_shear(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Describe the matrix by voxel size, directions and centre alone, as LTA files do.

        Returns
        -------
        tuple of ndarray
            Voxel size ``(3,)``, directions ``(3, 3)`` and centre ``(3,)``. The directions of a sheared grid
            are its unit columns, not orthogonal to each other, so that nothing is lost.
        """
        if np.any(np.abs(self.shear) > LEAST_SHEAR):
            sizes = np.linalg.norm(self.vox2world[:3, :3], axis=0)
            return sizes, self.vox2world[:3, :3] / sizes, self.centre
        return self.voxel_size, self.rotation, self.centre

    def describe(self) -> str:
        """Say shape, voxel size and centre in a few words."""
        shape = "x".join(map(str, self.shape))
        sizes, centre = (
            ", ".join(f"{value:.4g}" for value in values) for values in (self.voxel_size, self.centre)
        )
        return f"{shape} voxels of ({sizes}) mm centred on ({centre}) mm"


def network_geometry(extent: int, centre: ArrayLike) -> Geometry:
    """Return the grid that SynthMorph computes on: a cube of 1 mm voxels, LIA, about a world point.

    Parameters
    ----------
    extent
        Voxels along each axis, 192 or 256 for the published networks.
    centre
        World coordinates of the voxel index ``extent / 2``, shape ``(3,)``.

    Source: https://doi.org/10.1162/imag_a_00197
    """
    return Geometry.of_parts((extent,) * 3, (1.0, 1.0, 1.0), LIA, centre)


def shear_matrix(shear: ArrayLike) -> np.ndarray:
    """Return the unit upper triangular matrix of three shears."""
    matrix = np.eye(3)
    matrix[0, 1], matrix[0, 2], matrix[1, 2] = np.asarray(shear, dtype=np.float64)
    return matrix


def _header_voxel_size(header: Any) -> tuple[float, float, float] | None:
    if header is None or not hasattr(header, "get_zooms"):
        return None
    zooms = [float(zoom) for zoom in header.get_zooms()[:3]]
    return (zooms[0], zooms[1], zooms[2]) if len(zooms) == 3 else None
