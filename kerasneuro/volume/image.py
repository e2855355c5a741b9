"""A scan in memory: its voxels, where they lie in the world, and the header it came with."""

from __future__ import annotations

import io
import math
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import DTypeLike

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.volume.header_check import (
    READABLE,
    check_affine,
    check_file,
    check_image,
    check_memory,
    check_payload,
    check_values,
    frame_shape,
    one_line,
    read_bytes,
    reading_voxels,
)

AffineRule = Literal["best", "sform", "qform"]
Frames = Literal["single", "first"]
Image = str | os.PathLike[str] | SpatialImage
LARGEST_DISAGREEMENT = 0.1  # mm or voxels, at the corners of the image, between sform and qform


@dataclass(frozen=True, eq=False)
class Volume:
    """Hold one 3-D image; it never changes, each step returns a new one.

    Parameters
    ----------
    array
        Voxels, shape ``(X, Y, Z)``, in the storage order of `affine`; kept as a read-only view.
    affine
        Shape ``(4, 4)``, float64: voxel indices to world coordinates (RAS+, mm).
    header
        nibabel header of the file, or None.
    path
        File that the image was read from, or None.
    warnings
        Sentences to show to the user.
    scaling
        Slope and intercept that the file stores its values with.
    """

    array: np.ndarray
    affine: np.ndarray
    header: Any = None
    path: Path | None = None
    warnings: tuple[str, ...] = ()
    scaling: tuple[float, float] = (1.0, 0.0)

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        affine = np.array(self.affine, dtype=np.float64)
        if array.ndim != 3 or 0 in array.shape:
            raise InvalidImage(f"volume: expected three axes of at least one voxel, found {array.shape}")
        check_affine(affine, "volume")
        view = array.view()
        view.flags.writeable = False
        affine.flags.writeable = False
        object.__setattr__(self, "array", view)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        x, y, z = self.array.shape
        return x, y, z

    @property
    def zooms(self) -> tuple[float, float, float]:
        """Voxel size along each axis in mm, from the affine."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def axcodes(self) -> tuple[str, str, str]:
        """Direction that each axis points to, such as ``("R", "A", "S")``."""
        x, y, z = nibabel.aff2axcodes(self.affine)
        return x, y, z

    def replace(self, **changes: Any) -> Volume:
        """Return a copy with some fields exchanged, such as ``array=`` or ``affine=``."""
        return replace(self, **changes)


def load(
    image: Image | Volume,
    *,
    affine_rule: AffineRule = "best",
    frames: Frames = "single",
    dtype: DTypeLike | None = np.float32,
    allow_nan: bool = False,
    check_constant: bool = True,
) -> Volume:
    """Read an image and refuse what no network can use.

    Parameters
    ----------
    image
        Path of a NIfTI-1, NIfTI-2, MGH/MGZ or Analyze file, a nibabel image, or a
        `Volume` (kept as it is).
    affine_rule
        "best" uses the sform if its code is positive, else the qform, else the voxel sizes alone;
        "sform" and "qform" prefer that one.
    frames
        "single" refuses 4-D images of several volumes; "first" takes their first volume.
    dtype
        Type of the voxels after slope and intercept are applied; None keeps the file's.
    allow_nan
        Keep NaN and infinite voxels instead of refusing them.
    check_constant
        Refuse an image of one value only.

    Returns
    -------
    Volume
        Voxels in the storage order of the file, equal to nibabel's ``get_fdata(dtype)``.

    Raises
    ------
    InvalidImage
        If the file is missing, damaged, not an image, not 3-D, too large, constant, or not finite.
    InvalidOption
        If `affine_rule` or `frames` is unknown.

    Examples
    --------
    >>> from kerasneuro.volume import load
    >>> scan = load("sub-01_T1w.nii.gz")  # doctest: +SKIP
    >>> scan.shape, scan.axcodes  # doctest: +SKIP
    ((176, 240, 256), ('R', 'A', 'S'))
    """
    if affine_rule not in ("best", "sform", "qform"):
        raise InvalidOption(f"affine_rule is 'best', 'sform' or 'qform', found {affine_rule!r}")
    if frames not in ("single", "first"):
        raise InvalidOption(f"frames is 'single' or 'first', found {frames!r}")
    if isinstance(image, Volume):
        return image if dtype is None else image.replace(array=image.array.astype(dtype, copy=False))
    opened, path = open_image(image)
    name = str(path) if path else "image"
    check_image(opened, name)
    shape = frame_shape(opened.shape, frames, name)
    affine, warnings = _choose_affine(opened, affine_rule, name)
    check_affine(affine, name)
    array = _read(opened, shape, dtype, name)
    check_values(array, name, allow_nan=allow_nan, check_constant=check_constant)
    return Volume(array, affine, opened.header.copy(), path, warnings, _scaling(opened.dataobj))


def open_image(image: Image) -> tuple[Any, Path | None]:
    """Open an image of any number of axes with nibabel, and say which file it is; no voxel is read yet.

    Raises
    ------
    InvalidImage
        If the file is missing, damaged or not an image.
    """
    if isinstance(image, SpatialImage):
        filename = image.get_filename()
        return image, Path(filename) if filename else None
    if not isinstance(image, (str, os.PathLike)):
        raise InvalidImage(f"expected a path, a nibabel image or a Volume, found {type(image).__name__}")
    path = Path(image)
    check_file(path)
    try:
        # Without a memory map the voxels stay valid when the file is overwritten later.
        opened = _open_mgh(path) if path.name.endswith(".mgh") else nibabel.load(path, mmap=False)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise InvalidImage(f"{path}: {READABLE}, found something else ({one_line(error)})") from error
    if not isinstance(opened, SpatialImage):
        raise InvalidImage(f"{path}: expected an image of voxels, found {type(opened).__name__}")
    return opened, path


def _open_mgh(path: Path) -> Any:
    """Open an MGH file by its bytes, because nibabel leaves the file itself open."""
    return nibabel.MGHImage.from_bytes(path.read_bytes())


def _read(image: Any, shape: tuple[int, int, int], dtype: DTypeLike | None, name: str) -> np.ndarray:
    """Read the first volume, scaled by nibabel's own rules."""
    dataobj = image.dataobj
    on_disk = np.dtype(image.get_data_dtype()).itemsize
    check_memory(shape, on_disk + (np.dtype(dtype).itemsize if dtype else on_disk), name)
    with reading_voxels(name):
        check_payload(dataobj, name)
        if type(dataobj) is ArrayProxy:
            dataobj = _in_memory(dataobj, shape, name)
        elif len(image.shape) == 4:
            dataobj = dataobj[..., 0]
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.asanyarray(dataobj, dtype=dtype)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _in_memory(dataobj: ArrayProxy, shape: tuple[int, int, int], name: str) -> ArrayProxy:
    """Read the bytes of the first volume, which comes first in the file."""
    start, n_bytes = int(dataobj.offset), math.prod(shape) * dataobj.dtype.itemsize
    if isinstance(dataobj.file_like, (str, os.PathLike)):
        content = read_bytes(Path(dataobj.file_like), start, n_bytes, checked=dataobj.shape[3:] in ((), (1,)))
    else:
        dataobj.file_like.seek(start)
        content = dataobj.file_like.read(n_bytes)
    if len(content) < n_bytes:
        raise InvalidImage(
            f"{name}: the file is truncated: the header promises {n_bytes} bytes of voxels, "
            f"found {len(content)}; get the file again"
        )
    return ArrayProxy(io.BytesIO(content), (shape, dataobj.dtype, 0, dataobj.slope, dataobj.inter))


