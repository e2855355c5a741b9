"""Patches that are kept in HDF5 files, with their channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidImage


def count_patches(source: str) -> int | None:
    """Return the number of patches of a data set; None where it holds one volume without a first axis.

    Parameters
    ----------
    source : str
        ``FILE.h5:/DATASET``; the array has shape ``(X, Y, Z, C)`` or ``(N, X, Y, Z, C)``.

    Raises
    ------
    InvalidImage
        If there is no such array, or it has another shape.
    """
    with _dataset(source) as array:
        return int(array.shape[0]) if array.ndim == 5 else None


def read_patch(source: str, index: int | None) -> np.ndarray:
    """Read one patch: shape ``(X, Y, Z, C)``, float32."""
    with _dataset(source) as array:
        values = np.asarray(array[...] if index is None else array[index], dtype=np.float32)
    if not np.isfinite(values).all():
        raise InvalidImage(f"{source}: expected finite values, found NaN or infinity")
    return values


@contextmanager
def _dataset(source: str) -> Iterator[Any]:
    """Open an array that lies in the file itself: links to, and storage in, other files are refused."""
    import h5py

    name, _, dataset = source.partition(":/")
    try:
        file = h5py.File(name, "r")
    except OSError as error:
        raise InvalidImage(f"{name} cannot be opened as HDF5: {error}; write the patches again") from error
    with file:
        array = file[dataset] if isinstance(file.get(dataset, getlink=True), h5py.HardLink) else None
        if isinstance(array, h5py.Dataset) and (array.external or array.is_virtual):
            array = None
        if not isinstance(array, h5py.Dataset) or array.ndim not in (4, 5) or array.dtype.kind not in "fiu":
            found = f"shape {array.shape} of {array.dtype}" if isinstance(array, h5py.Dataset) else "none"
            raise InvalidImage(
                f"{name}: expected an array {dataset!r} of numbers with shape (X, Y, Z, C) or "
                f"(N, X, Y, Z, C) in the file itself, found {found}"
            )
        yield array
