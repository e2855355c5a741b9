"""The spatial steps between the networks, computed by the backend; arrays in, arrays out.

`kerasneuro.models.synthmorph.fields_numpy` has the same functions for OpenVINO, whose gathering is slow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from keras import ops

from kerasneuro.nn import spatial
from kerasneuro.nn.sampling import displaced, sample_axes


def sample(volume: np.ndarray, places: Sequence[np.ndarray]) -> np.ndarray:
    """Sample a volume (1, X, Y, Z, 1) at one array of coordinates (1, x, y, z) per axis; 0 outside."""
    return np.asarray(ops.convert_to_numpy(sample_axes(volume, places, fill_value=0.0)))


def move(image: np.ndarray, matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Sample an image (1, X, Y, Z, 1) at the places of a grid under a matrix (3, 4); 0 outside."""
    moved = spatial.transform(image, matrix[None], fill_value=0.0, shift_center=False, shape=shape)
    return np.asarray(ops.convert_to_numpy(moved))


def integrate(velocity: np.ndarray, steps: int, matrix: np.ndarray, halfway: bool) -> np.ndarray:
    """Integrate a velocity and bring the displacement to the full grid.

    Parameters
    ----------
    velocity : ndarray (1, h, h, h, 3)
        On the half grid, in its voxels.
    steps : int
        Number of squarings.
    matrix : ndarray (3, 4)
        From the half grid to the full one.
    halfway : bool
        The half grid is that of the mid-space, which the matrix leads to, too.

    Returns
    -------
    ndarray (1, h, h, h, 3)
        From the half grid to the full one.
    """
    chain = [matrix[None], spatial.integrate(velocity, steps)]
    if halfway:
        chain.append(np.float32(0.5) * matrix[None])
    return np.asarray(ops.convert_to_numpy(spatial.compose(chain, shift_center=False)))


def bring(field: np.ndarray, first: np.ndarray, last: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Compose two matrices around a displacement from the half grid to the full one.

    Parameters
    ----------
    field : ndarray (1, h, h, h, 3)
        The displacement.
    first, last : ndarray (3, 4)
        From a grid to the full one, and from there to the voxels of a scan.
    shape : sequence of int
        That grid.

    Returns
    -------
    ndarray (1, x, y, z, 3)
        From that grid to the voxels of the scan.
    """
    right = spatial.affine_to_dense(first[None], shape, shift_center=False)
    places = displaced(right)
    # Beyond the full grid, its displacement repeats: the same halves are subtracted as at its border.
    largest = 2.0 * field.shape[1] - 1
    halves = ops.stack([0.5 * ops.clip(place, 0.0, largest) for place in places], axis=-1)
    step = sample_axes(field, [0.5 * place for place in places])
    result = spatial.affine_to_dense(last[None], shape, shift_center=False, right=right + step - halves)
    return np.asarray(ops.convert_to_numpy(result))
