"""The 50 classes of kwyk: their names, and the FreeSurfer labels that each of them stands for.

Source: neuronets/nobrainer@70c1562, ``nobrainer/data/label_mappings/50-class-mapping.csv``. The classes do
not tell left from right, and some unite several structures (all ventricles, all parts of the corpus
callosum).
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np


@dataclass(frozen=True)
class Structure:
    """One class of the network.

    Attributes
    ----------
    name : str
        FreeSurfer's name without the side.
    freesurfer : tuple of int
        Labels of aparc+aseg that belong to the class, ascending.
    """

    name: str
    freesurfer: tuple[int, ...]


@functools.cache
def structures() -> tuple[Structure, ...]:
    """Return the 50 classes by their index."""
    text = (resources.files("kerasneuro.models.kwyk") / "labels.csv").read_text(encoding="utf-8")
    return tuple(
        Structure(row["name"], tuple(int(label) for label in row["freesurfer"].split()))
        for row in csv.DictReader(text.splitlines())
    )


def freesurfer_labels() -> np.ndarray:
    """Return the lowest FreeSurfer label of each class (the left one of two sides): int16, shape (50,)."""
    return np.array([structure.freesurfer[0] for structure in structures()], dtype=np.int16)
