"""Which values of a label map stand for which class of a network."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption

BACKGROUND = "background"
MOST_LISTED = 8  # unknown values named in a message
MOST_LOOKED_UP = 1 << 16  # label values up to here are looked up as they are


@dataclass(frozen=True)
class LabelClass:
    """One class of a network.

    Attributes
    ----------
    name : str
        As it is shown.
    values : tuple of int
        Values of the label map that belong to it; the first one is written into predicted label maps.
    """

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class ClassTable:
    """The classes of a network in the order of its channels; class 0 is the background.

    Attributes
    ----------
    classes : tuple of LabelClass
        One for each channel.
    others : int or None
        Class of the values that no class lists; None refuses label maps that have such values.

    Raises
    ------
    InvalidOption
        If there is only one class, or a value or a name stands twice.

    Examples
    --------
    >>> table = ClassTable.of({"tumour": [1, 4], "oedema": 2})
    >>> table.names, len(table)
    (('background', 'tumour', 'oedema'), 3)
    >>> table.encode(np.array([0, 4, 2, 1])).tolist()
    [0, 1, 2, 1]
    """

    classes: tuple[LabelClass, ...]
    others: int | None = None

    def __post_init__(self) -> None:
        values = [value for each in self.classes for value in each.values]
        names = [each.name for each in self.classes]
        if len(self.classes) < 2 or len(set(names)) < len(names) or not all(c.values for c in self.classes):
            raise InvalidOption(
                "expected two classes or more (the background and what is learned) with different names and "
                f"a label value each, found {list(self.classes)}"
            )
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice or min(values) < 0 or (self.others is not None and not 0 <= self.others < len(names)):
            raise InvalidOption(
                "label values are not negative and belong to one class each, and others is the index of a "
                f"class or None; found {'twice ' if twice else ''}{twice or values} and others={self.others}"
            )

    @classmethod
    def of(cls, source: Any, *, others: int | None = None) -> ClassTable:
        """Make a table from what describes one.

        Parameters
        ----------
        source : ClassTable, int, sequence of int, mapping, "binary" or path
            A number of classes (values 0, 1, 2 ...); the values of the classes in their order; a mapping
            from name to value or values, or from value to class index; "binary" (every value other than 0
            is foreground); a CSV file with the columns ``name`` and ``value`` (several values separated by
            blanks or semicolons); a colour table in the form of ``FreeSurferColorLUT.txt``. Where no class
            holds the value 0, a class "background" that does comes first.
        others : int, optional
            Class of values that are not listed, such as 0; by default they are refused.

        Raises
        ------
        InvalidOption
            If `source` describes no table.
        """
        if isinstance(source, ClassTable):
            return source
        if isinstance(source, str) and source == "binary":
            return cls((LabelClass(BACKGROUND, (0,)), LabelClass("foreground", (1,))), others=1)
        if isinstance(source, (str, os.PathLike)):
            return cls(_with_background(_read_table(Path(source))), others)
        if isinstance(source, (int, np.integer)) and not isinstance(source, bool):
            source = range(int(source))
        if isinstance(source, Mapping):
            return cls(_with_background(_from_mapping(source)), others)
        if isinstance(source, Iterable):
            return cls(_with_background([_numbered(value) for value in source]), others)
        raise InvalidOption(
            "classes are a number, a list of label values, a mapping of names to values, 'binary' or a file, "
            f"found {source!r}"
        )

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the channels."""
        return tuple(each.name for each in self.classes)

    @property
    def values(self) -> tuple[int, ...]:
        """Value that each class has in a predicted label map."""
        return tuple(each.values[0] for each in self.classes)

    def rows(self) -> list[dict[str, Any]]:
        """Return index, name and value of each class, as a saved model holds them."""
        return [
            {"index": index, "name": each.name, "value": each.values[0]}
            for index, each in enumerate(self.classes)
        ]

    def encode(self, labels: np.ndarray, what: str = "the label map") -> np.ndarray:
        """Return the class index of every voxel.

        Parameters
        ----------
        labels : numpy.ndarray
            Any shape, whole numbers.
        what : str
            How the label map is called in a message.

        Returns
        -------
        numpy.ndarray
            Same shape, uint8 (uint16 above 256 classes).

        Raises
        ------
        InvalidImage
            If there are values that are no whole numbers, or that no class lists.
        """
        numbers = whole_numbers(labels, what)
        top = max(value for each in self.classes for value in each.values)
        if numbers.min(initial=0) < 0 or numbers.max(initial=0) > MOST_LOOKED_UP:
            signed = numbers.astype(np.int64)
            places, last = np.where((signed < 0) | (signed > top), top + 1, signed), top + 1
        else:
            places, last = numbers, max(top, int(numbers.max(initial=0)))
        unknown = len(self)
        lookup = np.full(last + 1, unknown if self.others is None else self.others, np.uint16)
        for index, each in enumerate(self.classes):
            lookup[list(each.values)] = index
        classes = lookup[places]
        if self.others is None and (missing := np.unique(np.asarray(labels)[classes == unknown])).size:
            listed = ", ".join(f"{value:.0f}" for value in missing[:MOST_LISTED])
            more = f" and {missing.size - MOST_LISTED} more" if missing.size > MOST_LISTED else ""
            raise InvalidImage(
                f"{what} has the values {listed}{more}, which belong to no class ({self.describe()}); add "
                "them to the classes, or set others=0 to count them as background"
            )
        return classes.astype(np.uint8 if len(self) <= 256 else np.uint16)

    def decode(self, classes: np.ndarray) -> np.ndarray:
        """Return the label value of every class index; same shape, int32."""
        return np.asarray(self.values, np.int32)[classes]

    def one_hot(self, classes: np.ndarray) -> np.ndarray:
        """Return class indices ``(...)`` as channels ``(..., K)``, float32."""
        return np.eye(len(self), dtype=np.float32)[classes]

    def describe(self) -> str:
        """List names with their values, such as ``background 0, tumour 1 4``."""
        return ", ".join(f"{each.name} {' '.join(map(str, each.values))}" for each in self.classes)


