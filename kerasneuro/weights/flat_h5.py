"""Kerasneuro's own file of weights: an ordered list of named arrays in HDF5, with texts of provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption, WeightsCorrupt
from kerasneuro.weights.hdf5_guard import lazy_array, read_text
from kerasneuro.weights.hdf5_out import new_hdf5
from kerasneuro.weights.store import LazyArray, WeightStore
from kerasneuro.weights.whole_file import whole_file

FORMAT = "kerasneuro-h5"
# Attribute that marks the file and tells the version of its layout.
MARK = "kerasneuro_format"
VERSION = "1"


def write_flat(
    path: str | Path,
    arrays: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
    attributes: Mapping[str, str],
) -> None:
    """Write named arrays, one at a time, to a file that is complete or absent.

    Parameters
    ----------
    path : str or Path
        Target; an existing file is replaced once the new one is complete.
    arrays : mapping or iterable of (str, numpy.ndarray)
        Names and arrays of numbers; an iterable is consumed one array at a time, so it may compute them.
    attributes : mapping of str to str
        Texts of provenance: source, licence, digest.

    Raises
    ------
    InvalidOption
        If a name is repeated or empty, or an array does not hold real numbers.
    OutputError
        If the file can not be written.
    """
    pairs = arrays.items() if isinstance(arrays, Mapping) else arrays
    with whole_file(Path(path)) as partial:
        _write(partial, pairs, attributes)


def _write(path: Path, pairs: Iterable[tuple[str, np.ndarray]], attributes: Mapping[str, str]) -> None:
    with new_hdf5(path) as file:
        file.attrs[MARK] = VERSION
        for name, text in attributes.items():
            if name == MARK or not isinstance(text, str):
                raise InvalidOption(f"the attribute {name!r} must be a text and must not be named {MARK!r}")
            file.attrs[name] = text
        group = file.create_group("arrays")
        seen: set[str] = set()
        for index, (name, array) in enumerate(pairs):
            value = np.asarray(array)
            if not name or name in seen or value.dtype.kind not in "fiu":
                raise InvalidOption(f"array {name!r} ({value.dtype}): expected a new name and real numbers")
            seen.add(name)
            # The checksum makes HDF5 itself refuse an array whose bytes have changed.
            dataset = group.create_dataset(f"{index:06d}", data=value, fletcher32=value.size > 1)
            dataset.attrs["name"] = name


def open_flat(file: Any, path: Path) -> WeightStore:
    """List the arrays of a file made by `write_flat`.

    Parameters
    ----------
    file : h5py.File
        From `hdf5_guard.open_guarded`; closed with the store.
    path : Path
        The file, for messages.

    Returns
    -------
    WeightStore
        Names and arrays in the order in which they were written.

    Raises
    ------
    WeightsCorrupt
        If it was not written by `write_flat`, or by a later layout of it.
    """
    import h5py

    version = read_text(file.attrs, MARK, path)
    if version != VERSION:
        raise WeightsCorrupt(
            f"{path}: expected {FORMAT} version {VERSION}, found {version}; update kerasneuro"
        )
    group = file.get("arrays")
    if not isinstance(group, h5py.Group):
        raise WeightsCorrupt(f"{path} holds no group of arrays; fetch it again")
    arrays: dict[str, LazyArray] = {}
    for number in sorted(group):
        dataset = group[number]
        name = read_text(dataset.attrs, "name", path)
        if not isinstance(dataset, h5py.Dataset) or not name or name in arrays:
            raise WeightsCorrupt(f"{path}: the array {number} has no name of its own; fetch the file again")
        arrays[name] = lazy_array(name, dataset, path)
    texts = {name: read_text(file.attrs, name, path) for name in file.attrs if name != MARK}
    attributes = {name: text for name, text in texts.items() if text is not None}
    return WeightStore(path, FORMAT, arrays, attributes=attributes, close=file.close)
