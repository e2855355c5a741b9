"""Move patches of labelled scans at random; only the voxels that a patch needs are interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from kerasneuro.training.scans.cutting import Changed, box_at
from kerasneuro.volume.crop import cut


@dataclass(frozen=True, eq=False)
class PatchWarp:
    """Where each voxel of a patch is taken from: ``centre + matrix @ (voxel - centre) + offset + field``.

    Attributes
    ----------
    matrix : numpy.ndarray or None
        Shape ``(3, 3)``, about the centre of the patch; None for none.
    offset : numpy.ndarray
        Shape ``(3,)``, in voxels.
    displacement : numpy.ndarray or None
        Shape ``(*patch, 3)``, in voxels; None for none.
    mirrored : tuple of int
        Axes along which the result is mirrored.
    """

    matrix: np.ndarray | None = None
    offset: np.ndarray | None = None
    displacement: np.ndarray | None = None
    mirrored: tuple[int, ...] = ()

    def apply(
        self, image: np.ndarray, classes: np.ndarray, start: Sequence[int], shape: Sequence[int]
    ) -> Changed:
        """Take a patch from a whole scan: the image linearly, the classes from the nearest voxel.

        Parameters
        ----------
        image : numpy.ndarray
            Shape ``(X, Y, Z, C)``, float32.
        classes : numpy.ndarray
            Shape ``(X, Y, Z)``.
        start, shape : sequence of int
            First voxel and size of the patch.

        Returns
        -------
        image : numpy.ndarray
            Shape ``(*shape, C)``, float32; zeros outside the scan.
        classes : numpy.ndarray
            Shape `shape`; 0 outside the scan.
        """
        if self.matrix is None and self.displacement is None:
            box = box_at(start, shape)
            patch, labels = cut(image, box), cut(classes, box)
        else:
            patch, labels = self._interpolate(image, classes, start, shape)
        if self.mirrored:
            patch, labels = np.flip(patch, self.mirrored), np.flip(labels, self.mirrored)
        return patch, labels

    def _interpolate(
        self, image: np.ndarray, classes: np.ndarray, start: Sequence[int], shape: Sequence[int]
    ) -> Changed:
        matrix = np.eye(3) if self.matrix is None else self.matrix
        centre = (np.array(shape) - 1) / 2
        offset = centre - matrix @ centre + (0 if self.offset is None else self.offset)
        low, high = _reach(matrix, offset, self.displacement, shape)
        # One voxel more on each side, so that no interpolation sees the border of the box.
        first, size = low - 1, high - low + 3
        box = box_at(np.array(start) + first, size)
        source, labels = cut(image, box), cut(classes, box)
        patch = np.empty((*shape, image.shape[-1]), np.float32)
        if self.displacement is None:
            moved = {"offset": offset - first, "output_shape": tuple(shape)}
            for channel in range(image.shape[-1]):
                patch[..., channel] = ndimage.affine_transform(source[..., channel], matrix, order=1, **moved)
            return patch, ndimage.affine_transform(labels, matrix, order=0, **moved)
        places = _places(matrix, offset - first, self.displacement, shape)
        for channel in range(image.shape[-1]):
            patch[..., channel] = ndimage.map_coordinates(source[..., channel], places, order=1)
        return patch, ndimage.map_coordinates(labels, places, order=0)


def _reach(
    matrix: np.ndarray, offset: np.ndarray, displacement: np.ndarray | None, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest voxel that the patch reaches along each axis."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    moved = corners @ matrix.T + offset
    low, high = moved.min(axis=0), moved.max(axis=0)
    if displacement is not None:
        low, high = low + displacement.min(axis=(0, 1, 2)), high + displacement.max(axis=(0, 1, 2))
    return np.floor(low).astype(int), np.ceil(high).astype(int)


def _places(
    matrix: np.ndarray, offset: np.ndarray, displacement: np.ndarray, shape: Sequence[int]
) -> np.ndarray:
    """Return where each voxel is taken from: ``(3, *shape)``, float32."""
    axes = np.indices(tuple(shape), dtype=np.float32, sparse=True)
    places = np.empty((3, *shape), np.float32)
    for row, weights in enumerate(matrix.astype(np.float32)):
        turned = weights[0] * axes[0] + weights[1] * axes[1] + weights[2] * axes[2]
        np.add(turned, displacement[..., row] + np.float32(offset[row]), out=places[row])
    return places
