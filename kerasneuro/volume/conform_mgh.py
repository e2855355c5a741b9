"""Conform a head as FastSurfer and FreeSurfer do: 256 x 256 x 256 voxels of 1 mm, LIA, uint8.

Unlike `kerasneuro.volume.conform` this straightens oblique scans, and scales intensities to 0 .. 255.
Voxel for voxel that of FastSurfer 1.1.0 (Deep-MI/FastSurfer@070647d, ``data_loader/conform.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage

from kerasneuro.errors import InvalidImage
from kerasneuro.volume.image import Volume

CONFORMED_SHAPE = (256, 256, 256)
ROTATION = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # axes to Left, Inferior, Anterior
FORM_TOLERANCE = 1e-3  # mm, between sform and qform, and between affine and voxel sizes
ROTATION_TOLERANCE = 1e-6
BINS = 1000
HIGHEST = 0.999  # part of the voxels that are not 0 which lie below white
ZERO = 1e-15

LabelInverse = Callable[[np.ndarray], np.ndarray]


def conform_mgh(scan: Volume, *, order: Literal[0, 1, 2, 3] = 1) -> tuple[Volume, LabelInverse]:
    """Resample a scan to the conformed grid and scale it to uint8, unless it is conformed already.

    Parameters
    ----------
    scan
        Loaded with ``dtype=None``, because the type of the file decides where values are rounded.
    order
        0 (nearest), 1 (linear), 2 or 3 (splines).

    Returns
    -------
    Volume
        uint8, shape ``(256, 256, 256)``, axes to left, inferior, anterior; MGH header unless `scan` was
        conformed already and is returned as it is.
    inverse
        Takes labels ``(256, 256, 256)`` to the grid of `scan` by nearest neighbour; 0 outside.

    Raises
    ------
    InvalidImage
        If an intensity is negative, or affine and voxel sizes of a NIfTI header contradict each other.

    References
    ----------
    https://doi.org/10.1016/j.neuroimage.2020.117012
    """
    if is_conformed(scan):
        return scan, lambda labels: labels
    source = scan.replace(affine=header_affine(scan))
    affine = conformed_affine(source)
    array = source.array.astype(np.uint8) if source.array.dtype.kind == "b" else source.array
    keep = stored_as_uint8(scan)
    low, scale = (0.0, 1.0) if keep else intensity_scale(array)
    matrix = np.linalg.inv(np.linalg.inv(affine) @ source.affine)
    moved = np.asarray(ndimage.affine_transform(array, matrix, output_shape=CONFORMED_SHAPE, order=order))
    voxels = moved if keep else scale_to_uint8(moved, low, scale)
    header = nibabel.MGHImage(voxels, affine).header
    warnings = (*scan.warnings, *_wrong_type(scan))

    def inverse(labels: np.ndarray) -> np.ndarray:
        to_labels = np.linalg.inv(affine) @ source.affine
        return np.asarray(ndimage.affine_transform(labels, to_labels, output_shape=scan.shape, order=0))

    return Volume(voxels, affine, header, scan.path, warnings), inverse


def is_conformed(scan: Volume) -> bool:
    """Tell whether a scan has the conformed shape, voxel size, orientation and type; any place is right."""
    return _on_conformed_grid(scan) and stored_as_uint8(scan)


def stored_as_uint8(scan: Volume) -> bool:
    """Tell whether the voxels are uint8 in the file, without slope and intercept."""
    on_disk = scan.header.get_data_dtype() if scan.header is not None else scan.array.dtype
    return on_disk == np.uint8 and scan.scaling == (1.0, 0.0) and scan.array.dtype == np.uint8


def _on_conformed_grid(scan: Volume) -> bool:
    zooms = scan.header.get_zooms()[:3] if scan.header is not None else scan.zooms
    turned = np.abs(scan.affine[:3, :3] - ROTATION).max() > ROTATION_TOLERANCE
    return scan.shape == CONFORMED_SHAPE and all(zoom == 1 for zoom in zooms) and not turned


def _wrong_type(scan: Volume) -> tuple[str, ...]:
    if not _on_conformed_grid(scan):
        return ()
    found = scan.header.get_data_dtype().name if scan.header is not None else scan.array.dtype.name
    return (
        f"the scan lies on the conformed grid, but is stored as {found} instead of uint8: its intensities "
        "are scaled to 0 to 255 again",
    )


def qform_wins(scan: Volume) -> bool:
    """Tell whether a NIfTI header has a qform other than its sform; the original then takes the qform."""
    header = _checked_header(scan)
    if header is None or int(header["qform_code"]) == 0:
        return False
    return bool(np.abs(header.get_sform() - _qform(header)).max() > FORM_TOLERANCE)


def header_affine(scan: Volume) -> np.ndarray:
    """Return the affine that the original takes: the qform where it differs from the sform.

    Raises
    ------
    InvalidImage
        If the affine and the voxel sizes of a NIfTI header differ by more than 0.001 mm.
    """
    header = _checked_header(scan)
    if header is None:
        return scan.affine
    if qform_wins(scan):
        changed = header.copy()
        changed.set_sform(_qform(header))  # rounds to the precision of the header
        return np.asarray(changed.get_best_affine(), dtype=np.float64)
    found, wanted = np.array(scan.zooms), np.array(header.get_zooms()[:3], dtype=np.float64)
    if (np.abs(found - wanted) > FORM_TOLERANCE).any():
        raise InvalidImage(
            f"expected voxel sizes that agree with the affine ({_listed(found)} mm), found "
            f"{_listed(wanted)} mm in the header; correct the header"
        )
    return scan.affine


def _checked_header(scan: Volume) -> nibabel.Nifti1Header | None:
    """Return the header where the original checks it: of files named .nii or .nii.gz."""
    named = scan.path is None or scan.path.name.endswith((".nii", ".nii.gz"))
    return scan.header if named and isinstance(scan.header, nibabel.Nifti1Header) else None


def _qform(header: nibabel.Nifti1Header) -> np.ndarray:
    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except (ValueError, HeaderDataError) as error:
        raise InvalidImage(
            f"expected a usable qform, found a damaged one ({error}); correct the header"
        ) from error


def _listed(lengths: np.ndarray) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths)


def conformed_affine(scan: Volume) -> np.ndarray:
    """Return the affine of the conformed grid about the centre ``n / 2`` of a scan.

    Centre and translation are rounded to float32, as the fields of an MGH header.
    """
    middle = np.append(np.array(scan.shape) / 2.0, 1.0)
    centre = (scan.affine @ middle)[:3].astype(np.float32).astype(np.float64)
    affine = np.eye(4)
    affine[:3, :3] = ROTATION
    half = np.array(CONFORMED_SHAPE) / 2.0
    affine[:3, 3] = (centre - ROTATION @ half).astype(np.float32)
    return affine


def intensity_scale(array: np.ndarray) -> tuple[float, float]:
    """Return the intensity that becomes 0, and the factor that takes the brightest tissue to 255.

    White is two of 1,000 equal bins below the first bin edge that leaves at most 0.1 % of the voxels other
    than 0 above it.

    Parameters
    ----------
    array
        Shape ``(X, Y, Z)``, before resampling.

    Raises
    ------
    InvalidImage
        If a voxel is negative.
    """
    lowest, highest = array.min(), array.max()
    if lowest < 0:
        raise InvalidImage(
            f"expected intensities of at least 0, found {lowest:g}; shift or clip the scan first"
        )
    filled = int((np.abs(array) >= ZERO).sum())
    width = float(highest - lowest) / BINS
    counts, _ = np.histogram(array, BINS)
    reached = np.concatenate(([0], np.cumsum(counts)))
    wanted = array.size - int((1.0 - HIGHEST) * filled)
    black = float(lowest)
    white = (int(np.flatnonzero(reached >= wanted)[0]) - 2) * width + black
    return black, 1.0 if white == black else 255.0 / (white - black)


def scale_to_uint8(array: np.ndarray, low: float, scale: float) -> np.ndarray:
    """Return ``scale * (array - low)`` clipped to 0 .. 255 and rounded half to even.

    float32 arrays are computed in float32, all others in float64.
    """
    working = np.float32 if array.dtype == np.float32 else np.float64
    result = np.empty(array.shape, np.uint8)
    for plane, source in zip(result, array, strict=True):
        values = source - working(low)
        values *= working(scale)
        np.clip(values, 0, 255, out=values)
        plane[...] = np.rint(values, out=values)
    return result
