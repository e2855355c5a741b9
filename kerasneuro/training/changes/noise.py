"""Smooth random fields, and label maps moved by them, in NumPy; every draw comes from the caller's generator.

Fields are linear between random values on coarse grids; vectors are in voxels, component d along axis d. The
rules of interpolation are those of the networks' own layers: grids are enlarged corner on corner, velocities
are integrated with a repeated border.

Source: adalca/neurite@7c4b05e, ``neurite/tf/utils/augment.py`` (`draw_perlin`) and
``neurite/tf/models.py`` (`labels_to_image`); M. Hoffmann et al. (2022), doi:10.1109/TMI.2021.3116879.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

INTEGRATION_STEPS = 5


def smooth_noise(
    shape: Sequence[int],
    scales: Sequence[float],
    deviations: Sequence[float] | np.ndarray,
    generator: np.random.Generator,
    channels: int = 1,
) -> np.ndarray:
    """Draw a sum of normal noise at several scales.

    The noise of each scale lives on a grid that is coarser by it, and is enlarged by linear interpolation.

    Parameters
    ----------
    shape : sequence of int
        Voxels along each axis, any number of axes.
    scales : sequence of float
        Voxels from one random value to the next.
    deviations : sequence of float
        Standard deviation of each scale.
    generator : numpy.random.Generator
        Where all is drawn from.
    channels : int
        Number of independent fields.

    Returns
    -------
    numpy.ndarray
        Shape ``(*shape, channels)``, float32.
    """
    total = np.zeros((*shape, channels), np.float32)
    for scale, deviation in zip(scales, deviations, strict=True):
        coarse = [max(1, math.ceil(size / scale)) for size in shape]
        noise = generator.standard_normal((*coarse, channels), dtype=np.float32) * np.float32(deviation)
        total += enlarge(noise, shape)
    return total


def enlarge(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Interpolate a coarse array linearly, its corners on the corners of the result.

    Parameters
    ----------
    values : numpy.ndarray
        Shape ``(x, y, z, C)``, one axis more than `shape`.
    shape : sequence of int
        Voxels of the result.

    Returns
    -------
    numpy.ndarray
        Shape ``(*shape, C)``, float32.
    """
    for axis, size in enumerate(shape):
        weights = _linear_weights(values.shape[axis], size)
        values = np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)
    return np.ascontiguousarray(values, np.float32)


def _linear_weights(old: int, new: int) -> np.ndarray:
    """Return the matrix ``(new, old)`` of linear interpolation, corner on corner."""
    places = np.linspace(0, old - 1, new)
    lower = np.clip(np.floor(places).astype(int), 0, max(old - 2, 0))
    weights = np.zeros((new, old), np.float32)
    rows = np.arange(new)
    weights[rows, lower] = 1 - (places - lower)
    weights[rows, np.minimum(lower + 1, old - 1)] += places - lower
    return weights


def integrate_velocity(velocity: np.ndarray, steps: int = INTEGRATION_STEPS) -> np.ndarray:
    """Integrate a stationary velocity over unit time by scaling and squaring; the border repeats.

    Source: V. Arsigny et al. (2006), doi:10.1007/11866565_113.

    Parameters
    ----------
    velocity : numpy.ndarray
        Shape ``(X, Y, Z, 3)`` or ``(X, Y, 2)``, in voxels.
    steps : int
        Number of squarings.

    Returns
    -------
    numpy.ndarray
        Displacement, same shape, float32, in voxels.
    """
    displacement = velocity.astype(np.float32) / np.float32(2**steps)
    for _ in range(steps):
        places = _places(displacement)
        moved = [
            ndimage.map_coordinates(displacement[..., part], places, order=1, mode="nearest")
            for part in range(displacement.shape[-1])
        ]
        displacement = displacement + np.stack(moved, axis=-1)
    return displacement


def random_displacement(
    shape: Sequence[int], scales: Sequence[float], deviation: float, generator: np.random.Generator
) -> np.ndarray:
    """Draw a diffeomorphic displacement: a random velocity on a grid of half the size, integrated.

    Parameters
    ----------
    shape : sequence of int
        Voxels along each of 2 or 3 axes.
    scales : sequence of float
        Voxels of the full grid from one random velocity to the next.
    deviation : float
        Largest standard deviation of the velocity, in voxels of the half grid; that of each scale is
        uniform from 0.
    generator : numpy.random.Generator
        Where all is drawn from.

    Returns
    -------
    numpy.ndarray
        Shape ``(*shape, N)``, float32, in voxels of the full grid.
    """
    half = [max(1, size // 2) for size in shape]
    deviations = generator.uniform(0, deviation, len(scales))
    velocity = smooth_noise(half, [scale / 2 for scale in scales], deviations, generator, len(half))
    return enlarge(2 * integrate_velocity(velocity), shape)


def warp_labels(labels: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Take each voxel's label from ``x + u(x)``, the nearest voxel; 0 from outside.

    Parameters
    ----------
    labels : numpy.ndarray
        Shape ``(X, Y, Z)`` or ``(X, Y)``, whole numbers.
    displacement : numpy.ndarray
        Shape ``(*shape, N)``, in voxels.

    Returns
    -------
    numpy.ndarray
        Same shape and dtype as `labels`.
    """
    places = _places(displacement)
    last = np.reshape([size - 1 for size in labels.shape], (-1, *[1] * labels.ndim))
    inside = np.all((places >= 0) & (places <= last), axis=0)
    nearest = np.clip(np.rint(places), 0, last).astype(np.intp)
    return np.where(inside, labels[tuple(nearest)], 0).astype(labels.dtype)


def _places(displacement: np.ndarray) -> np.ndarray:
    """Return ``x + u(x)`` with the axes first: ``(N, *shape)``."""
    shape = displacement.shape[:-1]
    grid: tuple[np.ndarray, ...] = np.indices(shape, dtype=np.float32, sparse=True)
    return np.stack([axis + displacement[..., part] for part, axis in enumerate(grid)])
