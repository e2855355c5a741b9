"""FreeSurfer's warps: NIfTI files with a header extension, and MGZ files with an intent in their version."""

from __future__ import annotations

import io
import struct
from typing import IO, Any

import nibabel
import numpy as np

from kerasneuro.errors import InvalidImage, InvalidTransform
from kerasneuro.volume.geometry import Geometry
from kerasneuro.volume.transform import FORMATS, Warp

EXTENSION_CODE = 14  # of FreeSurfer in NIfTI's list
WARP_INTENT = 3
MGH_WARP_VERSION = WARP_INTENT << 8 | 1
MGH_DATA_START, MGH_FLOAT = 284, 3
MGH_NAME_BYTES = 512
# Tags of FreeSurfer's files. Those in LENGTHLESS carry no length in MGZ files.
GEOMETRY, META, SHEARED_GEOMETRY, PHASE, FIELD, END = 10, 13, 15, 41, 43, -1
LENGTHLESS = (1, 2, 10, 11, 12, 20)
OLD_MATRIX = 30  # with a length of four bytes
LARGEST_TAG = 1 << 30


def to_nifti(warp: Warp) -> Any:
    """Make the NIfTI image of a warp, ``(X, Y, Z, 1, 3)`` float32 in the format "disp_ras".

    Raises
    ------
    InvalidTransform
        If the grid of the source is unknown.
    """
    _require_source(warp)
    field = warp.to("disp_ras").displacement
    image = nibabel.Nifti1Image(field[..., np.newaxis, :], warp.target.vox2world, dtype=np.float32)
    image.set_sform(warp.target.vox2world, 1)
    image.set_qform(warp.target.vox2world, 1)
    image.header.set_intent("displacement vector")
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][1:4] = warp.target.voxel_size
    content = pack_extension(Warp(field, warp.source, warp.target, "disp_ras"))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(EXTENSION_CODE, content))
    return image


def _require_source(warp: Warp) -> Geometry:
    if warp.source is None:
        raise InvalidTransform("a FreeSurfer warp holds the grids of both images, found none of the source")
    return warp.source


def pack_extension(warp: Warp) -> bytes:
    """Write the content of the NIfTI header extension: both geometries, and the format."""
    source = _require_source(warp)
    parts = [b">", struct.pack(">HB", WARP_INTENT, 1)]
    for tag in (GEOMETRY, SHEARED_GEOMETRY):
        sheared = tag == SHEARED_GEOMETRY
        payload = b"".join(
            _pack_geometry(grid, sheared=sheared) + struct.pack(">i", 0) for grid in (source, warp.target)
        )
        parts.append(struct.pack(">iq", tag, len(payload)) + payload)
    parts.append(struct.pack(">iq", META, 12) + _pack_meta(warp))
    parts.append(struct.pack(">iq", END, 1) + b"*")  # The last byte is no zero, which readers would cut off.
    return b"".join(parts)


def _pack_geometry(geometry: Geometry, *, sheared: bool) -> bytes:
    sizes, directions, centre = geometry.without_shear()
    numbers = [sizes, directions.ravel(order="F"), centre]
    if sheared:
        numbers = [geometry.voxel_size, geometry.rotation.ravel(order="F"), centre, geometry.shear]
    values = np.concatenate(numbers) + 0.0
    return struct.pack(">4i", 1, *geometry.shape) + values.astype(">f4").tobytes()


def _pack_meta(warp: Warp) -> bytes:
    return struct.pack(">iif", FORMATS.index(warp.format), 1, 0.0)  # format, spacing, exponent


def from_nifti(image: Any, name: str) -> Warp:
    """Read a warp from an opened NIfTI image.

    Raises
    ------
    InvalidTransform
        If it has no FreeSurfer extension of a warp, or the extension is damaged.
    """
    contents = [e for e in image.header.extensions if int(e.get_code()) == EXTENSION_CODE]
    if not contents:
        raise InvalidTransform(
            f"{name}: expected a warp with FreeSurfer's header extension, found a field without it, which "
            "does not say what it moves; fields of ITK have the intent 'vector'"
        )
    field = np.asarray(image.dataobj, dtype=np.float32)
    stream = io.BytesIO(bytes(contents[0].get_content()))
    head = stream.read(4)
    if head[:1] != b">" or head[1:3] != struct.pack(">H", WARP_INTENT):
        raise InvalidTransform(
            f"{name}: expected FreeSurfer's header extension of a warp, found one beginning with {head!r}"
        )
    warp = _Tags(stream, name, short_names=True).warp(field.reshape(*field.shape[:3], -1))
    grid = Geometry.of(image)
    if grid != warp.target:
        raise InvalidTransform(
            f"{name}: the header says a grid of {grid.describe()}, the extension {warp.target.describe()}"
        )
    return Warp(warp.displacement, warp.source, grid, warp.format)  # The header is the more precise one.


