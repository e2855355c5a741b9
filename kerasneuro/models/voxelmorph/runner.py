"""Compute the displacement of a pair of images in little memory, and apply it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

    from kerasneuro.models.voxelmorph.parts import Parts

Compute = Callable[["keras.Model", np.ndarray], np.ndarray]
SLAB_BYTES = 10**9
PLANES_AT_ONCE = 8


def velocity(
    parts: Parts, both: np.ndarray, compute: Compute, reach: int, slab_bytes: int = SLAB_BYTES
) -> np.ndarray:
    """Compute the velocity of two images.

    Parameters
    ----------
    parts : Parts
        From `parts.divide`.
    both : ndarray
        Moving and fixed image, shape ``(1, X, Y, Z, 2)``, float32.
    compute : callable
        ``compute(model, batch)``: runs one of the parts.
    reach : int
        From `parts.head_reach`.
    slab_bytes : int
        For the maps of the first level, of which two planes and their neighbours at least.

    Returns
    -------
    ndarray
        Shape ``(1, x, y, z, 3)``, float32, on the grid of the integration.
    """
    if parts.head is not None:
        both = by_slabs(parts.head, both, compute, reach, slab_bytes)
    return compute(parts.velocity, both)


def by_slabs(
    head: keras.Model, both: np.ndarray, compute: Compute, reach: int, slab_bytes: int
) -> np.ndarray:
    """Compute convolutions and the pooling after them, in equal slabs along the first axis.

    The result is that of the whole image, since each slab brings the neighbours that its voxels see.
    """
    extent = both.shape[1]
    margin = reach + reach % 2
    thickness = slab_thickness(head, both.shape[1:4], margin, slab_bytes)
    if head.input_shape[1] is not None or thickness >= extent:
        return compute(head, both)
    result: Any = None
    done = 0
    while done < extent:
        start = min(max(done - margin, 0), extent - thickness)
        pooled = compute(head, both[:, start : start + thickness])
        stop = extent if start + thickness == extent else start + thickness - margin
        if result is None:
            result = np.empty((1, extent // 2, *pooled.shape[2:]), np.float32)
        result[:, done // 2 : stop // 2] = pooled[:, (done - start) // 2 : (stop - start) // 2]
        done = stop
    return result


def slab_thickness(head: keras.Model, shape: tuple[int, ...], margin: int, slab_bytes: int) -> int:
    """Choose how many planes, an even number, go through the first level at once."""
    filters = head.output_shape[-1]
    # The convolution's result, and the activation's.
    plane = 2 * 4 * filters * shape[1] * shape[2]
    planes = max(slab_bytes // plane, 2 * margin + 2)
    return min(planes - planes % 2, shape[0])


def warp_image(image: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Sample an image at ``x + u(x)``, linear, with its border repeated outside.

    Parameters
    ----------
    image : ndarray
        Shape ``(X, Y, Z)``, float32.
    displacement : ndarray
        Shape ``(X', Y', Z', 3)``, in voxels.

    Returns
    -------
    ndarray
        Shape ``(X', Y', Z')``, float32.
    """
    from scipy.ndimage import map_coordinates

    result = np.empty(displacement.shape[:3], np.float32)
    # Slab by slab, since the places are turned into double precision.
    for start in range(0, len(result), PLANES_AT_ONCE):
        slab = np.moveaxis(displacement[start : start + PLANES_AT_ONCE], -1, 0).astype(np.float64)
        for axis in range(3):
            first = start if axis == 0 else 0
            places = np.arange(first, first + slab.shape[axis + 1], dtype=np.float64)
            slab[axis] += places.reshape([-1 if other == axis else 1 for other in range(3)])
        result[start : start + PLANES_AT_ONCE] = map_coordinates(image, slab, order=1, mode="nearest")
    return result
