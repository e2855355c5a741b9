"""Move an image by a spatial transform, with one interpolation."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from kerasneuro.errors import InvalidOption, InvalidTransform
from kerasneuro.volume.compose import compose_transforms
from kerasneuro.volume.geometry import Geometry
from kerasneuro.volume.image import Image, Volume
from kerasneuro.volume.sample import Method, sample_grid
from kerasneuro.volume.series import image_on_grid, read_series
from kerasneuro.volume.transform import Affine, Transform, Warp, same


def apply_transform(
    transform: Transform,
    image: Image | Volume,
    *,
    method: Method = "linear",
    fill: float = 0.0,
    header_only: bool = False,
    dtype: DTypeLike | None = None,
    target: Geometry | None = None,
) -> Any:
    """Move an image, by the rules of ``mri_synthmorph apply``.

    Parameters
    ----------
    transform
        Where each voxel of the new image comes from; `compose_transforms` makes one of several. A matrix
        moves an image on any grid, by its place in the world; a warp moves images on its source grid alone.
    image
        Path, nibabel image or `Volume`; ``(X, Y, Z)``, or ``(X, Y, Z, T)`` of which each frame is moved.
    method
        "linear", or "nearest" for labels.
    fill
        Value of voxels that come from outside the image.
    header_only
        Keep the voxels and move their place in the world instead; for a matrix alone.
    dtype
        Type of the voxels, reals cut off to integers as NumPy does; None gives float32 for "linear" and
        keeps the type of the image else.
    target
        Grid of the new image; None takes the one that the transform holds.

    Returns
    -------
    nibabel image
        With the codes of the image's own header.

    Raises
    ------
    InvalidImage
        If the image cannot be used.
    InvalidTransform
        If a warp was made for another grid, or no grid is known for the new image.
    InvalidOption
        If an option is out of range, or the type cannot hold the values.

    Source: https://doi.org/10.1162/imag_a_00197 (mri_synthmorph of FreeSurfer, with surfa 0.6.3)
    """
    if method not in ("linear", "nearest"):
        raise InvalidOption(f"method is 'linear' or 'nearest', found {method!r}")
    array, geometry, header = read_series(image)
    if array.dtype.kind == "b":
        array = array.view(np.uint8)
    if header_only:
        moved, grid = array, moved_geometry(transform, geometry)
    else:
        name = str(image) if isinstance(image, str | os.PathLike) else "image"
        check_fits(transform, geometry, name)
        moved, grid = _resample(transform, array, geometry, method, fill, target)
    return image_on_grid(cast_voxels(moved, dtype), grid, header)


def check_fits(transform: Transform, geometry: Geometry, name: str = "image") -> None:
    """Refuse to move an image by the warp of another grid.

    Raises
    ------
    InvalidTransform
        If the transform is a warp whose source grid is not that of the image, within 1e-3.
    """
    if isinstance(transform, Warp) and transform.source is not None and geometry != transform.source:
        raise InvalidTransform(
            f"{name}: the warp moves images of {transform.source.describe()}, found {geometry.describe()}; "
            "resample the image to that grid, or register it itself"
        )


def moved_geometry(transform: Transform, geometry: Geometry) -> Geometry:
    """Return where an image lies after a matrix has moved it, its voxels untouched.

    Raises
    ------
    InvalidOption
        If the transform is a warp.
    """
    if not isinstance(transform, Affine):
        raise InvalidOption("a warp cannot be put into a header; header-only is for matrices alone")
    return Geometry(geometry.shape, transform.to_world().matrix @ geometry.vox2world)


def _resample(
    transform: Transform,
    array: np.ndarray,
    geometry: Geometry,
    method: Method,
    fill: float,
    target: Geometry | None,
) -> tuple[np.ndarray, Geometry]:
    frames = array.reshape(*array.shape[:3], -1) if array.ndim == 4 else array[..., np.newaxis]
    if isinstance(transform, Warp) and target is not None and not same(target, transform.target):
        transform = compose_transforms([transform], target=target)
    if isinstance(transform, Affine):
        matrix = transform.to_voxel(source=geometry, target=target)
        assert matrix.target is not None
        grid = matrix.target
        pull = np.linalg.inv(matrix.matrix)
        moved = sample_grid(frames, grid.shape, matrix=pull, method=method, fill=fill)
    else:
        grid = transform.target
        field = transform.to("disp_crs", source=geometry).displacement
        moved = sample_grid(frames, grid.shape, displacement=field, method=method, fill=fill)
    return (moved if array.ndim == 4 else moved[..., 0]), grid


def cast_voxels(array: np.ndarray, dtype: DTypeLike | None) -> np.ndarray:
    """Give voxels another type; reals are cut off to integers, as NumPy does.

    Raises
    ------
    InvalidOption
        If a value lies outside what the type can hold.
    """
    if dtype is None or array.dtype == dtype:
        return array
    wanted = np.dtype(dtype)
    if wanted.kind in "iu":
        low, high, limits = array.min(), array.max(), np.iinfo(wanted)
        if not (limits.min <= np.trunc(low) and np.trunc(high) <= limits.max):
            raise InvalidOption(f"values from {low:g} to {high:g} do not fit the type {wanted.name}")
    return array.astype(wanted)
