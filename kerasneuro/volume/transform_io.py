"""Read spatial transforms of any known file, and write them."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import IO, Any, Literal, cast

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from kerasneuro.errors import InvalidImage, InvalidOption, InvalidTransform
from kerasneuro.volume import freesurfer_warp, itk_transform
from kerasneuro.volume.geometry import Geometry
from kerasneuro.volume.header_check import check_payload, one_line
from kerasneuro.volume.lta import read_lta, write_lta
from kerasneuro.volume.output import check_target, placed, save_image
from kerasneuro.volume.transform import Affine, Transform, Warp, check_matrix

TransformFormat = Literal["freesurfer", "itk", "fsl"]
AFFINE_SUFFIXES = (".lta", ".txt", ".tfm", ".h5", ".mat")
WARP_SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh")
KNOWN = (
    "expected a transform (LTA, FreeSurfer warp .nii or .mgz, ITK field .nii, ITK matrix .txt, .h5 or .mat, "
    "FSL matrix .mat)"
)
UNREADABLE: tuple[type[Exception], ...] = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError)
UNREADABLE += (KeyError, zlib.error, struct.error)
GZIP, HDF5 = b"\x1f\x8b", b"\x89HDF\r\n\x1a\n"
ITK_INTENT = 1007  # "vector" of NIfTI
LARGEST_TEXT = 1 << 20
DAMAGED = "the field cannot be read, the file is damaged or truncated"


def load_transform(
    path: str | os.PathLike[str], *, source: Geometry | None = None, target: Geometry | None = None
) -> Transform:
    """Read a transform; its content says which format it is.

    Parameters
    ----------
    path
        LTA, FreeSurfer warp (NIfTI with header extension, or MGZ), ITK displacement field (NIfTI), ITK
        matrix (text, HDF5, or the MATLAB file of ANTs), or FSL matrix.
    source, target
        Grids of the moving and the fixed image, for formats that do not hold them: an FSL matrix needs
        both; a matrix of ITK may have them.

    Raises
    ------
    InvalidTransform
        If the file is missing, damaged, no transform, or holds no geometry where it should.
    """
    file = Path(path)
    name = str(file)
    head, start = _start(file)
    if start.startswith(HDF5):
        transform: Transform = itk_transform.read_h5(file, name)
    elif start[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c"):
        return _read_nifti(file)
    elif start[0] == 0 and start[3] == 1:  # the version word of MGH: intent, then 1
        return _read_mgh(file, compressed=head.startswith(GZIP))
    elif b"\0" in start:
        if file.suffix != ".mat":
            raise InvalidTransform(f"{name}: {KNOWN}, found a file beginning with {start[:12]!r}")
        transform = itk_transform.read_matlab(file.read_bytes(), name)
    else:
        transform = _read_text(file, source, target)
    if isinstance(transform, Affine) and (transform.source is None or transform.target is None):
        return Affine(transform.matrix, source or transform.source, target or transform.target, "world")
    return transform


def _start(file: Path) -> tuple[bytes, bytes]:
    """Return the first bytes of a file, as they are and unpacked."""
    name = str(file)
    if file.is_dir():
        raise InvalidTransform(f"{name} is a folder, {KNOWN}")
    if not file.exists():
        raise InvalidTransform(f"{name}: no such file; check the name and the folder")
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
        if head.startswith(GZIP):
            with gzip.open(file) as unpacked:
                start = bytes(unpacked.read(512))
        else:
            start = head
    except UNREADABLE as error:
        raise InvalidTransform(f"{name} cannot be read ({one_line(error)}); get the file again") from error
    if len(start) < 4:
        raise InvalidTransform(f"{name}: {KNOWN}, found a file of {len(start)} bytes")
    return head, start


def _read_nifti(file: Path) -> Warp:
    name = str(file)
    try:
        image: Any = nibabel.load(file, mmap=False)
        if not isinstance(image, nibabel.Nifti1Image) or len(image.shape) != 5 or image.shape[3:] != (1, 3):
            listed = "x".join(map(str, image.shape))
            raise InvalidTransform(f"{name}: expected a field of shape X x Y x Z x 1 x 3, found {listed}")
        check_payload(image.dataobj, name)
        is_vector = int(image.header["intent_code"]) == ITK_INTENT
        if is_vector and freesurfer_warp.EXTENSION_CODE not in image.header.extensions.get_codes():
            return itk_transform.from_field(image)
        return freesurfer_warp.from_nifti(image, name)
    except InvalidTransform:
        raise
    except InvalidImage as error:
        raise InvalidTransform(str(error)) from error
    except UNREADABLE as error:
        raise InvalidTransform(f"{name}: {DAMAGED} ({one_line(error)}); get the file again") from error


def _read_mgh(file: Path, *, compressed: bool) -> Warp:
    try:
        stream: IO[bytes]
        with cast("IO[bytes]", gzip.open(file)) if compressed else file.open("rb") as stream:
            return freesurfer_warp.from_mgh(stream, str(file))
    except InvalidTransform:
        raise
    except UNREADABLE as error:
        raise InvalidTransform(f"{file}: {DAMAGED} ({one_line(error)}); get the file again") from error


def _read_text(file: Path, source: Geometry | None, target: Geometry | None) -> Affine:
    name = str(file)
    try:
        with file.open("rb") as stream:
            text = stream.read(LARGEST_TEXT).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidTransform(f"{name}: {KNOWN}, found something else ({one_line(error)})") from error
    if text.startswith("#Insight Transform File"):
        return itk_transform.read_text(text, name)
    if "nxforms" in text or "volume info" in text:
        return read_lta(text, name)
    try:
        matrix = np.array([[float(number) for number in line.split()] for line in text.splitlines() if line])
    except ValueError:
        matrix = np.empty(0)
    if matrix.shape != (4, 4):
        raise InvalidTransform(f"{name}: {KNOWN}, found a text file beginning with {text[:24]!r}")
    return from_fsl(matrix, source, target, name)


def save_transform(
    transform: Transform,
    path: str | os.PathLike[str],
    *,
    format: TransformFormat | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a transform.

    Parameters
    ----------
    transform
        An `Affine` goes to ``.lta``, to ``.txt``, ``.tfm`` or ``.h5`` (ITK, ANTs, SimpleITK), or to ``.mat``
        (FSL); a `Warp` to ``.nii``, ``.nii.gz``, ``.mgz`` or ``.mgh``.
    path
        Target; written under a temporary name first.
    format
        None goes by the suffix; "itk" makes a NIfTI file ITK's displacement field instead of FreeSurfer's
        warp.
    overwrite
        Replace an existing file.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InvalidOption
        If the suffix does not fit the transform or the format.
    InvalidTransform
        If the transform lacks the geometry that the format holds.
    OutputError
        If the file exists or cannot be written.
    """
    file = Path(path)
    check_target(file, overwrite)
    suffix = _suffix(transform, file, format)
    if isinstance(transform, Warp):
        if suffix in (".nii", ".nii.gz"):
            make = itk_transform.to_field if format == "itk" else freesurfer_warp.to_nifti
            return save_image(make(transform), file, overwrite=overwrite)
        packed = freesurfer_warp.to_mgh(transform)
        content = gzip.compress(packed, 1, mtime=0) if suffix == ".mgz" else packed
    elif suffix == ".h5":
        content = itk_transform.write_h5(transform)
    else:
        writers = {".lta": lambda matrix: write_lta(matrix.to_world()), ".mat": write_fsl}
        content = writers.get(suffix, itk_transform.write_text)(transform).encode("ascii")
    with placed(file) as stream:
        stream.write(content)
    return file


