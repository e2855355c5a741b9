"""Cut boxes out of volumes or set them into zeros, with the way back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.volume.image import Volume
from kerasneuro.volume.orient import ArrayInverse

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First voxel and one past the last, for each axis."""


def bounding_box(mask: np.ndarray) -> Box:
    """Return the smallest box that holds every voxel other than 0.

    Parameters
    ----------
    mask
        Shape ``(X, Y, Z)``.

    Returns
    -------
    Box
        ``((x0, x1), (y0, y1), (z0, z1))``, ends excluded; all zero for an empty mask.
    """
    planes = np.any(mask, axis=2)
    inside = [
        np.flatnonzero(planes.any(axis=1)),
        np.flatnonzero(planes.any(axis=0)),
        np.flatnonzero(np.any(np.any(mask, axis=0), axis=0)),
    ]
    if not len(inside[0]):
        return (0, 0), (0, 0), (0, 0)
    x, y, z = ((int(found[0]), int(found[-1]) + 1) for found in inside)
    return x, y, z


def slices(box: Box) -> tuple[slice, slice, slice]:
    """Write a box as an index of an array."""
    x, y, z = (slice(low, high) for low, high in box)
    return x, y, z


def grow_box(box: Box, margin: int, shape: Sequence[int]) -> Box:
    """Move each side of a box outwards by `margin` voxels, as far as an array of `shape` reaches."""
    x, y, z = (
        (max(low - margin, 0), min(high + margin, n)) for (low, high), n in zip(box, shape, strict=True)
    )
    return x, y, z


def cut(array: np.ndarray, box: Box) -> np.ndarray:
    """Return the voxels of a box; where it reaches outside the array they are 0.

    A box inside the array gives a view.
    """
    source = tuple(slice(max(low, 0), max(high, 0)) for low, high in box)
    inside = array[source]
    shape = tuple(high - low for low, high in box)
    if inside.shape[:3] == shape:
        return inside
    result = np.zeros(shape + array.shape[3:], array.dtype)
    starts = [max(-low, 0) for low, _ in box]
    into = tuple(slice(start, start + n) for start, n in zip(starts, inside.shape, strict=False))
    result[into] = inside
    return result


def paste(array: np.ndarray, box: Box, shape: Sequence[int]) -> np.ndarray:
    """Set the voxels of a box into zeros of `shape`; those outside of it are dropped."""
    back = tuple((-low, n - low) for (low, _), n in zip(box, shape, strict=True))
    x, y, z = back
    return cut(array, (x, y, z))


def crop_to_box(volume: Volume, box: Box) -> tuple[Volume, ArrayInverse]:
    """Cut a box out of a volume, adding zeros where it reaches outside.

    Parameters
    ----------
    volume
        Shape ``(X, Y, Z)``.
    box
        Voxels of `volume`; may begin below 0 and end beyond the last.

    Returns
    -------
    Volume
        The box; each voxel keeps its place in the world.
    inverse
        Sets an array ``(x, y, z, ...)`` of the box into zeros of the volume's shape.

    Raises
    ------
    InvalidOption
        If the box has no voxel.
    """
    if any(low >= high for low, high in box):
        raise InvalidOption(f"expected a box of at least one voxel, found {box}")
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [low for low, _ in box]

    def inverse(array: np.ndarray) -> np.ndarray:
        return paste(array, box, volume.shape)

    return volume.replace(array=cut(volume.array, box), affine=affine), inverse


def pad_to_multiple(volume: Volume, multiple: int | Sequence[int]) -> tuple[Volume, ArrayInverse]:
    """Add zeros after the last voxels until each axis is a multiple of `multiple`.

    Returns
    -------
    Volume
        The padded volume.
    inverse
        Cuts the padding off again.
    """
    multiples = (multiple,) * 3 if isinstance(multiple, int) else tuple(multiple)
    x, y, z = ((0, -(-n // m) * m) for n, m in zip(volume.shape, multiples, strict=True))
    return crop_to_box(volume, (x, y, z))


def crop_or_pad_centred(volume: Volume, shape: Sequence[int]) -> tuple[Volume, ArrayInverse]:
    """Cut or pad each axis to `shape` about its centre.

    Of an odd difference, cutting takes the larger part off the start, and padding adds it at the end
    (neuronets/nobrainer 1.2.1).
    """
    lows = [-((m - n) // 2) for n, m in zip(volume.shape, shape, strict=True)]
    x, y, z = ((low, low + m) for low, m in zip(lows, shape, strict=True))
    return crop_to_box(volume, (x, y, z))
