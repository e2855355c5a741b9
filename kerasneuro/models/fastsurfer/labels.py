"""The classes of FastSurferCNN version 1, the FreeSurfer labels they stand for, names and colours.

Classes, names and the way from the sagittal to the other planes: Deep-MI/FastSurfer@070647d,
``FastSurferCNN/data_loader/load_neuroimaging_data.py``. Colours: FreeSurfer's FreeSurferColorLUT.txt, as
published in Deep-MI/FastSurfer@2eb4425, ``FastSurferCNN/config/FastSurfer_ColorLUT.tsv``.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np

from kerasneuro.volume.colour_table import ColourTable

N_CLASSES, N_SAGITTAL_CLASSES = 79, 51
LEFT_WHITE, RIGHT_WHITE = 2, 41
LEFT_CORTEX, RIGHT_CORTEX = 3, 42
CORTEX, RIGHT_CORTEX_FIRST = 1000, 2000
"""Parcels of the cortex are 1000 and more; those of the right hemisphere are 2000 and more."""


@dataclass(frozen=True)
class Structure:
    """One of the 95 structures of the result (and the background, label 0).

    Attributes
    ----------
    label, name, colour : int, str, tuple of int
        Of FreeSurfer; red, green and blue from 0 to 255.
    class_index : int or None
        Output of the axial and coronal networks; None where only the split of the cortex makes the label.
    sagittal_class : int or None
        Output of the sagittal network, which does not tell left from right.
    """

    label: int
    name: str
    colour: tuple[int, int, int]
    class_index: int | None
    sagittal_class: int | None

    @property
    def side(self) -> str:
        """``"left"``, ``"right"``, or empty for what lies in the middle."""
        if self.name.startswith(("Left-", "ctx-lh-")):
            return "left"
        return "right" if self.name.startswith(("Right-", "ctx-rh-")) else ""

    @property
    def structure(self) -> str:
        """The name without its side."""
        for start in ("Left-", "Right-", "ctx-lh-", "ctx-rh-"):
            if self.name.startswith(start):
                return self.name.removeprefix(start)
        return self.name


@functools.cache
def structures() -> tuple[Structure, ...]:
    """Return the background and the 95 structures, by ascending label."""
    text = (resources.files("kerasneuro.models.fastsurfer") / "labels.csv").read_text(encoding="utf-8")

    def number(field: str) -> int | None:
        return int(field) if field else None

    return tuple(
        Structure(
            int(row["label"]),
            row["name"],
            (int(row["red"]), int(row["green"]), int(row["blue"])),
            number(row["class"]),
            number(row["sagittal_class"]),
        )
        for row in csv.DictReader(text.splitlines())
    )


@functools.cache
def class_labels() -> np.ndarray:
    """Return the FreeSurfer label of each class (left, if it has both sides): int16, shape ``(79,)``."""
    return np.array([found.label for found in _by_class()], dtype=np.int16)


@functools.cache
def sagittal_classes() -> np.ndarray:
    """Return the sagittal network's class for each of the 79 classes: int64, shape ``(79,)``."""
    return np.array([found.sagittal_class for found in _by_class()], dtype=np.int64)


def _by_class() -> list[Structure]:
    found = {structure.class_index: structure for structure in structures()}
    return [found[index] for index in range(N_CLASSES)]


@functools.cache
def colour_table() -> ColourTable:
    """Return names and colours of all labels."""
    return ColourTable({found.label: (found.name, found.colour) for found in structures()})
