"""Transforms as ITK, ANTs and SimpleITK store them: matrices as text, HDF5 or MATLAB 4, fields as NIfTI.

ITK's transforms take points of the fixed image to the moving image, in LPS coordinates: the other way
round than an `Affine`, and with the first two axes of the world turned.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from kerasneuro.errors import InvalidTransform
from kerasneuro.volume.geometry import Geometry
from kerasneuro.volume.transform import Affine, Warp

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TEXT_START = "#Insight Transform File V1.0"
TURN = np.array([-1, -1, 1], dtype=np.float32)
COMPOSITE, AFFINE = "CompositeTransform_double_3_3", "AffineTransform_double_3_3"
MOST_PARAMETERS = 64
LARGEST_SHEAR = 1e-3  # ITK ignores the matrix of a NIfTI header whose axes are not at right angles


@dataclass(frozen=True)
class Entry:
    """One transform of a file: its ITK name, its parameters, and its fixed parameters."""

    kind: str
    parameters: np.ndarray
    fixed: np.ndarray

    def matrix(self, name: str) -> np.ndarray:
        """Return the 4x4 matrix, fixed to moving, LPS.

        Raises
        ------
        InvalidTransform
            If it is no matrix transform of three dimensions, or has not the numbers that it needs.
        """
        kind = self.kind.partition("_")[0]
        expected = {"AffineTransform": 12, "MatrixOffsetTransformBase": 12, "TranslationTransform": 3}
        expected["Euler3DTransform"] = 6
        if kind not in expected or not self.kind.endswith("_3_3"):
            raise InvalidTransform(
                f"{name}: expected an ITK affine, Euler or translation transform of three dimensions, "
                f"found {self.kind}"
            )
        if len(self.parameters) != expected[kind] or len(self.fixed) not in (0, 3, 4):
            raise InvalidTransform(
                f"{name}: expected {expected[kind]} parameters of the ITK {kind}, found "
                f"{len(self.parameters)} and {len(self.fixed)} fixed ones; the file is damaged or truncated"
            )
        matrix = np.eye(4)
        if kind == "Euler3DTransform":
            matrix[:3, :3] = _euler(self.parameters[:3], bool(self.fixed[3:].any()))
        elif kind != "TranslationTransform":
            matrix[:3, :3] = self.parameters[:9].reshape(3, 3)
        centre = self.fixed[:3] if len(self.fixed) else np.zeros(3)
        matrix[:3, 3] = self.parameters[-3:] + centre - matrix[:3, :3] @ centre
        return matrix


def _euler(angles: np.ndarray, zyx: bool) -> np.ndarray:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x if zyx else about_z @ about_x @ about_y


def to_affine(entries: Sequence[Entry], name: str) -> Affine:
    """Join the matrices of a file; it does not say which images they belong to.

    Raises
    ------
    InvalidTransform
        If there is none, or one that is no matrix.
    """
    parts = [entry for entry in entries if not entry.kind.startswith("CompositeTransform")]
    if not parts:
        raise InvalidTransform(f"{name}: expected an ITK transform, found none in the file")
    pull = np.eye(4)
    for entry in parts:  # A composite applies the last one first.
        pull = pull @ entry.matrix(name)
    try:
        forward = Affine(LPS @ pull @ LPS, None, None, "world")
    except InvalidTransform as error:
        raise InvalidTransform(f"{name}: {error}") from error
    return forward.inverse()


def _numbers(affine: Affine) -> np.ndarray:
    """Return the 12 parameters of the ITK affine."""
    pull = LPS @ np.linalg.inv(affine.to_world().matrix) @ LPS
    return np.concatenate([pull[:3, :3].ravel(), pull[:3, 3]]) + 0.0


def write_text(affine: Affine) -> str:
    """Write a matrix as ITK's text (``.txt``, ``.tfm``)."""
    numbers = " ".join(repr(float(number)) for number in _numbers(affine))
    lines = [TEXT_START, "#Transform 0", f"Transform: {AFFINE}"]
    return "\n".join([*lines, f"Parameters: {numbers}", "FixedParameters: 0 0 0"]) + "\n"


def read_text(text: str, name: str) -> Affine:
    """Read ITK's text.

    Raises
    ------
    InvalidTransform
        If it is damaged, or holds something else than matrices.
    """
    entries = []
    for block in text.partition("\n")[2].split("#Transform")[1:]:
        values = {"Transform": "", "Parameters": "", "FixedParameters": ""}
        for line in block.splitlines():
            key, _, value = line.partition(":")
            if key.strip() in values:
                values[key.strip()] = value.strip()
        try:
            parameters, fixed = (
                np.array([float(number) for number in values[key].split()])
                for key in ("Parameters", "FixedParameters")
            )
        except ValueError as error:
            raise InvalidTransform(f"{name}: expected numbers in the ITK transform ({error})") from error
        entries.append(Entry(values["Transform"] or "a transform without name", parameters, fixed))
    return to_affine(entries, name)


