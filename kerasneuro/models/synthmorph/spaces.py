"""The grids of two scans and of the networks, and the matrices between them: NumPy, float64.

Source: freesurfer/freesurfer@2015394, ``mri_synthmorph/synthmorph/registration.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.volume.geometry import Geometry, network_geometry

IMAGINARY = 1e-6  # a root with larger imaginary parts is no real matrix


@dataclass(frozen=True)
class Spaces:
    """How the voxels of the networks' grid lie in those of both scans; matrices (4, 4), zero-based voxels.

    Attributes
    ----------
    extent : int
        Voxels of the networks' cube along each axis.
    moving, fixed : Geometry
        The grids of the scans.
    net_to_moving, net_to_fixed : ndarray
        From the cube around each scan, an initial transform included, to its voxels.
    """

    extent: int
    moving: Geometry
    fixed: Geometry
    net_to_moving: np.ndarray
    net_to_fixed: np.ndarray

    @property
    def moving_to_net(self) -> np.ndarray:
        """From the voxels of the moving scan to those of its cube."""
        return np.linalg.inv(self.net_to_moving)

    @property
    def fixed_to_net(self) -> np.ndarray:
        """From the voxels of the fixed scan to those of its cube."""
        return np.linalg.inv(self.net_to_fixed)


def network_spaces(
    moving: Geometry,
    fixed: Geometry,
    extent: int,
    *,
    shared_centre: bool = False,
    initial: np.ndarray | None = None,
    mid_space: bool = False,
) -> Spaces:
    """Place the networks' cube around both scans.

    Parameters
    ----------
    moving, fixed : Geometry
    extent : int
        Voxels of 1 mm along each axis.
    shared_centre : bool
        Place both cubes around the centre of the fixed scan, as the purely deformable network expects.
    initial : ndarray (4, 4), optional
        Voxels of the moving scan to those of the fixed one, applied before the networks see the scans.
    mid_space : bool
        Move both scans half-way instead of the moving one all the way.

    Returns
    -------
    Spaces

    Raises
    ------
    InvalidOption
        If the initial matrix has no inverse or no real square root.
    """
    cube = network_geometry(extent, fixed.centre)
    net_to_fixed = fixed.world2vox @ cube.vox2world
    if not shared_centre:
        cube = network_geometry(extent, moving.centre)
    net_to_moving = moving.world2vox @ cube.vox2world
    if initial is not None:
        change = np.linalg.inv(net_to_fixed) @ initial @ net_to_moving
        if mid_space:
            change = half_way(change)
            net_to_fixed = net_to_fixed @ change
        net_to_moving = net_to_moving @ np.linalg.inv(change)
    return Spaces(extent, moving, fixed, net_to_moving, net_to_fixed)


def half_way(matrix: np.ndarray) -> np.ndarray:
    """Return the principal square root of a matrix (4, 4).

    Raises
    ------
    InvalidOption
        If it is not real, such as that of a half turn.
    """
    from scipy.linalg import sqrtm

    root = np.asarray(sqrtm(np.asarray(matrix, np.float64)))
    if not np.isfinite(root).all() or np.abs(root.imag).max() > IMAGINARY:
        raise InvalidOption(
            "the mid-space needs an initial matrix with a real square root, found one without (it turns by "
            "180 degrees or mirrors); leave out the mid-space, or give an initial matrix closer to the result"
        )
    return np.asarray(root.real, np.float64)
