"""Scans with their label maps: from lists, a CSV file or a BIDS folder."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.tasks.bids import find_scans
from kerasneuro.volume.image import open_image

GRID_TOLERANCE = 1e-3  # mm
LABEL_COLUMN = "labels"
LABEL_ENDINGS = ("dseg", "mask", "seg", "labels", "roi")
"""Ends of the names of label maps in BIDS derivatives, in the order of preference."""

IMAGE_ENDS = (".nii.gz", ".nii", ".mgz")


@dataclass(frozen=True)
class Pair:
    """One labelled scan of one person.

    Attributes
    ----------
    images : tuple of Path
        One file per channel, all on one grid.
    labels : Path or None
        Label map on the same grid; None where there is none (to predict only).
    subject : str
        Who; subsets are made so that no person is in two of them.
    """

    images: tuple[Path, ...]
    labels: Path | None
    subject: str


def find_pairs(
    source: Any,
    *,
    channels: Sequence[str] = (),
    labels: str = "",
    check: bool = True,
) -> list[Pair]:
    """List labelled scans, and make sure that each label map lies on the grid of its scan.

    Parameters
    ----------
    source : sequence, or path of a CSV file or a folder
        A list of ``(image, labels)``, where `image` may be a sequence of files, one per channel, or of
        `Pair`; a CSV with a header, relative paths in it beginning in its folder, and the columns of
        `channels` and `labels` (and, where known, ``subject``); a BIDS data set, whose label maps may lie
        below its ``derivatives``.
    channels : sequence of str
        Columns of the CSV (by default every one but subject and labels), or BIDS suffixes such as
        ``("T1w", "FLAIR")`` (by default T1w).
    labels : str
        Column of the CSV ("labels" by default), or the end of the label maps' names in BIDS, such as
        ``desc-tumour_mask`` (by default dseg, mask, seg, labels or roi).
    check : bool
        Open the headers: refuse missing files, and shapes or affines that differ.

    Returns
    -------
    list of Pair
        In the order of the source.

    Raises
    ------
    InvalidOption
        If the source cannot be used.
    InvalidImage
        If a file is missing or no image, or the grids differ.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            pairs = _from_bids(path, channels or ("T1w",), labels)
        else:
            pairs = _from_csv(path, channels, labels or LABEL_COLUMN)
    elif isinstance(source, Iterable) and not isinstance(source, Mapping):
        pairs = [_from_entry(entry, number) for number, entry in enumerate(source)]
    else:
        raise InvalidOption(
            f"labelled scans come as a list of (image, labels), a CSV file or a BIDS folder, found {source!r}"
        )
    if not pairs:
        raise InvalidOption("expected one labelled scan at least, found none")
    counts = sorted({len(pair.images) for pair in pairs})
    if len(counts) > 1:
        raise InvalidOption(f"every scan needs the same number of channels, found {counts}")
    if check:
        for pair in pairs:
            check_pair(pair)
    return pairs


def check_pair(pair: Pair) -> None:
    """Refuse files that are missing, or that lie on different grids; no voxel is read.

    Raises
    ------
    InvalidImage
        With the files and what differs.
    """
    first: Any = None
    for path in (*pair.images, *((pair.labels,) if pair.labels else ())):
        opened, _ = open_image(path)
        if first is None:
            first = opened
        shapes = opened.shape[:3], first.shape[:3]
        if shapes[0] != shapes[1]:
            raise InvalidImage(
                f"subject {pair.subject}: {path} has shape {shapes[0]}, {pair.images[0]} has {shapes[1]}; "
                "resample one to the grid of the other"
            )
        if not np.allclose(opened.affine, first.affine, atol=GRID_TOLERANCE):
            far = float(np.abs(np.asarray(opened.affine) - first.affine).max())
            raise InvalidImage(
                f"subject {pair.subject}: {path} and {pair.images[0]} have the same shape, but their affines "
                f"differ by up to {far:.3g}; resample one to the grid of the other, or correct the header"
            )


