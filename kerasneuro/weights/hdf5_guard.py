"""What an HDF5 file of weights may contain: plain groups, plain datasets, and nothing that leads elsewhere.

HDF5 links and storage can name other files of the machine (CVE-2026-1669), and a file of some bytes can
declare arrays of any size; both are refused here before a value is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.weights.store import LazyArray

MOST_OBJECTS = 200_000
MOST_ATTRIBUTE_BYTES = 16 << 20
# Trained values hardly compress; only small arrays (biases of zeros) may shrink as far as deflate can.
SMALL_BYTES = 16 << 20
MOST_SHRINKAGE_SMALL = 1100
MOST_SHRINKAGE = 20
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
COMPRESSORS = {1, 32000}


def open_guarded(path: Path) -> Any:
    """Open an HDF5 file for reading after every object in it has been found harmless.

    Returns
    -------
    h5py.File
        The open file.

    Raises
    ------
    WeightsCorrupt
        If HDF5 can not open it, or it holds links, cycles, foreign storage or filters, or impossible sizes.
    """
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise WeightsCorrupt(f"{path} is damaged: HDF5 can not open it ({error}); fetch it again") from error
    try:
        _check_objects(file, path)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        file.close()
        if isinstance(error, WeightsCorrupt):
            raise
        raise WeightsCorrupt(f"{path} is damaged: {error}; fetch it again") from error
    return file


def _check_objects(file: Any, path: Path) -> None:
    """Walk every link of the file; the walk ends because no object may be met twice."""
    import h5py

    waiting = [file["/"]]
    seen = {h5py.h5o.get_info(file["/"].id).addr}
    declared = stored = 0
    while waiting:
        group = waiting.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = type(link).__name__
                raise WeightsCorrupt(
                    f"{path}: {group.name}/{name} is a {kind}; weights must not lead elsewhere"
                )
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise WeightsCorrupt(f"{path}: {group.name}/{name} is reached twice; cycles are refused")
            seen.add(address)
            if len(seen) > MOST_OBJECTS:
                raise WeightsCorrupt(
                    f"{path} holds more than {MOST_OBJECTS} objects; it is not a weight file"
                )
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                check_dataset(item, path)
                declared += item.size * item.dtype.itemsize if item.shape is not None else 0
                stored += item.id.get_storage_size()
    size = path.stat().st_size
    if stored > size or declared > MOST_SHRINKAGE * size + SMALL_BYTES:
        raise WeightsCorrupt(
            f"{path} declares {declared} bytes of arrays, more than its {size} bytes can hold"
        )


def check_dataset(dataset: Any, path: Path) -> None:
    """Refuse external or virtual storage, foreign filters, and sizes that the stored bytes can not fill.

    Parameters
    ----------
    dataset : h5py.Dataset
        Any dataset of the file.
    path : Path
        The file, for the message.

    Raises
    ------
    WeightsCorrupt
        If one of these is found.
    """
    where = f"{path}: {dataset.name}"
    properties = dataset.id.get_create_plist()
    if dataset.is_virtual:
        raise WeightsCorrupt(f"{where} is a virtual dataset; weights must not lead elsewhere")
    if properties.get_external_count() > 0:
        raise WeightsCorrupt(f"{where} is stored in another file; weights must not lead elsewhere")
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    foreign = [number for number in filters if number not in FILTERS]
    if foreign:
        allowed = ", ".join(FILTERS.values())
        raise WeightsCorrupt(f"{where} needs the HDF5 filter {foreign[0]}; only {allowed} are accepted")
    if dataset.shape is None:
        return
    declared = dataset.size * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    compressed = bool(COMPRESSORS & set(filters))
    factor = 1 if not compressed else MOST_SHRINKAGE_SMALL if declared <= SMALL_BYTES else MOST_SHRINKAGE
    if declared > factor * stored:
        raise WeightsCorrupt(f"{where} declares {declared} bytes, but {stored} are stored")
    chunk = int(np.prod(dataset.chunks or (0,), dtype=object)) * dataset.dtype.itemsize
    if chunk > max(2 * declared, SMALL_BYTES):
        raise WeightsCorrupt(f"{where} declares chunks of {chunk} bytes for an array of {declared}")


def lazy_array(key: str, dataset: Any, path: Path) -> LazyArray:
    """Wrap a dataset of numbers.

    Raises
    ------
    WeightsCorrupt
        If it does not hold real numbers.
    """
    dtype = dataset.dtype
    if dataset.shape is None or dtype.kind not in "fiu" or dtype.subdtype is not None:
        raise WeightsCorrupt(f"{path}: {dataset.name} holds {dtype}, expected an array of numbers")
    native = dtype.newbyteorder("=")

    def load(selection: Any) -> np.ndarray:
        return np.asarray(dataset[selection], dtype=native, order="C")

    plain = dataset.chunks is None and dtype.isnative
    return LazyArray(key, tuple(dataset.shape), native, load, dataset.id.get_offset() if plain else None)


def read_text(attributes: Any, name: str, path: Path) -> str | None:
    """Read one attribute as text: None if it is absent, no text, or longer than a configuration can be."""
    if name not in attributes:
        return None
    identity = attributes.get_id(name)
    if identity.get_storage_size() > MOST_ATTRIBUTE_BYTES or identity.shape != ():
        return None
    value = attributes[name]
    if isinstance(value, bytes | np.bytes_):
        value = value.decode("utf-8", errors="replace")
    return str(value) if isinstance(value, str) and len(value) <= MOST_ATTRIBUTE_BYTES else None


def read_names(attributes: Any, name: str, path: Path) -> list[str] | None:
    """Read a list of names, joined from ``name0``, ``name1`` ... where it was split; None if absent."""
    if name in attributes:
        return _names(attributes, name, path)
    if f"{name}0" not in attributes:
        return None
    parts: list[str] = []
    index = 0
    while f"{name}{index}" in attributes:
        parts += _names(attributes, f"{name}{index}", path)
        index += 1
    return parts


def _names(attributes: Any, name: str, path: Path) -> list[str]:
    import h5py

    identity = attributes.get_id(name)
    shape = identity.shape
    if shape is None or shape == (0,):
        return []  # Keras writes an empty list as an empty array of floats
    is_text = identity.dtype.kind == "S" or h5py.check_string_dtype(identity.dtype) is not None
    if len(shape) != 1 or shape[0] > MOST_OBJECTS or not is_text:
        raise WeightsCorrupt(f"{path}: the attribute {name!r} is not a list of names")
    if identity.get_storage_size() > MOST_ATTRIBUTE_BYTES:
        raise WeightsCorrupt(f"{path}: the attribute {name!r} is too long for a list of names")
    values = attributes[name].tolist()
    try:
        return [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in values]
    except UnicodeDecodeError as error:
        raise WeightsCorrupt(f"{path}: the attribute {name!r} is not text ({error})") from error
