"""Write weights in the layout of Keras 2 (``.h5``, weights alone), for the original packages and for Keras 3.

The layout is that of keras-team/keras@v2.15.0, keras/src/saving/legacy/hdf5_format.py; `keras_h5` reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.weights.hdf5_out import new_hdf5
from kerasneuro.weights.keras_h5 import TOP_LEVEL
from kerasneuro.weights.whole_file import whole_file

# What the layout is that of; readers take 1 and 2 apart by it.
KERAS_VERSION = "2.15.0"
# HDF5 keeps attributes in a header of at most 64 KiB; Keras splits longer lists.
MOST_ATTRIBUTE_BYTES = 64512


def write_keras2(path: str | Path, layers: Sequence[str], arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write arrays, one at a time, as ``keras.Model.save_weights`` of Keras 2 does.

    Parameters
    ----------
    path : str or Path
        Target; an existing file is replaced once the new one is complete.
    layers : sequence of str
        All layers of the model in their order, also those without weights.
    arrays : iterable of (str, numpy.ndarray)
        Keys ``<layer>/<weight>`` such as ``conv3d_1/kernel``, as `read` gives them, and their values; the
        weights of a layer in their order.

    Raises
    ------
    InvalidOption
        If an array belongs to no layer, or is written twice.
    OutputError
        If the file can not be written.
    """
    with whole_file(Path(path)) as partial:
        _write(partial, layers, arrays)


def _write(path: Path, layers: Sequence[str], arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    names: dict[str, list[str]] = {layer: [] for layer in layers}
    if len(names) != len(layers):
        raise InvalidOption("two layers of the model have one name, which a Keras 2 file can not hold")
    with new_hdf5(path) as file:
        for layer in names:
            file.create_group(layer)
        for key, array in arrays:
            layer, _, weight = key.rpartition("/")
            name = f"{layer}/{weight}:0"
            if layer not in names or name in names[layer]:
                raise InvalidOption(f"the array {key!r} belongs to no layer, or is given twice")
            file[layer].create_dataset(name, data=array)
            names[layer].append(name)
        for layer, weights in names.items():
            set_names(file[layer].attrs, "weight_names", weights)
        set_names(file.create_group(TOP_LEVEL).attrs, "weight_names", [])
        set_names(file.attrs, "layer_names", list(names))
        file.attrs["backend"] = "tensorflow"
        file.attrs["keras_version"] = KERAS_VERSION


def set_names(attributes: Any, name: str, texts: Sequence[str]) -> None:
    """Write a list of names as an attribute, in numbered pieces where it is too long for one.

    Parameters
    ----------
    attributes : h5py.AttributeManager
        Of the group.
    name : str
        "layer_names" or "weight_names".
    texts : sequence of str
        The names.
    """
    encoded = np.asarray([text.encode("utf-8") for text in texts])
    pieces, parts = 1, [encoded]
    while any(part.nbytes > MOST_ATTRIBUTE_BYTES for part in parts):
        pieces += 1
        parts = np.array_split(encoded, pieces)
    for number, part in enumerate(parts):
        attributes[name if pieces == 1 else f"{name}{number}"] = part
