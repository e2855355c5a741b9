"""Make images of results that carry the header of the input, and write them whole or not at all."""

from __future__ import annotations

import gzip
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import DTypeLike

from kerasneuro.errors import InvalidOption, OutputError
from kerasneuro.volume.colour_table import MGH_TRAILER
from kerasneuro.volume.image import Volume

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh")
READ_SUFFIXES = (*IMAGE_SUFFIXES, ".img.gz", ".hdr.gz", ".img", ".hdr")
NIFTI_INTEGERS = (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)
MGH_INTEGERS = (np.uint8, np.int16, np.int32)
STORED = "kerasneuro_stored"  # key of nibabel's `extra`: (type, slope, intercept) to write the voxels with


def to_image(
    values: Volume | np.ndarray,
    like: Volume,
    *,
    dtype: DTypeLike | None = None,
    keep_frame_axis: bool = False,
) -> Any:
    """Make a nibabel image that carries the header of the input.

    Parameters
    ----------
    values
        Voxels ``(X, Y, Z)`` on the grid of `like`, or a `Volume` on any grid.
    like
        The scan as it was loaded. NIfTI keeps its version, codes, units and description; MGH stays MGH;
        all else becomes NIfTI-1.
    dtype
        On-disk type; None takes the smallest integer that holds the values, float32 for floats.
    keep_frame_axis
        Give the output a fourth axis of length 1 if the input had a fourth axis.

    Returns
    -------
    nibabel image
        With slope 1, intercept 0, and no display range.

    Raises
    ------
    InvalidOption
        If `dtype` cannot hold the values, or an array is not on the grid of `like`.
    """
    affine = values.affine if isinstance(values, Volume) else like.affine
    array = values.array if isinstance(values, Volume) else np.asarray(values)
    if not isinstance(values, Volume) and array.shape != like.shape:
        raise InvalidOption(f"expected an array of the input's shape {like.shape}, found {array.shape}")
    is_mgh = isinstance(like.header, nibabel.MGHImage.header_class)
    array = _cast(array, dtype, MGH_INTEGERS if is_mgh else NIFTI_INTEGERS)
    same_grid = array.shape == like.shape and np.array_equal(affine, like.affine)
    if keep_frame_axis and like.header is not None and len(like.header.get_data_shape()) == 4:
        array = array[..., np.newaxis]
    if is_mgh:
        header = like.header.copy()
        header.set_data_dtype(array.dtype)
        return nibabel.MGHImage(array, affine, header)
    if isinstance(like.header, nibabel.Nifti1Header):
        return _nifti(array, affine, like.header, same_grid)
    return _fresh_nifti(array, affine)


def _cast(array: np.ndarray, dtype: DTypeLike | None, integers: tuple[Any, ...]) -> np.ndarray:
    if dtype is None:
        dtype = np.float32 if array.dtype.kind == "f" else _smallest_integer(array, integers)
    wanted = np.dtype(dtype)
    if wanted.kind == "b":
        wanted = np.dtype(np.uint8)
    if wanted.kind in "iu" and array.dtype.kind != "b":
        low, high, limits = array.min(), array.max(), np.iinfo(wanted)
        whole = array.dtype.kind in "iu" or bool((np.rint(array) == array).all())
        if not (whole and limits.min <= low and high <= limits.max):
            raise InvalidOption(f"values from {low:g} to {high:g} do not fit the type {wanted.name}")
    return array.astype(wanted, copy=False)


def _smallest_integer(array: np.ndarray, integers: tuple[Any, ...]) -> np.dtype[Any]:
    if array.dtype.kind == "b":
        return np.dtype(np.uint8)
    low, high = int(array.min()), int(array.max())
    for candidate in integers:
        limits = np.iinfo(candidate)
        if limits.min <= low and high <= limits.max:
            return np.dtype(candidate)
    raise InvalidOption(f"labels from {low} to {high} fit no integer type of the output format")


def _nifti(array: np.ndarray, affine: np.ndarray, like: Any, same_grid: bool) -> Any:
    image_class = nibabel.Nifti2Image if isinstance(like, nibabel.Nifti2Header) else nibabel.Nifti1Image
    header = image_class.header_class(check=False)
    for key in header:
        if key not in ("sizeof_hdr", "magic", "vox_offset"):
            header[key] = like[key]
    header.extensions = type(like.extensions)(like.extensions)
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(None, None)
    header["cal_min"] = header["cal_max"] = 0
    if same_grid:
        # The header holds sform and qform; handing it its own affine leaves both untouched.
        return image_class(array, header.get_best_affine(), header)
    code = int(like["sform_code"]) or int(like["qform_code"]) or 2
    image = image_class(array, affine, header)
    _set_forms(image, affine, code)
    return image


def _fresh_nifti(array: np.ndarray, affine: np.ndarray) -> Any:
    image = nibabel.Nifti1Image(array, affine, dtype=array.dtype)
    _set_forms(image, affine, 1)
    image.header.set_xyzt_units("mm")
    return image


def _set_forms(image: Any, affine: np.ndarray, code: int) -> None:
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(affine, 0)  # a qform cannot hold shears, so only the sform counts


