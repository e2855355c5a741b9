"""From two scans to transforms between their voxels: grids, networks, integration, composition.

All fields stay on the networks' half grid. The original computes them on the full one besides (1 mm, 0.2 GB
each) and samples that; but its values there are linear interpolations of the half grid at nodes that divide
its cells, so sampling the half grid itself gives the same numbers.

Source: freesurfer/freesurfer@2015394, ``mri_synthmorph/synthmorph/registration.py``;
voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/networks.py`` (`HyperVxmJoint`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import ModuleType

import numpy as np

from kerasneuro.errors import InvalidImage
from kerasneuro.models.synthmorph.spaces import Spaces

Compute = Callable[[np.ndarray], np.ndarray]
POINTS = 1 << 23  # voxels of a native grid whose displacements are computed at once


def network_input(array: np.ndarray, net_to_scan: np.ndarray, extent: int, name: str) -> np.ndarray:
    """Resample a scan on the networks' grid and scale it to [0, 1].

    Parameters
    ----------
    array : ndarray (X, Y, Z)
        Voxels of the scan.
    net_to_scan : ndarray (4, 4)
        Voxels of the networks' grid to those of the scan.
    extent : int
        Voxels of the networks' grid along each axis.
    name : str
        What the scan is called in an error.

    Returns
    -------
    ndarray (1, E, E, E, 1)
        float32; 0 outside the scan before scaling.

    Raises
    ------
    InvalidImage
        If nothing but one value is left.
    """
    volume = np.ascontiguousarray(array, np.float32)[None, ..., None]
    result, compute = np.empty((1, *(extent,) * 3, 1), np.float32), fields()
    for start, stop in slabs((extent,) * 3):
        places = rounded_places(net_to_scan, start, stop, extent)
        result[:, start:stop] = compute.sample(volume, places)
    result -= result.min()
    largest = result.max()
    if not largest > 0:
        raise InvalidImage(
            f"the {name} image has one value only within the box of {extent} mm that the network sees: it is "
            "constant, or its field of view does not meet that box; check both images, and align scans that "
            "lie far apart by a rigid or affine registration first"
        )
    result /= largest
    return result


def rounded_places(matrix: np.ndarray, start: int, stop: int, extent: int) -> list[np.ndarray]:
    """Return where the planes from `start` to `stop` of a cube lie, rounded at each step as in the original.

    Near voxel 0 these places have the precision of the index alone, about 1e-5. That decides whether a voxel
    at the border of the scan counts as outside, and its whole value hangs on it. So it must not depend on the
    backend: a product and its sum are rounded once, to float32, as processors do that fuse them.
    """
    indices = [np.arange(start, stop), np.arange(extent), np.arange(extent)]
    x, y, z = np.meshgrid(*(axis.astype(np.float64) for axis in indices), indexing="ij", sparse=True)
    places = []
    for axis, row in zip((x, y, z), matrix[:3].astype(np.float32).astype(np.float64), strict=True):
        total = (row[0] * x).astype(np.float32)
        total = (row[1] * y + total).astype(np.float32)
        total = (row[2] * z + total).astype(np.float32)
        index = axis.astype(np.float32)
        places.append((index + (total + np.float32(row[3]) - index))[None])
    return places


def halve(volume: np.ndarray) -> np.ndarray:
    """Keep every second voxel of ``(1, E, E, E, C)``, beginning with the first."""
    return np.ascontiguousarray(volume[:, ::2, ::2, ::2])


def find_matrices(
    tower: Compute,
    images: Sequence[np.ndarray],
    shape: Sequence[int],
    *,
    rigid: bool = False,
    mid_space: bool = False,
) -> list[np.ndarray]:
    """Fit the matrices between two images that the detector sees one after the other.

    Parameters
    ----------
    tower : callable
        From an image ``(1, X, Y, Z, 1)`` to its features.
    images : sequence of two ndarrays
    shape : sequence of int
        Grid whose voxels the matrices are in.
    rigid, mid_space : bool
        See `kerasneuro.models.synthmorph.fit.fit_matrices`.

    Returns
    -------
    list of two ndarrays (3, 4)
    """
    from keras import ops

    from kerasneuro.models.synthmorph.fit import fit_matrices

    first, second = (ops.convert_to_tensor(tower(image)) for image in images)
    pair = fit_matrices(first, second, shape, rigid=rigid, mid_space=mid_space)
    # Both at once: OpenVINO compiles all that leads to an array which is asked for.
    return list(np.asarray(ops.convert_to_numpy(ops.concatenate(pair))))


def find_displacements(
    network: Compute, images: Sequence[np.ndarray], steps: int, tower: Compute | None = None
) -> list[np.ndarray]:
    """Find the displacements between two images on the full grid, in both directions.

    Parameters
    ----------
    network : callable
        From a pair of images ``(1, h, h, h, 2)`` to its velocity ``(1, h, h, h, 3)``.
    images : sequence of two ndarrays (1, E, E, E, 1)
    steps : int
        Squarings of the integration.
    tower : callable, optional
        The detector, for an affine step before; the networks then meet half-way.

    Returns
    -------
    list of two ndarrays (1, h, h, h, 3)
        Displacements that pull image 1 and 2: from the voxels of the half grid to those of the full one.
    """
    compute = fields()
    double = np.diag([2.0, 2, 2, 1])[:3].astype(np.float32)
    halves = [halve(image) for image in images]
    grid = halves[0].shape[1:4]
    matrices = [double, double]
    if tower is not None:
        fitted = find_matrices(tower, halves, grid, mid_space=True)
        matrices = [np.float32(2) * matrix for matrix in fitted]
        halves = [compute.move(*part, grid) for part in zip(images, matrices, strict=True)]
    velocity = find_velocity(network, *halves)
    return [
        compute.integrate(np.float32(sign) * velocity, steps, matrix, tower is not None)
        for sign, matrix in zip((1, -1), matrices, strict=True)
    ]


def find_velocity(network: Compute, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return half the difference of the velocities of both orders, one after the other to save memory."""
    velocity = np.array(network(np.concatenate([first, second], axis=-1)))
    velocity -= network(np.concatenate([second, first], axis=-1))
    velocity *= 0.5
    return velocity