def _suffix(transform: Transform, file: Path, format: TransformFormat | None) -> str:
    """Return the suffix of a file, if the transform can be written to it in this format."""
    matrix = isinstance(transform, Affine)
    formats = {".lta": "freesurfer", ".mat": "fsl", ".mgz": "freesurfer", ".mgh": "freesurfer"}
    allowed = AFFINE_SUFFIXES if matrix else WARP_SUFFIXES
    suffix = next((end for end in allowed if file.name.lower().endswith(end)), None)
    kind = "a matrix" if matrix else "a warp"
    if suffix is None:
        raise InvalidOption(f"{file.name!r}: expected a name for {kind} that ends with {', '.join(allowed)}")
    options = ("freesurfer", "itk") if suffix.startswith(".nii") else (formats.get(suffix, "itk"),)
    if format is not None and format not in options:
        raise InvalidOption(f"{file.name!r}: {kind} of this suffix is made as {options[0]}, found {format!r}")
    return suffix


def _fsl_coordinates(geometry: Geometry) -> np.ndarray:
    """Voxel indices to FSL's coordinates: mm from the corner, the first axis turned to point left."""
    sizes = np.linalg.norm(geometry.vox2world[:3, :3], axis=0)
    matrix = np.diag([*sizes, 1.0])
    if np.linalg.det(geometry.vox2world[:3, :3]) > 0:
        matrix[0, 0] *= -1
        matrix[0, 3] = sizes[0] * (geometry.shape[0] - 1)
    return matrix


def write_fsl(affine: Affine) -> str:
    """Write a matrix as FSL's text (FLIRT), which counts from the corners of both images.

    Raises
    ------
    InvalidTransform
        If one of the two grids is unknown.
    """
    voxel = affine.to_voxel()
    assert voxel.source is not None and voxel.target is not None
    matrix = _fsl_coordinates(voxel.target) @ voxel.matrix @ np.linalg.inv(_fsl_coordinates(voxel.source))
    return "".join("  ".join(f"{value + 0.0:.15g}" for value in row) + "\n" for row in matrix)


def from_fsl(matrix: np.ndarray, source: Geometry | None, target: Geometry | None, name: str) -> Affine:
    """Read a matrix of FSL's FLIRT.

    Raises
    ------
    InvalidTransform
        If the matrix cannot be inverted, or one of the two grids is not given.
    """
    if source is None or target is None:
        raise InvalidTransform(
            f"{name}: a matrix of FSL means nothing without the grids of both its images; give them"
        )
    try:
        check_matrix(matrix)
    except InvalidTransform as error:
        raise InvalidTransform(f"{name}: {error}") from error
    voxel = np.linalg.inv(_fsl_coordinates(target)) @ matrix @ _fsl_coordinates(source)
    return Affine(voxel, source, target, "voxel")
