"""Open a weight file by what it contains, never by its name."""

from __future__ import annotations

from pathlib import Path

from kerasneuro.errors import WeightsCorrupt, WeightsNotFound
from kerasneuro.weights.flat_h5 import MARK, open_flat
from kerasneuro.weights.hdf5_guard import open_guarded
from kerasneuro.weights.keras_h5 import open_keras
from kerasneuro.weights.onnx_file import is_onnx, open_onnx
from kerasneuro.weights.savedmodel import is_savedmodel, open_savedmodel
from kerasneuro.weights.store import WeightStore
from kerasneuro.weights.torch_file import open_torch

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# HDF5 may follow a block of the user's, of 512 bytes or a power of two times that.
HDF5_OFFSETS = (0, 512, 1024, 2048, 4096)
HEAD_BYTES = 8192
ACCEPTED = (
    "a Keras .h5 file, a PyTorch file, a TorchScript archive, an ONNX model or the folder of a SavedModel"
)


def read(path: str | Path) -> WeightStore:
    """Open a weight file and list its arrays; nothing in the file is run.

    Parameters
    ----------
    path : str or Path
        A Keras 2 ``.h5`` file, a PyTorch file (zip or legacy), a TorchScript archive, an ONNX model, one of
        `write_flat`, or the folder of a TensorFlow SavedModel (graphs are not used).

    Returns
    -------
    WeightStore
        Name -> lazy array, in the order of the file; close it, or use it in a ``with`` statement.

    Raises
    ------
    WeightsNotFound
        If there is no file at `path`, or it can not be opened; or if a file that belongs to it is missing.
    WeightsCorrupt
        If the content is something else, damaged, or unsafe.

    Examples
    --------
    >>> with kerasneuro.weights.read("weights.h5") as store:  # doctest: +SKIP
    ...     kernel = store["conv3d/kernel"].read()
    """
    path = Path(path)
    if path.is_dir() and is_savedmodel(path):
        return open_savedmodel(path)
    head = _head(path)
    if any(head[offset : offset + 8] == HDF5_SIGNATURE for offset in HDF5_OFFSETS):
        return _open_hdf5(path)
    if head.startswith(b"PK\3\4"):
        return open_torch(path, "zip")
    if head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and len(head) > 1:
        return open_torch(path, "legacy")
    if is_onnx(head):
        return open_onnx(path)
    raise WeightsCorrupt(f"{path} is {describe(head)}, expected {ACCEPTED}")


def _open_hdf5(path: Path) -> WeightStore:
    file = open_guarded(path)
    try:
        return open_flat(file, path) if MARK in file.attrs else open_keras(file, path)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        file.close()
        if isinstance(error, WeightsCorrupt):
            raise
        raise WeightsCorrupt(f"{path} is damaged: {error}; fetch it again") from error


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise WeightsCorrupt(f"{path} is a folder, expected {ACCEPTED}")
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except FileNotFoundError as error:
        hint = "its content has not been fetched (datalad get)" if path.is_symlink() else "check the path"
        raise WeightsNotFound(f"there is no weight file at {path}: {hint}") from error
    except OSError as error:
        raise WeightsNotFound(f"{path} can not be opened: {error}") from error


def describe(head: bytes) -> str:
    """Say in words what a file is that holds no weights, from its first bytes.

    Parameters
    ----------
    head : bytes
        The first kilobytes.

    Returns
    -------
    str
        Such as "an HTML page (a download page in place of the file)".
    """
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "an empty file"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "an HTML page (a web page in place of the file; fetch it again)"
    if b"/annex/objects/" in head[:1024]:
        return "a git-annex pointer without the content (fetch it with datalad get)"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer without the content (fetch it with git lfs pull)"
    known = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\5\6": "an empty zip"}
    for mark, name in known.items():
        if head.startswith(mark):
            return f"compressed ({name}); unpack it first" if " " not in name else f"{name} archive"
    if head[257:262] == b"ustar":
        return "a tar archive (PyTorch before 0.1.10 wrote these); save it again with a later PyTorch"
    if head.startswith(b"\x93NUMPY"):
        return "a single NumPy array"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head[:512]):
        return f"a text that starts with {head[:40].decode('utf-8', errors='replace')!r}"
    return f"of an unknown kind (first bytes {head[:8].hex(' ')})"
