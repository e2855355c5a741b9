"""Bring registered files from a folder into the cache, whatever they are called there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kerasneuro.errors import InvalidOption, WeightsCorrupt
from kerasneuro.fetching.cache import import_file, look_up, path_for
from kerasneuro.fetching.digest import CHUNK_BYTES, holds_content, new_hasher
from kerasneuro.fetching.receive import LARGEST_BYTES
from kerasneuro.registry import WeightFile

LINKED, COPIED, PRESENT = "linked", "copied", "not needed"


@dataclass(frozen=True)
class Imported:
    """Say what became of a file that was recognised.

    Attributes
    ----------
    file : WeightFile
        What it is.
    source : Path
        Where it lies.
    path : Path
        The copy in the cache.
    state : str
        ``"linked"``, ``"copied"``, or ``"not needed"`` if the cache had it already.
    """

    file: WeightFile
    source: Path
    path: Path
    state: str


def import_folder(folder: Path, files: Iterable[WeightFile]) -> tuple[list[Imported], list[tuple[Path, str]]]:
    """Look through a folder and its subfolders, and bring what is registered into the cache.

    A file is recognised by size and digest, never by its name. It is hard-linked where the file system allows
    it, else copied; the folder is never altered. Symbolic links to files are followed, as a DataLad dataset
    consists of them, those to folders are not; ``.git`` is left out.

    Parameters
    ----------
    folder : Path
        Where to look.
    files : iterable of WeightFile
        What to look for.

    Returns
    -------
    imported : list of Imported
        Every file that was recognised, in the order of the folder.
    others : list of (Path, str)
        Every other file, and why it was passed over.

    Raises
    ------
    InvalidOption
        If it is not a folder.
    FetchFailed
        If the cache cannot be written.
    """
    if not folder.is_dir():
        raise InvalidOption(f"{folder} is not a folder; --from takes the folder that holds the weight files")
    wanted = {path_for(file): file for file in files}
    imported: list[Imported] = []
    others: list[tuple[Path, str]] = []
    for path in _walk(folder, others):
        try:
            found = [file for file in wanted.values() if file.bytes in (None, path.stat().st_size)]
            matches = _matches(path, found)
        except OSError as error:
            others.append((path, f"cannot be read: {error.strerror or error}"))
            continue
        imported += [_import(path, file) for file in matches]
        if not matches:
            others.append((path, "is not registered, or not asked for"))
    return imported, others


def _walk(folder: Path, others: list[tuple[Path, str]]) -> Iterator[Path]:
    """Yield the regular files; reading anything else, such as a pipe, might never end."""
    for place, folders, names in os.walk(folder, onerror=lambda error: others.append(_unreadable(error))):
        folders[:] = sorted(name for name in folders if name != ".git")
        for path in (Path(place, name) for name in sorted(names)):
            try:
                if stat.S_ISREG(path.stat().st_mode):
                    yield path
            except OSError:
                others.append((path, "leads nowhere (a DataLad placeholder without content?)"))


def _unreadable(error: OSError) -> tuple[Path, str]:
    return Path(error.filename), f"cannot be read: {error.strerror}"


def _matches(path: Path, files: list[WeightFile]) -> list[WeightFile]:
    """Return those files that have the content; it is read once for all kinds of digests."""
    algorithms = {file.digest.algorithm for file in files if file.digest}
    size = path.stat().st_size
    if not algorithms or not 0 < size <= LARGEST_BYTES or not holds_content(path):
        return []
    hashers = {algorithm: new_hasher(algorithm, size) for algorithm in algorithms}
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            for hasher in hashers.values():
                hasher.update(chunk)
    found = {algorithm: hasher.hexdigest() for algorithm, hasher in hashers.items()}
    return [file for file in files if file.digest and found[file.digest.algorithm] == file.digest.value]


def _import(path: Path, file: WeightFile) -> Imported:
    try:
        present = look_up(file)
    except WeightsCorrupt:  # It is replaced now.
        present = None
    if present is not None:
        return Imported(file, path, present, PRESENT)
    target = import_file(path, file, link=True)
    return Imported(file, path, target, LINKED if os.path.samefile(path, target) else COPIED)
