"""Bring heat maps from one grid to another: to the input of the network, and to the scan of the subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.volume import Volume, load, to_image
from kerasneuro.volume.image import Image
from kerasneuro.volume.resample import interpolate_axes, linear_table, stretch_coordinates


def corner_coordinates(n: int, m: int) -> np.ndarray:
    """Return where `m` samples lie on an axis of `n` voxels if the first and the last voxels coincide."""
    return np.arange(m) * ((n - 1) / (m - 1)) if m > 1 else np.zeros(1)


def half_pixel_coordinates(n: int, m: int) -> np.ndarray:
    """Return where the centres of `m` equal parts of an axis of `n` voxels lie, held inside the grid."""
    return np.clip(stretch_coordinates(n, m), 0, n - 1)


GRIDS: dict[str, Callable[[int, int], np.ndarray]] = {
    "corner": corner_coordinates,
    "centre": half_pixel_coordinates,
}


def resize_map(heat: np.ndarray, shape: Sequence[int], grid: str = "centre") -> np.ndarray:
    """Resize a map trilinearly.

    Parameters
    ----------
    heat : ndarray
        Shape ``(X, Y, Z)``.
    shape : sequence of int
        New shape.
    grid : {"centre", "corner"}
        ``centre``: both grids cover the same box, voxel against voxel border (half-pixel centres, as
        ``align_corners=False`` of PyTorch). ``corner``: the centres of the first and of the last voxels
        coincide (as ``scipy.ndimage.zoom``).

    Returns
    -------
    ndarray
        Of the new shape; floats keep their type.

    Raises
    ------
    InvalidOption
        If the map has no three axes, or `grid` is unknown.
    """
    array = np.asarray(heat)
    if array.ndim != 3 or array.size == 0 or len(tuple(shape)) != 3:
        raise InvalidOption(f"expected one map with three axes, found shape {array.shape}")
    if grid not in GRIDS:
        raise InvalidOption(f"grid must be one of {', '.join(GRIDS)}; got {grid!r}")
    pairs = zip(array.shape, shape, strict=True)
    # Rounding may put the last sample a hair beyond the grid, where voxels would count as 0.
    tables = [linear_table(np.clip(GRIDS[grid](n, m), 0, n - 1), n) for n, m in pairs]
    return interpolate_axes(array, tables)


def to_native(heat: np.ndarray, image: Image | Volume, grid: str = "corner") -> Any:
    """Bring a heat map from the grid of the network to the grid of the scan.

    Parameters
    ----------
    heat : ndarray
        Shape ``(X, Y, Z)``, on a grid that the whole scan was resized to, axes as stored in the scan.
    image : path, nibabel image or Volume
        The scan.
    grid : {"corner", "centre"}
        How the scan was resized to the grid of the network; see `resize_map`. The map goes the way back.

    Returns
    -------
    nibabel image
        float32, with the header of the scan.

    Raises
    ------
    InvalidOption
        If the map has no three axes, is not finite, or `grid` is unknown.
    InvalidImage
        If the scan cannot be used.

    Examples
    --------
    >>> heat = grad_cam(task.model, batch)[0]  # doctest: +SKIP
    >>> save_image(to_native(heat, "T1.nii.gz"), "heat.nii.gz")  # doctest: +SKIP
    """
    scan = load(image, dtype=None, check_constant=False, allow_nan=True)
    array = np.asarray(heat, dtype=np.float32)
    if not np.isfinite(array).all():
        raise InvalidOption("the heat map holds NaN or infinite values")
    return to_image(resize_map(array, scan.shape, grid), scan, dtype=np.float32)
