"""Refuse what is not a usable image, before and after its data are read, in one sentence each."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from kerasneuro.errors import InvalidImage

GZIP_MAGIC = b"\x1f\x8b"
MGH_VERSION = b"\x00\x00\x00\x01"
LARGEST_GZIP_RATIO = 1032  # deflate cannot shrink data further than this
READABLE = "expected a NIfTI-1, NIfTI-2, MGH/MGZ or Analyze image"
LEAST_RELATIVE_DETERMINANT = 1e-6


def one_line(error: BaseException) -> str:
    """Write the message of an error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def check_file(path: Path) -> None:
    """Check that a file exists, can be read, and begins as an image of its name does.

    Raises
    ------
    InvalidImage
        If it is missing, a folder, unreadable, empty, not compressed as its name says, or no image.
    """
    if path.is_dir():
        raise InvalidImage(f"{path} is a folder, expected an image file")
    if not path.exists():
        raise InvalidImage(f"{path}: no such file; check the name and the folder")
    try:
        size = path.stat().st_size
        start = _read_start(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidImage(
            f"{path}: the gzip stream is damaged or truncated ({one_line(error)}); get the file again"
        ) from error
    except OSError as error:
        raise InvalidImage(f"{path} cannot be read: {error.strerror or one_line(error)}") from error
    if size == 0:
        raise InvalidImage(f"{path} is an empty file (0 bytes), {READABLE}")
    if path.name.endswith((".nii", ".nii.gz", ".hdr", ".hdr.gz")):
        _check_nifti_start(path, start)
    if path.name.endswith((".mgh", ".mgz")) and (len(start) < 284 or start[:4] != MGH_VERSION):
        raise InvalidImage(f"{path}: {READABLE}, found a file beginning with {start[:12]!r}")


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
    named_compressed = path.name.endswith((".gz", ".mgz"))
    if compressed and not named_compressed:
        raise InvalidImage(f"{path} is gzip-compressed but not named so; rename it to end with '.gz'")
    if named_compressed and not compressed and path.stat().st_size:
        raise InvalidImage(f"{path} is named as gzip-compressed but is not; rename it without '.gz'")
    with gzip.open(path) if compressed else path.open("rb") as file:
        return bytes(file.read(540))


def _check_nifti_start(path: Path, start: bytes) -> None:
    """Read the raw header, because nibabel repairs some faults in silence."""
    lengths = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    if not lengths & {348, 540} or len(start) < 348:
        raise InvalidImage(f"{path}: {READABLE}, found a file beginning with {start[:12]!r}")
    try:
        if 540 in lengths:
            header: Any = nibabel.Nifti2Header(start[:540], check=False)
        else:
            header = nibabel.Nifti1Header(start[:348], check=False)
        n_axes = int(header["dim"][0])
        zooms = [float(zoom) for zoom in header["pixdim"][1:4]]
    except Exception as error:
        raise InvalidImage(f"{path}: {READABLE}, found a damaged header ({one_line(error)})") from error
    if 1 <= n_axes <= 7:
        frame_shape([int(length) for length in header["dim"][1 : n_axes + 1]], "first", str(path))
        check_zooms(zooms, str(path))


def check_zooms(zooms: Sequence[float], name: str) -> None:
    """Check that the voxel sizes are positive numbers."""
    if not all(math.isfinite(zoom) and zoom > 0 for zoom in zooms):
        listed = ", ".join(f"{zoom:g}" for zoom in zooms)
        raise InvalidImage(f"{name}: expected positive voxel sizes, found ({listed}) mm; correct the header")


def check_image(image: Any, name: str) -> None:
    """Check voxel type, voxel sizes and affine of a nibabel image whose data are not read yet."""
    dtype = np.dtype(image.get_data_dtype())
    if dtype.kind not in "biuf":
        kind = "colour" if dtype.fields else dtype.name
        raise InvalidImage(f"{name}: expected one real number per voxel, found {kind} voxels")
    if image.affine is None:
        raise InvalidImage(f"{name}: expected an image with a 4x4 affine, found none")
    header = image.header
    if "pixdim" in getattr(header, "keys", tuple)():
        check_zooms([float(zoom) for zoom in header["pixdim"][1:4]], name)
    elif len(image.shape) >= 3:
        check_zooms([float(zoom) for zoom in header.get_zooms()[:3]], name)


def frame_shape(shape: Sequence[int], frames: str, name: str) -> tuple[int, int, int]:
    """Return the shape of the one 3-D volume that an image of `shape` stands for."""
    listed = "x".join(str(length) for length in shape)
    if len(shape) not in (3, 4):
        raise InvalidImage(f"{name}: expected a 3-D image, found {len(shape)}-D ({listed})")
    if any(length <= 0 for length in shape):
        raise InvalidImage(f"{name}: expected axes of at least one voxel, found {listed}")
    if len(shape) == 4 and shape[3] != 1 and frames == "single":
        raise InvalidImage(
            f"{name}: expected one 3-D volume, found a 4-D image of {shape[3]} volumes ({listed}); "
            "extract one volume first"
        )
    return int(shape[0]), int(shape[1]), int(shape[2])


def check_affine(affine: np.ndarray, name: str) -> None:
    """Check that an affine can be inverted."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise InvalidImage(
            f"{name}: expected a finite 4x4 affine, found {_listed(affine)}; correct the header"
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    scale = float(np.prod(lengths))
    if scale == 0 or abs(np.linalg.det(affine[:3, :3])) < LEAST_RELATIVE_DETERMINANT * scale:
        raise InvalidImage(
            f"{name}: expected an invertible affine, found {_listed(affine)} which is singular; "
            "correct the header"
        )
    if not np.array_equal(affine[3], [0, 0, 0, 1]):
        raise InvalidImage(f"{name}: expected 0 0 0 1 as last row of the affine, found {_listed(affine[3])}")


def _listed(array: np.ndarray) -> str:
    return np.array2string(np.asarray(array), precision=4, separator=",").replace("\n", "")


def check_payload(dataobj: Any, name: str) -> None:
    """Compare the number of bytes that the header promises with the size of the file."""
    if not isinstance(dataobj, ArrayProxy) or not isinstance(dataobj.file_like, (str, os.PathLike)):
        return
    data_file = Path(dataobj.file_like)
    found = data_file.stat().st_size
    expected = int(dataobj.offset) + math.prod(dataobj.shape) * dataobj.dtype.itemsize
    with data_file.open("rb") as file:
        if file.read(2) == GZIP_MAGIC:
            found *= LARGEST_GZIP_RATIO
            if expected > found:
                raise InvalidImage(
                    f"{name}: the header promises {expected} bytes, but a compressed file of this size "
                    f"holds at most {found}; get the file again"
                )
            return
    if expected > found:
        raise InvalidImage(
            f"{name}: the header promises {expected} bytes, found {found} in the file; get the file again"
        )


@contextmanager
def reading_voxels(name: str) -> Iterator[None]:
    """Turn what goes wrong while voxels are read into one sentence.

    Raises
    ------
    InvalidImage
        If the file is damaged or truncated.
    """
    try:
        yield
    except (OSError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, InvalidImage):
            raise
        raise InvalidImage(
            f"{name}: the voxels cannot be read, the file is damaged or truncated ({one_line(error)}); "
            "get the file again"
        ) from error


def read_bytes(path: Path, start: int, length: int, *, checked: bool) -> bytes:
    """Read a part of a file; if `checked`, read a compressed file to its end, where its checksum is."""
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
        if not compressed:
            file.seek(start)
            return file.read(length)
    with gzip.open(path) as unpacked:
        unpacked.read(start)
        content = bytes(unpacked.read(length))
        while checked and unpacked.read(1 << 20):
            pass
    return content


def check_memory(shape: Sequence[int], bytes_per_voxel: int, name: str) -> None:
    """Compare the memory that an image takes with the memory that is free."""
    needed = math.prod(shape) * bytes_per_voxel
    available = available_memory()
    if needed > available:
        raise InvalidImage(
            f"{name}: reading {'x'.join(map(str, shape))} voxels needs {needed / 1e9:.1f} GB of memory, "
            f"found {available / 1e9:.1f} GB available; check the header or use a larger machine"
        )


def available_memory() -> int:
    """Return the bytes of memory that can be had without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def check_values(array: np.ndarray, name: str, *, allow_nan: bool, check_constant: bool) -> None:
    """Check that the voxels are finite and not all the same."""
    with np.errstate(invalid="ignore"):
        low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = np.isfinite(array)
        count = int(array.size - np.count_nonzero(finite))
        if not allow_nan:
            raise InvalidImage(
                f"{name}: expected finite voxels, found {count} of {array.size} that are NaN or infinite; "
                "replace them first"
            )
        if count == array.size:
            raise InvalidImage(f"{name}: expected at least one finite voxel, found none in {count}")
        values = array[finite]
        low, high = values.min(), values.max()
    if check_constant and low == high:
        raise InvalidImage(f"{name}: expected an image with contrast, found a constant image, value {low:g}")