def _scaling(dataobj: Any) -> tuple[float, float]:
    if isinstance(dataobj, ArrayProxy):
        return float(dataobj.slope), float(dataobj.inter)
    return 1.0, 0.0


def _choose_affine(image: Any, rule: str, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pick the affine, and tell when the two of a NIfTI header contradict each other."""
    best = np.asarray(image.affine, dtype=np.float64)
    header = image.header
    if not isinstance(header, nibabel.Nifti1Header):
        return best, ()
    sform, _ = header.get_sform(coded=True)
    try:
        qform, _ = header.get_qform(coded=True)
    except (ValueError, HeaderDataError) as error:
        if rule == "qform" or sform is None:
            raise InvalidImage(f"{name}: the qform of the header is damaged ({one_line(error)})") from error
        return best, (f"{name}: the qform of the header is damaged; the sform is used",)
    wanted = {"best": best, "sform": sform, "qform": qform}[rule]
    if wanted is None:
        return best, (f"{name}: the header has no {rule}; the best other affine of the header is used",)
    used = "qform" if rule == "qform" else "sform"
    return np.asarray(wanted, dtype=np.float64), _disagreement(sform, qform, image.shape[:3], used, name)


def _disagreement(
    sform: np.ndarray | None, qform: np.ndarray | None, shape: tuple[int, ...], used: str, name: str
) -> tuple[str, ...]:
    if sform is None or qform is None or not (np.isfinite(sform).all() and np.isfinite(qform).all()):
        return ()
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    shift = nibabel.affines.apply_affine(sform, corners) - nibabel.affines.apply_affine(qform, corners)
    millimetres = float(np.linalg.norm(shift, axis=1).max())
    sizes = [np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform)]
    smallest = max(min(float(size.min()) for size in sizes), np.finfo(float).tiny)
    if max(millimetres, millimetres / smallest) <= LARGEST_DISAGREEMENT:
        return ()
    s, q = ("x".join(f"{length:.3g}" for length in size) for size in sizes)
    return (
        f"{name}: sform (voxels of {s} mm) and qform (voxels of {q} mm) place the corners of the image "
        f"up to {millimetres:.1f} mm apart; the {used} is used",
    )
