"""Distances between the surfaces of two masks in mm, and the error of the volume; NumPy and SciPy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from kerasneuro.errors import InvalidImage, InvalidOption


def surface(mask: np.ndarray) -> np.ndarray:
    """Return the voxels of a mask that touch its outside by a face; the border of the array is outside.

    Parameters
    ----------
    mask : numpy.ndarray
        Bool, any number of axes.

    Returns
    -------
    numpy.ndarray
        Same shape, bool.
    """
    return mask & ~ndimage.binary_erosion(mask)


def surface_distances(
    truth: np.ndarray, predicted: np.ndarray, voxel_size: Sequence[float] | float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Measure from each surface voxel of one mask to the nearest one of the other, both ways.

    Distances are Euclidean, between centres of voxels, by SciPy's exact distance transform. They are taken
    in the smallest box that holds both masks, which changes nothing but the time.

    Parameters
    ----------
    truth, predicted : numpy.ndarray
        Masks of one shape (X, Y, Z); what is not 0 is inside.
    voxel_size : float or sequence of float
        In mm along each axis.

    Returns
    -------
    predicted_to_truth, truth_to_predicted : numpy.ndarray
        In mm, one number for each surface voxel. Both are empty if a mask is empty.

    Raises
    ------
    InvalidImage
        If the shapes differ.
    InvalidOption
        If the voxel sizes are not positive, or not one for each axis.
    """
    truth, predicted = _masks(truth, predicted)
    sizes = _sizes(voxel_size, truth.ndim)
    if not truth.any() or not predicted.any():
        return np.empty(0), np.empty(0)
    (box,) = ndimage.find_objects((truth | predicted).astype(np.uint8))
    # The border of the box is outside, as the border of the array is.
    true_surface, found_surface = surface(truth[box]), surface(predicted[box])
    to_truth = ndimage.distance_transform_edt(~true_surface, sampling=sizes)
    to_found = ndimage.distance_transform_edt(~found_surface, sampling=sizes)
    return to_truth[found_surface], to_found[true_surface]


def hausdorff_95(
    truth: np.ndarray,
    predicted: np.ndarray,
    voxel_size: Sequence[float] | float = 1.0,
    percentile: float = 95.0,
) -> float:
    """Compute the 95th percentile of the Hausdorff distance, in mm: the larger of the two directions.

    Parameters
    ----------
    truth, predicted : numpy.ndarray
        Masks of one shape (X, Y, Z).
    voxel_size : float or sequence of float
        In mm along each axis.
    percentile : float
        100 gives the Hausdorff distance itself.

    Returns
    -------
    float
        0 if both masks are empty, infinite if one is.

    Raises
    ------
    InvalidImage
        If the shapes differ.
    InvalidOption
        If the voxel sizes are not positive, or the percentile is not from 0 to 100.

    References
    ----------
    D. P. Huttenlocher et al. (1993), doi:10.1109/34.232073.
    """
    if not 0 <= percentile <= 100:
        raise InvalidOption(f"a percentile lies between 0 and 100, found {percentile}")
    found, missed = surface_distances(truth, predicted, voxel_size)
    if not len(found):
        return _without_surface(truth, predicted)
    return float(max(np.percentile(found, percentile), np.percentile(missed, percentile)))


def surface_distance(
    truth: np.ndarray, predicted: np.ndarray, voxel_size: Sequence[float] | float = 1.0
) -> float:
    """Compute the average symmetric surface distance, in mm: the mean over the voxels of both surfaces.

    Parameters
    ----------
    truth, predicted : numpy.ndarray
        Masks of one shape (X, Y, Z).
    voxel_size : float or sequence of float
        In mm along each axis.

    Returns
    -------
    float
        0 if both masks are empty, infinite if one is.

    Raises
    ------
    InvalidImage
        If the shapes differ.
    InvalidOption
        If the voxel sizes are not positive.
    """
    both = surface_distances(truth, predicted, voxel_size)
    if not len(both[0]):
        return _without_surface(truth, predicted)
    return float(np.concatenate(both).mean())


def volume_error(truth: np.ndarray, predicted: np.ndarray, *, absolute: bool = False) -> float:
    """Compute (predicted - true) / true volume.

    Parameters
    ----------
    truth, predicted : numpy.ndarray
        Masks of one shape (X, Y, Z).
    absolute : bool
        Leave out the sign.

    Returns
    -------
    float
        Above 0 if too much was found; 0 if both masks are empty, infinite if only the true one is.

    Raises
    ------
    InvalidImage
        If the shapes differ.
    """
    truth, predicted = _masks(truth, predicted)
    wanted, found = int(truth.sum()), int(predicted.sum())
    if not wanted:
        return float("inf") if found else 0.0
    error = (found - wanted) / wanted
    return abs(error) if absolute else error


def _masks(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two bool masks of one shape."""
    truth, predicted = np.asarray(truth) != 0, np.asarray(predicted) != 0
    if truth.shape != predicted.shape:
        raise InvalidImage(
            f"two masks are compared on one grid, found {truth.shape} and {predicted.shape}; resample one"
        )
    return truth, predicted


def _sizes(voxel_size: Sequence[float] | float, axes: int) -> tuple[float, ...]:
    """Return the voxel size along each axis."""
    sizes = tuple(float(size) for size in np.atleast_1d(voxel_size))
    sizes = sizes * axes if len(sizes) == 1 else sizes
    if len(sizes) != axes or not all(0 < size < float("inf") for size in sizes):
        raise InvalidOption(
            f"voxel_size is one positive number of mm for each of {axes} axes, found {voxel_size}"
        )
    return sizes


def _without_surface(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the distance where at least one mask is empty."""
    return float("inf") if np.any(truth) or np.any(predicted) else 0.0
