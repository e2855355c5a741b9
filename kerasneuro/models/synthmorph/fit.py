"""From features to matrices: the weighted fit between the centres of mass of two feature maps.

Source: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/networks.py`` (`VxmAffineFeatureDetector`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from kerasneuro.nn.affine import barycentre, divide, fit_affine, invert_affine, square_root, uncentre
from kerasneuro.nn.affine_parameters import rigid_from_affine
from kerasneuro.nn.sampling import as_float


def fit_matrices(
    features_1: Any,
    features_2: Any,
    full_shape: Sequence[Any],
    *,
    rigid: bool = False,
    weighted: bool = True,
    mid_space: bool = False,
) -> tuple[Any, Any]:
    """Fit the matrices that map the voxels of each image to those of the other.

    Each channel of the features gives one pair of points, its centres of mass. The map from the second image
    to the first is averaged with the inverse of the opposite one, since neither fit is symmetric.

    Parameters
    ----------
    features_1, features_2 : tensor (B, x, y, z, F)
        Non-negative features of image 1 ("moving") and 2 ("fixed"), on one grid.
    full_shape : sequence of int
        Spatial shape (X, Y, Z) of the images, in whose voxels the matrices are.
    rigid : bool
        Keep shift and angles only.
    weighted : bool
        Weight each channel by the product of its shares of the mass of both features.
    mid_space : bool
        Return the maps from the mid-space to each image, so that both images can be moved half-way.

    Returns
    -------
    matrix_1, matrix_2 : tensor (B, 3, 4), float32
        Zero-based voxel indices to zero-based voxel indices. The first gives, for a voxel of the grid of
        image 2 (or of the mid-space), where image 1 takes its value; the second likewise for image 2.

    References
    ----------
    M. Hoffmann et al. (2023), doi:10.1117/12.2653251; M. Hoffmann et al. (2024), doi:10.1162/imag_a_00197.
    """
    sizes = ops.stack([ops.convert_to_tensor(as_float(size), dtype="float32") for size in full_shape])
    centres_1, centres_2 = (barycentre(features) * sizes for features in (features_1, features_2))
    weights = share_of_mass(features_1) * share_of_mass(features_2) if weighted else None
    matrix_1 = fit_affine(centres_1, centres_2, weights)
    opposite = fit_affine(centres_2, centres_1, weights)
    matrix_1 = 0.5 * (matrix_1 + invert_affine(opposite))
    if rigid:
        matrix_1 = rigid_from_affine(matrix_1)
    matrix_2 = invert_affine(matrix_1)
    if mid_space:
        matrix_1, matrix_2 = square_root(matrix_1), square_root(matrix_2)
    return uncentre(matrix_1, full_shape), uncentre(matrix_2, full_shape)


def share_of_mass(features: Any) -> Any:
    """Return the share of each channel in the sum of the features (B, x, y, z, F): (B, F)."""
    mass = ops.sum(features, axis=tuple(range(1, len(features.shape) - 1)))
    return divide(mass, ops.sum(mass, axis=-1, keepdims=True))