def whole_numbers(labels: np.ndarray, what: str) -> np.ndarray:
    """Return labels in an integer type.

    Raises
    ------
    InvalidImage
        If they are no whole numbers.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind in "iu":
        return labels
    if labels.dtype.kind == "b":
        return labels.astype(np.uint8)
    if labels.dtype.kind == "f" and np.isfinite(labels).all():
        numbers = labels.astype(np.int64)
        if (numbers == labels).all():
            return numbers
    raise InvalidImage(
        f"{what} has values of {labels.dtype} that are no whole numbers; give a label map (a probability map "
        "is cut at a threshold first)"
    )


def _numbered(value: Any) -> LabelClass:
    try:
        number = int(value)
        if number == value:
            return LabelClass(BACKGROUND if number == 0 else f"label {number}", (number,))
    except (TypeError, ValueError):
        pass
    raise InvalidOption(f"a label value is a whole number, found {value!r}")


def _from_mapping(source: Mapping[Any, Any]) -> list[LabelClass]:
    """Read ``{name: value or values}`` or ``{value: class index}``."""
    if all(isinstance(key, str) for key in source):
        return [LabelClass(name, _values(value)) for name, value in source.items()]
    indices = sorted(set(source.values()))
    if indices not in (list(range(len(indices))), list(range(1, len(indices) + 1))):
        raise InvalidOption(
            f"a mapping of label values to classes counts the classes without a gap, found {indices}"
        )
    members = [tuple(int(key) for key, value in source.items() if value == index) for index in indices]
    return [LabelClass(_numbered(each[0]).name, each) for each in members]


def _values(value: Any) -> tuple[int, ...]:
    each = value if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) else [value]
    return tuple(_numbered(number).values[0] for number in each)


def _with_background(classes: Sequence[LabelClass]) -> tuple[LabelClass, ...]:
    if any(0 in each.values for each in classes):
        # The background is class 0 wherever it was listed.
        return tuple(sorted(classes, key=lambda each: 0 not in each.values))
    return (LabelClass(BACKGROUND, (0,)), *classes)


def _read_table(path: Path) -> list[LabelClass]:
    """Read a CSV with the columns name and value, or a colour table of FreeSurfer."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"the class table {path} cannot be read: {error}") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        if path.suffix.lower() in (".csv", ".tsv"):
            rows = csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            return [
                LabelClass(row["name"].strip(), tuple(map(int, row["value"].replace(";", " ").split())))
                for row in rows
            ]
        columns = [line.split() for line in lines]
        return [LabelClass(name, (int(number),)) for number, name, *_ in columns]
    except (KeyError, ValueError, AttributeError) as error:
        raise InvalidOption(
            f"the class table {path} is neither a CSV with the columns name and value nor a colour table "
            f"with number and name in each line ({error})"
        ) from error
