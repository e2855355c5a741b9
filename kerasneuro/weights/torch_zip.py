"""Find the pickle and the storages of a zip file written by ``torch.save`` or TorchScript; unpack nothing."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.weights import torch_pickle

MOST_MEMBERS = 200_000
# TorchScript deflates its code, which is never read; more shrinkage than text shows is a bomb.
MOST_SHRINKAGE = 200
SMALL_BYTES = 1 << 20
LOCAL_HEADER = struct.Struct("<4s22xHH")
ENCRYPTED = 0x1
UTF8_NAME = 0x800
ByteOrder = Literal["<", ">"]


@dataclass(frozen=True)
class Block:
    """The bytes of one storage in the file."""

    start: int
    nbytes: int
    crc: int | None = None


@dataclass(frozen=True)
class Contents:
    """What a PyTorch file holds: the value of its pickle, and where its storages lie."""

    format: str
    value: Any
    blocks: Mapping[str, Block]
    byte_order: ByteOrder = "<"


def read_zip(file: IO[bytes]) -> Contents:
    """Read the pickle of a zip file and locate its storages.

    Parameters
    ----------
    file : binary file
        Open for reading.

    Returns
    -------
    Contents
        Format "torchscript" or "torch-zip".

    Raises
    ------
    WeightsCorrupt
        If it is no such file, or could not have been written by PyTorch.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_archive(archive, file)
    except WeightsCorrupt:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
    ) as error:
        raise WeightsCorrupt(f"is damaged or not complete ({error}); fetch it again") from error


def _read_archive(archive: zipfile.ZipFile, file: IO[bytes]) -> Contents:
    members = _members(archive)
    starts = _locate(file, list(members.values()))
    root = _root(members)
    data = _small(archive, members[f"{root}/data.pkl"], torch_pickle.MOST_BYTES)
    order = b"little"
    if f"{root}/byteorder" in members:
        order = _small(archive, members[f"{root}/byteorder"], 16)
    if order not in (b"little", b"big"):
        raise WeightsCorrupt(f"names the unknown byte order {order!r}")
    kind = "torchscript" if f"{root}/constants.pkl" in members else "torch-zip"
    value = torch_pickle.load(data).value
    return Contents(kind, value, _blocks(members, starts, root), "<" if order == b"little" else ">")


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """List the members; refuse names that lead elsewhere, doubles, secrets and bombs."""
    infos = archive.infolist()
    if len(infos) > MOST_MEMBERS:
        raise WeightsCorrupt(f"holds {len(infos)} members; no file of weights has so many")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename
        if name.startswith("/") or "\\" in name or ":" in name.split("/")[0] or ".." in name.split("/"):
            raise WeightsCorrupt(f"holds a member that leads outside the archive: {name[:200]!r}")
        if name in members:
            raise WeightsCorrupt(f"holds two members named {name[:200]!r}")
        if info.flag_bits & ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise WeightsCorrupt(
                f"holds a member that is encrypted or packed in a foreign way: {name[:200]!r}"
            )
        factor = 1 if info.compress_type == zipfile.ZIP_STORED else MOST_SHRINKAGE
        if info.file_size > factor * info.compress_size + (0 if factor == 1 else SMALL_BYTES):
            raise WeightsCorrupt(
                f"declares {info.file_size} bytes for {name[:200]!r}, stores {info.compress_size}"
            )
        members[name] = info
    return members


def _locate(file: IO[bytes], infos: list[zipfile.ZipInfo]) -> dict[str, int]:
    """Return where the bytes of each member start; refuse members that overlap or reach past the end."""
    starts = {}
    free = 0
    end = file.seek(0, 2)
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < free:
            raise WeightsCorrupt(f"holds members that overlap, at {info.filename[:200]!r}")
        file.seek(info.header_offset)
        mark, name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        encoding = "utf-8" if info.flag_bits & UTF8_NAME else "cp437"
        if mark != b"PK\3\4" or file.read(name_length) != info.orig_filename.encode(encoding):
            raise WeightsCorrupt(f"is damaged: the header of {info.filename[:200]!r} is not in its place")
        starts[info.filename] = info.header_offset + LOCAL_HEADER.size + name_length + extra_length
        free = starts[info.filename] + info.compress_size
        if free > end:
            raise WeightsCorrupt(f"is not complete: {info.filename[:200]!r} reaches past its end")
    return starts


def _blocks(members: Mapping[str, zipfile.ZipInfo], starts: Mapping[str, int], root: str) -> dict[str, Block]:
    """Return the storages by their key; PyTorch never packs them, so a packed one counts as missing."""
    folder = f"{root}/data/"
    return {
        name.removeprefix(folder): Block(starts[name], info.file_size, info.CRC)
        for name, info in members.items()
        if name.startswith(folder) and info.compress_type == zipfile.ZIP_STORED
    }


def _root(members: Mapping[str, zipfile.ZipInfo]) -> str:
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    roots = [root for root in roots if "/" not in root]
    if len(roots) > 1:
        raise WeightsCorrupt(f"holds several PyTorch archives ({', '.join(roots)[:200]}), expected one")
    if roots:
        return roots[0]
    if {"config.json", "metadata.json"} <= members.keys():
        raise WeightsCorrupt("is a saved Keras 3 model (.keras); expected weights: open it with Keras")
    if any(name.endswith(".npy") for name in members):
        raise WeightsCorrupt("is a NumPy archive (.npz), expected a file of weights")
    raise WeightsCorrupt("is a zip archive without the data.pkl of PyTorch, expected a file of weights")


def _small(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    if info.file_size > most:
        raise WeightsCorrupt(f"declares {info.file_size} bytes for {info.filename!r}, more than {most}")
    with archive.open(info) as member:
        return member.read(most + 1)