def preserve_dtype(values: Volume | np.ndarray, like: Volume, *, keep_frame_axis: bool = False) -> Any:
    """Make an image that stores values of the input with the input's own type, slope and intercept.

    Where that would change a value, the image is float32 instead; so each voxel reads back exactly.

    Parameters
    ----------
    values
        Voxels ``(X, Y, Z)`` of `like`, some of them set to another value such as 0.
    like
        The scan as it was loaded.
    keep_frame_axis
        As in `to_image`.

    Returns
    -------
    nibabel image
        Slope and intercept other than 1 and 0 are applied by `save_image`.
    """
    array = values.array if isinstance(values, Volume) else np.asarray(values)
    on_disk = like.header.get_data_dtype().newbyteorder("=") if like.header is not None else array.dtype
    slope, intercept = like.scaling
    stored = _encode(array, on_disk, slope, intercept)
    if stored is None:
        return to_image(values, like, dtype=np.float32, keep_frame_axis=keep_frame_axis)
    if (slope, intercept) == (1.0, 0.0):
        whole = Volume(stored, values.affine) if isinstance(values, Volume) else stored
        return to_image(whole, like, dtype=on_disk, keep_frame_axis=keep_frame_axis)
    image = to_image(values, like, dtype=np.float32, keep_frame_axis=keep_frame_axis)
    image.extra[STORED] = (on_disk, slope, intercept)
    return image


def _encode(array: np.ndarray, dtype: np.dtype[Any], slope: float, intercept: float) -> np.ndarray | None:
    """Undo slope and intercept; None where the values would not read back exactly."""
    stored = array.astype(np.float64)
    stored -= intercept
    stored /= slope
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        np.rint(stored, out=stored)
        if not (limits.min <= stored.min() and stored.max() <= limits.max):  # also if NaN
            return None
    with np.errstate(over="ignore"):
        encoded = stored.astype(dtype)
    read = encoded
    if (slope, intercept) != (1.0, 0.0):
        read = apply_read_scaling(encoded, array.dtype.type(slope), array.dtype.type(intercept))
    return (
        encoded
        if np.array_equal(read.astype(array.dtype), array, equal_nan=array.dtype.kind == "f")
        else None
    )


def strip_suffix(path: str | os.PathLike[str]) -> str:
    """Return the file name without its image suffix: ``sub-01.a.nii.gz`` gives ``sub-01.a``."""
    name = Path(path).name
    for suffix in READ_SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def save_image(
    image: SpatialImage, path: str | os.PathLike[str], *, overwrite: bool = False, compresslevel: int = 1
) -> Path:
    """Write an image under a temporary name in the same folder, then put it in place.

    Parameters
    ----------
    image
        nibabel image.
    path
        Target, ending with ``.nii``, ``.nii.gz``, ``.mgh`` or ``.mgz``; another format than the image's
        gets a fresh header.
    overwrite
        Replace an existing file.
    compresslevel
        1 (fast) to 9 (small); the same image always gives the same bytes.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InvalidOption
        If the suffix is none of the four.
    OutputError
        If the target exists, its folder is missing or not writable, or the disk is full.
    """
    target = Path(path)
    if not target.name.endswith(IMAGE_SUFFIXES):
        raise InvalidOption(f"{target.name!r}: expected a name that ends with {', '.join(IMAGE_SUFFIXES)}")
    check_target(target, overwrite)
    ready = _to_format(image, target)
    trailer = image.extra.get(MGH_TRAILER, b"") if isinstance(ready, nibabel.MGHImage) else b""
    with placed(target) as file:
        if target.name.endswith((".gz", ".mgz")):
            with gzip.GzipFile("", "wb", compresslevel, file, mtime=0) as compressed:
                ready.to_stream(compressed)
                compressed.write(trailer)
        else:
            ready.to_stream(file)
            file.write(trailer)
    return target


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse a target that exists already or whose folder cannot be written."""
    if target.is_dir():
        raise OutputError(f"{target} is a folder, expected a file name for the output")
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists already; allow overwriting or choose another target")
    if not target.parent.is_dir():
        found = "a file" if target.parent.exists() else "nothing"
        raise OutputError(
            f"{target.parent}: expected a folder for the output, found {found}; create it first"
        )
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{target.parent}: no permission to write there; choose another folder")


@contextmanager
def placed(target: Path) -> Iterator[BinaryIO]:
    """Open a new file beside the target, and move it to the target when all is written."""
    temporary = target.with_name(f".{secrets.token_hex(4)}-{target.name}")
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(
            f"{target} cannot be written ({error.strerror or error}); free space or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _to_format(image: Any, target: Path) -> Any:
    """Return an image of the class that the suffix asks for, voxels as they shall be stored."""
    if target.name.endswith((".mgh", ".mgz")):
        if isinstance(image, nibabel.MGHImage):
            return image
        array = np.asanyarray(image.dataobj)
        return nibabel.MGHImage(_cast(array, None, MGH_INTEGERS), image.affine)
    if not isinstance(image, (nibabel.Nifti1Image, nibabel.Nifti2Image)):
        return _fresh_nifti(np.asanyarray(image.dataobj), image.affine)
    if STORED not in image.extra:
        return image
    dtype, slope, intercept = image.extra[STORED]
    stored = _encode(np.asanyarray(image.dataobj), dtype, slope, intercept)
    if stored is None:  # the voxels were changed since
        return image
    ready = type(image)(stored, None, image.header, dtype=dtype)
    ready.header.set_slope_inter(slope, intercept)
    return ready
