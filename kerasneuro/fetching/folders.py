"""Look for a file in the folders that the user names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.fetching.cache import look_outside
from kerasneuro.registry import WeightFile


def find_in_folders(file: WeightFile) -> tuple[Path | None, list[tuple[str, str]]]:
    """Search ``KERASNEURO_WEIGHTS``, then ``$FREESURFER_HOME/models``; before both where an added model says.

    In each folder the file is looked for under its path in the dataset (or repository, or wheel), then
    under its name. Every candidate is compared with the registered digest.

    Returns
    -------
    path : Path or None
        The first copy that is the registered file.
    notes : list of (str, str)
        What was searched and why it did not serve, for the message of a later failure.
    """
    notes: list[tuple[str, str]] = []
    for place in own_places(file):
        try:
            if look_outside(place, file):
                return place, notes
            notes.append((str(place), "is no longer there"))
        except WeightsCorrupt as error:
            notes.append((str(place), f"was not used: {error}"))
        except OSError as error:
            notes.append((str(place), f"cannot be read: {error.strerror or error}"))
    for folder, variable in search_folders():
        if not folder.is_dir():
            notes.append((str(folder), f"named by {variable}, is not a folder"))
            continue
        found = False
        for candidate in candidates(folder, file):
            try:
                if look_outside(candidate, file):
                    return candidate, notes
            except WeightsCorrupt as error:
                found = True
                notes.append((str(candidate), f"was not used: {error}"))
            except OSError as error:
                found = True
                notes.append((str(candidate), f"cannot be read: {error.strerror or error}"))
            if candidate.is_symlink() and not candidate.exists():
                found = True
                notes.append((str(candidate), "is a DataLad placeholder without content (datalad get)"))
        if not found:
            notes.append((str(folder), f"named by {variable}, does not hold {file.name}"))
    return None, notes


def own_places(file: WeightFile) -> list[Path]:
    """Return where the user has said that a file of an added model lies."""
    return [Path(source.path) for source in file.sources if source.kind == "file" and source.path]


def search_folders() -> Iterator[tuple[Path, str]]:
    """Yield the folders that the user names, each with the variable that names it."""
    for entry in os.environ.get("KERASNEURO_WEIGHTS", "").split(os.pathsep):
        if entry.strip():
            yield Path(entry.strip()).expanduser(), "KERASNEURO_WEIGHTS"
    home = os.environ.get("FREESURFER_HOME")
    if home:
        yield Path(home) / "models", "FREESURFER_HOME"


def candidates(folder: Path, file: WeightFile) -> Iterator[Path]:
    """Yield where a file may lie in a folder: under its published paths, then under its name."""
    published = [source.path or source.member for source in file.sources if source.kind != "file"]
    paths = [*published, *listed_paths(folder, file)]
    inside = [path for path in paths if path and ".." not in path and not Path(path).is_absolute()]
    yield from (folder / path for path in dict.fromkeys([*inside, file.name]))


def listed_paths(folder: Path, file: WeightFile) -> list[str]:
    """Return where the ``weights.json`` of a kerasneuro-weights dataset lists a file, by its digest."""
    try:
        entries = json.loads((folder / "weights.json").read_text(encoding="utf-8"))["files"]
        wanted = {"algorithm": file.digest.algorithm, "value": file.digest.value} if file.digest else None
        return [str(item["path"]) for item in entries if item["path"] and item["digest"] == wanted]
    except (OSError, ValueError, KeyError, TypeError):
        return []
