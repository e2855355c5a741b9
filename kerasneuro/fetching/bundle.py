"""Bring the registered files of a TensorFlow SavedModel together, as the folder they are published in."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.fetching.cache import cache_directory, hold, look_outside, writing
from kerasneuro.fetching.digest import digest_file, required_digest
from kerasneuro.fetching.remembered import recall_digest
from kerasneuro.registry import WeightFile

VARIABLES = "variables"


def savedmodel_folder(files: Sequence[WeightFile], paths: Sequence[Path]) -> Path:
    """Return a folder with ``saved_model.pb`` and ``variables/``.

    Files that lie together already (in a dataset of the user's) stay where they are; otherwise the cache gets
    a folder of hard links, or of copies where links are not possible.

    Parameters
    ----------
    files : sequence of WeightFile
        The registered files of one SavedModel.
    paths : sequence of Path
        Their verified copies, in the same order.

    Returns
    -------
    Path
        The folder; treat it as read-only.

    Raises
    ------
    FetchFailed
        If the cache cannot be written.
    """
    top = _common_top(files, paths)
    if top is not None:
        return top
    key = folder_key(files)
    target = cache_directory() / "savedmodels" / key
    with writing(files[0]), hold(key, f"the SavedModel with {files[0].name}"):
        if not _complete(target, files):
            shutil.rmtree(target, ignore_errors=True)
            _build(target, files, paths)
    return target


def folder_key(files: Sequence[WeightFile]) -> str:
    """Name the folder in the cache in which the files of a SavedModel lie together."""
    return hashlib.sha256("\n".join(str(required_digest(file)) for file in files).encode()).hexdigest()


def place_of(file: WeightFile) -> Path:
    """Return where a file lies inside its SavedModel."""
    return Path(VARIABLES, file.name) if file.name.startswith(f"{VARIABLES}.") else Path(file.name)


def main_file(path: Path) -> Path:
    """Return the largest data file of a SavedModel, which stands for all; a file stands for itself."""
    data = (file for file in _files(path) if ".data-" in file.name) if path.is_dir() else ()
    return max(data, key=lambda file: file.stat().st_size, default=path)


def digest_weights(path: Path) -> str:
    """Return the SHA-256 of a weight file; of a SavedModel, that of the list of its files."""
    if not path.is_dir():
        return recall_digest(path) or digest_file(path, "sha256")
    lines = (f"{file.name}\0{digest_file(file, 'sha256')}\n" for file in _files(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(path: Path) -> Iterator[Path]:
    """List the files that count of a SavedModel, in a fixed order; `path` may be its folder of variables."""
    top = path.parent if path.name == VARIABLES and (path / f"{VARIABLES}.index").is_file() else path
    yield from (file for file in (top / "saved_model.pb",) if file.is_file())
    yield from (file for file in sorted((top / VARIABLES).glob(f"{VARIABLES}.*")) if file.is_file())


def _common_top(files: Sequence[WeightFile], paths: Sequence[Path]) -> Path | None:
    """Return the folder in which all files have their places; None if there is none."""
    tops = set()
    for file, path in zip(files, paths, strict=True):
        place = place_of(file)
        if path.parts[-len(place.parts) :] != place.parts:
            return None
        tops.add(path.parents[len(place.parts) - 1])
    return tops.pop() if len(tops) == 1 else None


def _complete(target: Path, files: Sequence[WeightFile]) -> bool:
    with suppress(WeightsCorrupt):
        return all(look_outside(target / place_of(file), file) for file in files)
    return False


def _build(target: Path, files: Sequence[WeightFile], paths: Sequence[Path]) -> None:
    """Fill a hidden folder, then give it its name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=target.parent, ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / "model"
        for file, path in zip(files, paths, strict=True):
            place = folder / place_of(file)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path.resolve(), place)
            except OSError:
                shutil.copyfile(path, place)
        os.replace(folder, target)