def write_h5(affine: Affine) -> bytes:
    """Write a matrix as the content of ITK's HDF5 file, a composite of one, which all readers know."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for key, value in (("ITKVersion", "5.4"), ("HDFVersion", h5py.version.hdf5_version)):
            file.create_dataset(key, data=[value], dtype=h5py.string_dtype("ascii"))
        for key in ("OSName", "OSVersion"):
            file.create_dataset(key, data=["any"], dtype=h5py.string_dtype("ascii"))
        for index, kind in enumerate((COMPOSITE, AFFINE)):
            group = file.create_group(f"TransformGroup/{index}")
            group.create_dataset("TransformType", data=[kind], dtype=h5py.string_dtype("ascii"))
        group.create_dataset("TransformFixedParameters", data=np.zeros(3))
        group.create_dataset("TransformParameters", data=_numbers(affine))
    return buffer.getvalue()


def read_h5(path: Path, name: str) -> Affine:
    """Read ITK's HDF5 file.

    Raises
    ------
    InvalidTransform
        If it is damaged, no transform of ITK, or holds something else than matrices.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            groups = file["TransformGroup"]
            entries = [_h5_entry(groups[key], name) for key in sorted(groups, key=int)]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        if isinstance(error, InvalidTransform):
            raise
        raise InvalidTransform(
            f"{name}: expected an HDF5 file of an ITK transform, found something else or a damaged file"
        ) from error
    return to_affine(entries, name)


def _h5_entry(group: Any, name: str) -> Entry:
    kind = group["TransformType"][0].decode("ascii", "replace")
    arrays = []
    for stem in ("", "Fixed"):
        # Files of ITK before version 5 spell the name wrong.
        spellings = (f"Transform{stem}Parameters", f"Tranform{stem}Parameters")
        key = next((spelling for spelling in spellings if spelling in group), None)
        if key is not None and group[key].size > MOST_PARAMETERS:
            raise InvalidTransform(
                f"{name}: expected ITK matrices in the HDF5 file, found {kind} of {group[key].size} numbers; "
                "save a displacement field as NIfTI"
            )
        arrays.append(np.zeros(0) if key is None else np.asarray(group[key], dtype=np.float64).ravel())
    return Entry(kind, *arrays)


def read_matlab(content: bytes, name: str) -> Affine:
    """Read the MATLAB 4 file that ANTs writes matrices to (``0GenericAffine.mat``).

    Raises
    ------
    InvalidTransform
        If it is damaged, or something else.
    """
    arrays: dict[str, np.ndarray] = {}
    stream = io.BytesIO(content[: 1 << 16])
    while len(head := stream.read(20)) == 20:
        kind, rows, columns, imaginary, length = struct.unpack("<5i", head)
        fits = rows * columns <= MOST_PARAMETERS and min(rows, columns) >= 0 and 0 < length <= 128
        if kind not in (0, 10) or imaginary or not fits:
            break
        key = stream.read(length).rstrip(b"\0").decode("ascii", "replace")
        dtype = np.dtype("<f8" if kind == 0 else "<f4")
        values = stream.read(rows * columns * dtype.itemsize)
        if len(values) < rows * columns * dtype.itemsize:
            break
        arrays[key] = np.frombuffer(values, dtype).astype(np.float64)
    kinds = [key for key in arrays if key != "fixed"]
    if len(kinds) != 1 or "fixed" not in arrays:
        raise InvalidTransform(
            f"{name}: expected a .mat file of an ITK transform or four rows of an FSL matrix, "
            "found something else or a damaged file"
        )
    return to_affine([Entry(kinds[0], arrays[kinds[0]], arrays["fixed"])], name)


def to_field(warp: Warp) -> Any:
    """Make the NIfTI image of ITK's displacement field, ``(X, Y, Z, 1, 3)`` float32, LPS, mm.

    Raises
    ------
    InvalidTransform
        If the axes of the target grid are not at right angles, which ITK does not allow.
    """
    if np.any(np.abs(warp.target.shear) > LARGEST_SHEAR):
        raise InvalidTransform("ITK knows grids with axes at right angles, found a sheared target grid")
    field = warp.to("disp_ras").displacement * TURN
    image = nibabel.Nifti1Image(field[..., np.newaxis, :], warp.target.vox2world, dtype=np.float32)
    image.set_sform(warp.target.vox2world, 1)
    image.set_qform(warp.target.vox2world, 1)
    image.header.set_intent("vector")
    image.header.set_xyzt_units("mm", "sec")
    return image


def from_field(image: Any) -> Warp:
    """Read ITK's displacement field from an opened NIfTI image; it does not say what image it moves."""
    field = np.asarray(image.dataobj, dtype=np.float32)
    field = field.reshape(*field.shape[:3], 3) * TURN
    return Warp(field, None, Geometry.of(image), "disp_ras")
