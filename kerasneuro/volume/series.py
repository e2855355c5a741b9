"""Read images of one or several frames, and put new voxels under the header of an image."""

from __future__ import annotations

from typing import Any

import nibabel
import numpy as np

from kerasneuro.volume.geometry import Geometry
from kerasneuro.volume.header_check import (
    check_image,
    check_memory,
    check_payload,
    frame_shape,
    reading_voxels,
)
from kerasneuro.volume.image import Image, Volume, open_image

MGH_TYPES = (np.uint8, np.int16, np.int32, np.float32)


def read_series(image: Image | Volume) -> tuple[np.ndarray, Geometry, Any]:
    """Read the voxels of a 3-D or 4-D image without changing their type.

    Parameters
    ----------
    image
        Path, nibabel image or `Volume`.

    Returns
    -------
    tuple
        Voxels ``(X, Y, Z)`` or ``(X, Y, Z, T)``, geometry, and header (None if there is none). Slope and
        intercept of the file are applied.

    Raises
    ------
    InvalidImage
        If the file is missing, damaged, not an image, or neither 3-D nor 4-D.
    """
    if isinstance(image, Volume):
        return image.array, Geometry.of(image), image.header
    opened, path = open_image(image)
    name = str(path) if path else "image"
    check_image(opened, name)
    frame_shape(opened.shape, "first", name)
    geometry = Geometry.of(opened)
    check_memory(opened.shape, np.dtype(opened.get_data_dtype()).itemsize, name)
    with reading_voxels(name):
        check_payload(opened.dataobj, name)
        array = np.asanyarray(opened.dataobj)
    return array, geometry, opened.header


def read_geometry(image: Image | Volume) -> Geometry:
    """Read where the voxels of an image lie, without its voxels.

    Raises
    ------
    InvalidImage
        As `read_series`.
    """
    if isinstance(image, Volume):
        return Geometry.of(image)
    opened, path = open_image(image)
    name = str(path) if path else "image"
    check_image(opened, name)
    frame_shape(opened.shape, "first", name)
    return Geometry.of(opened)


def image_on_grid(array: np.ndarray, geometry: Geometry, header: Any = None) -> Any:
    """Make a nibabel image of voxels on a grid, with what else the header of another image says.

    Parameters
    ----------
    array
        Shape ``(X, Y, Z)`` or ``(X, Y, Z, T)``, stored as it is.
    geometry
        The grid.
    header
        NIfTI keeps version, codes of the coordinate systems, units, time step and description; MGH stays MGH
        where it knows the type; all else becomes NIfTI-1.
    """
    if isinstance(header, nibabel.MGHImage.header_class) and array.dtype in MGH_TYPES:
        fresh = nibabel.MGHImage(array, geometry.vox2world)
        if array.ndim == 4:
            fresh.header["tr"] = header["tr"]
        return fresh
    is_nifti = isinstance(header, nibabel.Nifti1Header)
    image_class = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = image_class(array, geometry.vox2world, dtype=array.dtype)
    sform = qform = 1
    if is_nifti:
        if int(header["sform_code"]) or int(header["qform_code"]):
            sform, qform = int(header["sform_code"]), int(header["qform_code"])
        image.header["descrip"] = header["descrip"]
        image.header["toffset"] = header["toffset"]
        image.header["xyzt_units"] = int(header["xyzt_units"]) & ~7
        image.header["pixdim"][4] = header["pixdim"][4]
    image.header["xyzt_units"] = int(image.header["xyzt_units"]) | 2  # mm
    image.set_sform(geometry.vox2world, sform or qform)
    image.set_qform(geometry.vox2world, qform)
    if not np.allclose(image.get_qform(), geometry.vox2world, atol=1e-3):
        image.set_qform(geometry.vox2world, 0)  # A qform cannot hold shears, so only the sform counts.
    return image