def to_mgh(warp: Warp) -> bytes:
    """Write a warp as the content of an MGH file, in its own format.

    Raises
    ------
    InvalidTransform
        If the grid of the source is unknown.
    """
    source, target = _require_source(warp), warp.target
    sizes, directions, centre = target.without_shear()
    header = struct.pack(">7iH", MGH_WARP_VERSION, *target.shape, 3, MGH_FLOAT, 1, 1)
    header += np.concatenate([sizes, directions.ravel(order="F"), centre]).astype(">f4").tobytes()
    parts = [header.ljust(MGH_DATA_START, b"\0"), warp.displacement.astype(">f4").tobytes(order="F")]
    field_of_view = float(np.max(target.voxel_size * target.shape))
    parts.append(struct.pack(">5f", 0, 0, 0, 0, field_of_view))
    parts.append(struct.pack(">iq", PHASE, 7) + b"UNKNOWN")
    parts.append(struct.pack(">iqf", FIELD, 4, 0))
    for tag in (GEOMETRY, SHEARED_GEOMETRY):
        sheared = tag == SHEARED_GEOMETRY
        grids = [_pack_geometry(grid, sheared=sheared) + bytes(MGH_NAME_BYTES) for grid in (source, target)]
        payload = b"".join(grids)
        parts.append(struct.pack(">iq", tag, len(payload)) if sheared else struct.pack(">i", tag))
        parts.append(payload)
    parts.append(struct.pack(">iq", META, 12) + _pack_meta(warp))
    return b"".join(parts)


def from_mgh(stream: IO[bytes], name: str) -> Warp:
    """Read a warp from the opened, unpacked stream of an MGH file.

    Raises
    ------
    InvalidTransform
        If the file is damaged, an image, or without geometry.
    """
    header = _exactly(stream, MGH_DATA_START, name)
    version, *shape, kind, _ = struct.unpack(">7i", header[:28])
    if version >> 8 != WARP_INTENT:
        raise InvalidTransform(f"{name}: expected the MGH file of a warp, found an image")
    if kind != MGH_FLOAT or shape[3] != 3 or not all(0 < length <= 1 << 15 for length in shape):
        raise InvalidTransform(
            f"{name}: expected the MGH file of a warp with three float frames, "
            f"found shape {'x'.join(map(str, shape))} and type {kind}"
        )
    size = 4 * int(np.prod(shape, dtype=np.int64))
    field = np.frombuffer(_exactly(stream, size, name), ">f4").reshape(shape, order="F")
    stream.read(20)  # times, angle and field of view of the scan
    return _Tags(stream, name, short_names=False).warp(field.astype(np.float32))


def _exactly(stream: IO[bytes], count: int, name: str) -> bytes:
    """Read a number of bytes in pieces, so that a false length takes no memory."""
    pieces, left = [], count
    while left:
        piece = stream.read(min(left, 1 << 24))
        if not piece:
            raise InvalidTransform(
                f"{name}: the file of the warp is truncated: expected {count} bytes more, "
                f"found {count - left}; get the file again"
            )
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


class _Tags:
    """The tags of a stream: what is needed of them to make a warp of a field."""

    def __init__(self, stream: IO[bytes], name: str, *, short_names: bool) -> None:
        self.stream, self.name, self.short_names = stream, name, short_names
        self.grids: dict[int, tuple[Geometry, Geometry]] = {}
        self.format: int | None = None
        while (tag := self._next()) is not None:
            self._read(*tag)

    def _next(self) -> tuple[int, int] | None:
        """Return the next tag and its length."""
        start = self.stream.read(4)
        tag = int.from_bytes(start, "big", signed=True)
        if len(start) < 4 or tag in (0, END):
            return None
        if not self.short_names and tag in LENGTHLESS:
            return tag, 0
        length = int.from_bytes(_exactly(self.stream, 4 if tag == OLD_MATRIX else 8, self.name), "big")
        if length > LARGEST_TAG:
            raise InvalidTransform(f"{self.name}: expected the tags of a warp, found one of {length} bytes")
        return tag, length

    def _read(self, tag: int, length: int) -> None:
        if tag in (GEOMETRY, SHEARED_GEOMETRY):
            sheared = tag == SHEARED_GEOMETRY
            self.grids[tag] = (self._geometry(sheared), self._geometry(sheared))
        elif tag == META:
            self.format = struct.unpack(">iif", _exactly(self.stream, 12, self.name))[0]
        else:
            _exactly(self.stream, length, self.name)

    def _geometry(self, sheared: bool) -> Geometry:
        valid, *shape = struct.unpack(">4i", _exactly(self.stream, 16, self.name))
        count = 18 if sheared else 15
        numbers = np.frombuffer(_exactly(self.stream, 4 * count, self.name), ">f4").astype(np.float64)
        skipped = MGH_NAME_BYTES
        if self.short_names:
            skipped = struct.unpack(">I", _exactly(self.stream, 4, self.name))[0]
        _exactly(self.stream, skipped, self.name)
        if not valid:
            raise InvalidTransform(f"{self.name}: the warp says that its geometry is not valid")
        rotation = numbers[3:12].reshape(3, 3, order="F")
        try:
            return Geometry.of_parts(
                shape, numbers[:3], rotation, numbers[12:15], numbers[15:] if sheared else (0, 0, 0)
            )
        except InvalidImage as error:
            raise InvalidTransform(f"{self.name}: the geometry of the warp is damaged ({error})") from error

    def warp(self, field: np.ndarray) -> Warp:
        """Join the field with the geometries and the format that the tags say."""
        grids = self.grids.get(SHEARED_GEOMETRY) or self.grids.get(GEOMETRY)
        if grids is None or self.format is None or not 0 <= self.format < len(FORMATS):
            missing = "geometry" if grids is None else "known format"
            raise InvalidTransform(f"{self.name}: the warp holds no {missing} of its images")
        source, target = grids
        if field.shape != (*target.shape, 3):
            raise InvalidTransform(
                f"{self.name}: the header says a field of shape {field.shape}, "
                f"the geometry of the target {(*target.shape, 3)}"
            )
        return Warp(field, source, target, FORMATS[self.format])