def native_matrices(spaces: Spaces, pair: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Bring both matrices between the networks' grids to the voxels of the scans.

    Returns
    -------
    pull_moving, pull_fixed : ndarray (4, 4)
        Where, in the moving scan, a voxel of the fixed one takes its value; and the other way.
    """
    forward, backward = (np.vstack([matrix, [0, 0, 0, 1]]).astype(np.float64) for matrix in pair)
    to_moving, to_fixed = single(spaces.net_to_moving), single(spaces.net_to_fixed)
    from_moving, from_fixed = single(spaces.moving_to_net), single(spaces.fixed_to_net)
    return to_moving @ forward @ from_fixed, to_fixed @ backward @ from_moving


def single(matrix: np.ndarray) -> np.ndarray:
    """Round a matrix to float32, in which the original hands it on."""
    return matrix.astype(np.float32).astype(np.float64)


def native_displacement(
    total: np.ndarray, net_to_source: np.ndarray, target_to_net: np.ndarray, shape: Sequence[int]
) -> np.ndarray:
    """Bring a displacement from the networks' half grid to the voxels of the scans.

    Parameters
    ----------
    total : ndarray (1, h, h, h, 3)
        From the half grid to the full grid around the source.
    net_to_source : ndarray (4, 4)
        From the full grid to the voxels of the source.
    target_to_net : ndarray (4, 4)
        From the voxels of the target to the full grid around it.
    shape : sequence of int
        Grid of the target.

    Returns
    -------
    ndarray (X, Y, Z, 3)
        float32: voxel of the source minus voxel of the target.
    """
    result, compute = np.empty((*shape, 3), np.float32), fields()
    for start, stop in slabs(shape):
        shift = np.eye(4)
        shift[0, 3] = start
        first = (target_to_net @ shift)[:3].astype(np.float32)
        last = (np.linalg.inv(shift) @ net_to_source)[:3].astype(np.float32)
        result[start:stop] = compute.bring(total, first, last, (stop - start, *shape[1:]))[0]
    return result


def fields() -> ModuleType:
    """Return what computes the spatial steps on this backend."""
    from keras.backend import backend

    own = "fields_numpy" if backend() == "openvino" else "fields"
    return import_module(f"kerasneuro.models.synthmorph.{own}")


def slabs(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Divide the first axis of a grid into runs of about `POINTS` voxels."""
    planes = max(1, POINTS // (int(shape[1]) * int(shape[2])))
    for start in range(0, int(shape[0]), planes):
        yield start, min(start + planes, int(shape[0]))