def _from_entry(entry: Any, number: int) -> Pair:
    if isinstance(entry, Pair):
        return entry
    try:
        if isinstance(entry, (Mapping, str, os.PathLike)):
            raise TypeError
        image, labels, *subject = entry
        images = (image,) if isinstance(image, (str, os.PathLike)) else tuple(image)
        paths = tuple(Path(each) for each in images)
        target = Path(labels) if labels is not None else None
    except (TypeError, ValueError) as error:
        raise InvalidOption(
            f"labelled scan {number}: expected (image, labels), both paths of files, found {entry!r}"
        ) from error
    if not paths:
        raise InvalidOption(f"labelled scan {number}: expected an image, found none")
    return Pair(paths, target, str(subject[0]) if subject else _subject_of(paths[0]))


def _subject_of(path: Path) -> str:
    """Take ``sub-X`` from a BIDS path; else the file stands for one person."""
    found = re.findall(r"sub-[0-9A-Za-z]+", path.as_posix())
    return found[-1] if found else path.as_posix()


def _from_csv(path: Path, channels: Sequence[str], column: str) -> list[Pair]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows, header = list(reader), [name.strip() for name in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidOption(f"the list of scans {path} cannot be read as CSV: {error}") from error
    known = (column, "subject", "site", "split", "fold")
    channels = channels or [name for name in header if name not in known]
    missing = [name for name in (*channels, column) if name not in header]
    if missing or not channels:
        raise InvalidOption(
            f"{path} has no column {', '.join(missing) or 'with images'}; expected one column per channel "
            f"and {column}, found {', '.join(header) or 'no header'}"
        )
    pairs = []
    for line, row in enumerate(rows, start=2):
        cells = {str(key).strip(): (value or "").strip() for key, value in row.items() if key}
        empty = [name for name in (*channels, column) if not cells.get(name)]
        if empty:
            raise InvalidOption(f"{path.name}, line {line}: the column {empty[0]} is empty; name a file")
        images = tuple(path.parent / cells[name] for name in channels)
        subject = cells.get("subject") or _subject_of(images[0])
        pairs.append(Pair(images, path.parent / cells[column], subject))
    return pairs


def _from_bids(folder: Path, suffixes: Sequence[str], ending: str) -> list[Pair]:
    scans = find_scans(folder, {suffix: suffix for suffix in suffixes})
    complete = [scan for scan in scans if len(scan) == len(suffixes)]
    if not complete:
        raise InvalidImage(f"no folder below {folder} holds all of {', '.join(suffixes)}")
    derived = _by_scan(path for place in folder.glob("derivatives/**/anat") for path in place.iterdir())
    pairs = []
    for scan in complete:
        images = tuple(scan[suffix] for suffix in suffixes)
        start = _entities(images[0].name)
        beside = _by_scan(images[0].parent.iterdir()).get(start, [])
        found = _choose_labels(images[0], [*beside, *derived.get(start, [])], folder, ending)
        pairs.append(Pair(images, found, _subject_of(images[0])))
    return pairs


def _entities(name: str) -> str:
    """Return subject and session, which a scan and its label map have in common."""
    found = re.match(r"sub-[0-9A-Za-z]+(?:_ses-[0-9A-Za-z]+)?", name)
    return found.group() if found else name.split("_")[0]


def _by_scan(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Sort images by subject and session."""
    found: dict[str, list[Path]] = {}
    for path in sorted(paths):
        if path.name.endswith(IMAGE_ENDS):
            found.setdefault(_entities(path.name), []).append(path)
    return found


def _choose_labels(image: Path, candidates: Sequence[Path], folder: Path, ending: str) -> Path:
    """Find the label map of a scan by the end of its name."""
    endings = (ending,) if ending else LABEL_ENDINGS
    for each in endings:
        ends = tuple(f"{each}{suffix}" for suffix in IMAGE_ENDS)
        found = [path for path in candidates if path.name.endswith(ends) and path != image]
        if len(found) > 1:
            raise InvalidImage(
                f"{image.name} has several label maps ({', '.join(path.name for path in found)}); say which "
                "one by the end of its name (labels)"
            )
        if found:
            return found[0]
    raise InvalidImage(
        f"{image.name} has no label map: expected {_entities(image.name)}_*{{{','.join(endings)}}}.nii.gz "
        f"beside it or below {folder / 'derivatives'}"
    )
