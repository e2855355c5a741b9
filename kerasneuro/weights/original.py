"""Write the weights of a network as its original package does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.weights.assign import Entry, as_entries
from kerasneuro.weights.keras2_writer import write_keras2
from kerasneuro.weights.torch_writer import write_torch


@dataclass(frozen=True)
class Original:
    """How the original package writes the weights of a network.

    Attributes
    ----------
    format : str
        "keras-h5" (the weights of Keras 2) or "torch" (a state dict).
    table : mapping of str to Entry or str
        Path of the variable -> its arrays of the file, in the order of the file.
    layers : tuple of str
        For "keras-h5": all layers of the file in their order, also those without weights.
    root : str
        For "torch": name under which the file keeps the state dict; empty where it is the state dict.
    """

    format: Literal["keras-h5", "torch"]
    table: Mapping[str, Entry | str]
    layers: tuple[str, ...] = ()
    root: str = ""


def write_original(path: Path, original: Original, values: Callable[[str], np.ndarray]) -> None:
    """Write a file that the original package reads, one array at a time.

    Parameters
    ----------
    path : Path
        Target; an existing file is replaced once the new one is complete.
    original : Original
        What the file looks like.
    values : callable
        From the path of a variable to its values.

    Raises
    ------
    InvalidOption
        If an entry of the table has no way back.
    OutputError
        If the file can not be written.
    """
    entries = as_entries(original.table)
    for variable, entry in entries.items():
        if entry.convert is not None and entry.invert is None:
            raise InvalidOption(
                f"the original file can not be written: there is no way back from {variable} to "
                f"{', '.join(entry.keys)}; convert to .h5 instead"
            )
    arrays = _invert(entries, values)
    if original.format == "torch":
        write_torch(path, arrays, root=original.root)
    else:
        write_keras2(path, original.layers, arrays)


def _invert(
    entries: Mapping[str, Entry], values: Callable[[str], np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    for variable, entry in entries.items():
        found = values(variable)
        arrays = found if entry.invert is None else entry.invert(found)
        yield from zip(entry.keys, arrays if isinstance(arrays, tuple) else (arrays,), strict=True)
