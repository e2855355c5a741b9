"""The people of a study: one line per sample in a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.training.classifier.config import DataSettings

NEEDED = ("subject", "site", "label")
PATCHES = "patches"
SUBSETS = ("training", "validation", "test")
SUBSET_NAMES = {"train": "training", "val": "validation", "valid": "validation"} | {s: s for s in SUBSETS}


@dataclass(frozen=True)
class Sample:
    """One volume (or one patch) of one person.

    Attributes
    ----------
    subject, site : str
        Who, and where the scan was made.
    label : int or None
        Class index; None where it is not known.
    images : tuple of Path
        One image per channel; empty for patches.
    patches : str
        ``FILE.h5:/DATASET``; empty for images.
    index : int or None
        Which patch of the data set; None where it holds one volume.
    age : float or None
        Years.
    sex, split : str
        Empty where not given; split is training, validation or test.
    """

    subject: str
    site: str
    label: int | None
    images: tuple[Path, ...] = ()
    patches: str = ""
    index: int | None = None
    age: float | None = None
    sex: str = ""
    split: str = ""

    @property
    def name(self) -> str:
        """What tells this sample from all others of a cohort."""
        source = self.patches if self.patches else "|".join(map(str, self.images))
        return f"{source}[{self.index}]" if self.index is not None else source


def read_cohort(
    path: str | os.PathLike[str], settings: DataSettings, *, labelled: bool = True
) -> tuple[Sample, ...]:
    """Read a cohort; relative paths in it begin in its folder.

    Parameters
    ----------
    path : path
        CSV with a header: ``subject``, ``site``, ``label``, one column for each channel of `settings` (or
        ``patches``: ``FILE.h5:/DATASET`` with an array ``(X, Y, Z, C)`` or ``(N, X, Y, Z, C)``), and, where
        known, ``age``, ``sex`` and ``split``.
    settings : DataSettings
        Channels and classes.
    labelled : bool
        Every line needs a label.

    Returns
    -------
    tuple of Sample
        In the order of the file.

    Raises
    ------
    InvalidOption
        If the file cannot be used; the line and the subject are named.
    InvalidImage
        If an image is missing.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = [name.strip() for name in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidOption(f"the cohort {path} cannot be read as CSV: {error}") from error
    check_columns(columns, path, settings, labelled=labelled)
    samples: list[Sample] = []
    for number, row in enumerate(rows, start=2):
        values = {str(key).strip(): (value or "").strip() for key, value in row.items() if key}
        samples += _read_row(values, f"{path.name}, line {number}", path.parent, settings, labelled)
    if not samples:
        raise InvalidOption(f"the cohort {path} has no line below its header; expected one per sample")
    names = [sample.name for sample in samples]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidOption(f"the cohort {path} names the sample {twice} twice; leave one of the lines out")
    return tuple(samples)


def check_columns(
    columns: Sequence[str], path: Path, settings: DataSettings, *, labelled: bool = True
) -> None:
    """Make sure that the header has what is needed."""
    needed = [name for name in NEEDED if labelled or name != "label"]
    needed += [] if PATCHES in columns else settings.channels
    missing = [name for name in needed if name not in columns]
    if missing:
        raise InvalidOption(
            f"the cohort {path} has no column {', '.join(missing)}; expected {', '.join(needed)} "
            f"(and, where known, age, sex, split), found {', '.join(columns) or 'no header'}"
        )


def _read_row(
    values: Mapping[str, str], place: str, folder: Path, settings: DataSettings, labelled: bool
) -> list[Sample]:
    subject = values.get("subject", "")
    if not subject or not values.get("site"):
        raise InvalidOption(f"{place}: expected a subject and a site, found one of them empty")
    place = f"{place} (subject {subject})"
    common = {
        "subject": subject,
        "site": values["site"],
        "age": _read_age(values.get("age", ""), place),
        "sex": values.get("sex", ""),
        "split": _read_split(values.get("split", ""), place),
    }
    label = _read_label(values.get("label", ""), place, settings.classes, labelled)
    if values.get(PATCHES):
        return [
            Sample(label=label, patches=source, index=index, **common)  # type: ignore[arg-type]
            for source, index in _find_patches(values[PATCHES], folder, place)
        ]
    images = tuple(_find_image(values.get(name, ""), name, folder, place) for name in settings.channels)
    return [Sample(label=label, images=images, **common)]  # type: ignore[arg-type]


def _read_label(text: str, place: str, classes: Sequence[str], labelled: bool) -> int | None:
    if not text and not labelled:
        return None
    if classes:
        if text not in classes:
            raise InvalidOption(f"{place}: expected a label of {', '.join(classes)}, found {text!r}")
        return list(classes).index(text)
    if not text.isdecimal():
        raise InvalidOption(
            f"{place}: expected a class number from 0 as the label, found {text!r}; name the classes with "
            "data.classes where labels are texts"
        )
    return int(text)


def _read_age(text: str, place: str) -> float | None:
    try:
        age = float(text) if text else None
    except ValueError:
        age = -1.0
    if age is not None and not 0 <= age < 200:
        raise InvalidOption(f"{place}: expected an age in years, found {text!r}")
    return age


def _read_split(text: str, place: str) -> str:
    if text and text.lower() not in SUBSET_NAMES:
        raise InvalidOption(f"{place}: expected a split of {', '.join(SUBSETS)}, found {text!r}")
    return SUBSET_NAMES[text.lower()] if text else ""


def _find_image(text: str, channel: str, folder: Path, place: str) -> Path:
    path = folder / text
    if not text or not path.is_file():
        found = f"no file at {path}" if text else "an empty cell"
        raise InvalidImage(f"{place}: expected an image for the channel {channel}, found {found}")
    return path.resolve()


def _find_patches(text: str, folder: Path, place: str) -> list[tuple[str, int | None]]:
    """List the patches of one data set: its source, and their numbers."""
    from kerasneuro.training.classifier.patches import count_patches

    name, _, dataset = text.partition(":/")
    path = folder / name
    if not path.is_file():
        raise InvalidImage(f"{place}: expected a file of patches, found no file at {path}")
    source = f"{path.resolve()}:/{dataset or 'images'}"
    count = count_patches(source)
    return [(source, None)] if count is None else [(source, index) for index in range(count)]
