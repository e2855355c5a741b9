"""List what the cache holds, and prove it by its digests."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kerasneuro.errors import KerasNeuroError
from kerasneuro.fetching import owners
from kerasneuro.fetching.bundle import VARIABLES, place_of
from kerasneuro.fetching.cache import LOCK_SECONDS, forget_record
from kerasneuro.fetching.digest import ALGORITHMS, digest_file, verify
from kerasneuro.fetching.licences import FILE_NAME as LICENCES

# Kind of an entry -> its folder in the cache.
FOLDERS = {
    "weights": "weights",
    "savedmodel": "savedmodels",
    "converted": "converted",
    "partial": "tmp",
    "dataset": "datasets",
    "record": "records",
}
CLONING = ".tmp-"


@dataclass(frozen=True)
class Entry:
    """Describe one thing in the cache that is kept or deleted as a whole.

    Attributes
    ----------
    kind : str
        ``"weights"``, ``"savedmodel"``, ``"converted"``, ``"partial"``, ``"dataset"`` or ``"record"``.
    path : Path
        The file or folder.
    files : tuple of Path
        The files that count in it; empty for a dataset.
    models : tuple of str
        The models and samples that it belongs to; empty where that is not known.
    digest : str
        Of the weights, or of what a file was made from; empty where there is none.
    bytes : int
        Its size; of SavedModels and datasets without the content that is a hard link shared with weights.
    used : float or None
        When it was last read, in seconds since 1970, if a reading has been noted since it was made.
    lock : str
        Name of the lock that a transfer of it holds; empty where none is needed.
    busy : bool
        Whether it may belong to a transfer whose lock is not known.
    """

    kind: str
    path: Path
    files: tuple[Path, ...] = ()
    models: tuple[str, ...] = ()
    digest: str = ""
    bytes: int = 0
    used: float | None = None
    lock: str = ""
    busy: bool = False

    @property
    def name(self) -> str:
        """The name of its files for a reader."""
        named = self.kind in ("weights", "converted")
        return ", ".join(file.name for file in self.files) if named else self.path.name


def entries(root: Path) -> list[Entry]:
    """List what the cache holds; symbolic links are never followed.

    Parameters
    ----------
    root : Path
        The cache folder; it may be absent.
    """
    return [
        *_weights(root),
        *_savedmodels(root),
        *_converted(root),
        *_partial(root),
        *_datasets(root),
        *_records(root),
    ]


def linked_folders(root: Path) -> list[Path]:
    """List the parts of the cache that are symbolic links; what they lead to is left alone."""
    return [root / name for name in FOLDERS.values() if (root / name).is_symlink()]


def damage(entry: Entry) -> str | None:
    """Hash the content of an entry; return what is wrong with it, or None if it is intact.

    What is remembered of a damaged file is dropped, so that no later call trusts it.

    Raises
    ------
    LookupError
        If no digest is known for an entry of this kind, so that nothing can be said.
    """
    if entry.kind == "weights":
        algorithm, _, expected = entry.digest.partition(" ")
        return next(filter(None, (_difference(file, algorithm, expected) for file in entry.files)), None)
    files = owners.of_savedmodels().get(entry.path.name) if entry.kind == "savedmodel" else None
    if files is None:
        raise LookupError(entry.kind)
    for file in files[1]:
        path = entry.path / place_of(file)
        try:
            verify(path, file)
        except (KerasNeuroError, OSError) as error:
            forget_record(path, file)
            return str(error)
    return None


def _difference(path: Path, algorithm: str, expected: str) -> str | None:
    try:
        found = digest_file(path, algorithm)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}"
    if found == expected:
        return None
    with suppress(OSError):
        path.with_name(f"{path.name}.ok").unlink(missing_ok=True)
    return f"{path} has {algorithm} {found}, expected {expected}"


def _weights(root: Path) -> Iterator[Entry]:
    known = owners.of_digests()
    for algorithm in _folders(root / FOLDERS["weights"]):
        if algorithm.name not in ALGORITHMS:
            continue
        for folder in (inner for start in _folders(algorithm) for inner in _folders(start)):
            files = tuple(file for file in _files(folder) if ".ok" not in file.suffixes)
            if files:
                digest = f"{algorithm.name} {folder.name}"
                used, size = _last_use(files), sum(map(_bytes, files))
                models = known.get(digest, ())
                yield Entry("weights", folder, files, models, digest, size, used, lock=folder.name)


def _savedmodels(root: Path) -> Iterator[Entry]:
    known = owners.of_savedmodels()
    for folder in _folders(root / FOLDERS["savedmodel"]):
        files = tuple(_files(folder, VARIABLES))
        models = known[folder.name][0] if folder.name in known else ()
        hidden = folder.name.startswith(".")  # Left by a call that was killed, or being built just now.
        yield Entry(
            "partial" if hidden else "savedmodel",
            folder,
            files,
            models,
            bytes=_own_bytes(folder),
            used=_last_use(files),
            lock="" if hidden else folder.name,
            busy=hidden and _is_young(folder),
        )


def _converted(root: Path) -> Iterator[Entry]:
    origins = owners.of_sha256(dict(_recorded_sha256(root)))
    for folder in _folders(root / FOLDERS["converted"]):
        files, sha256 = tuple(_files(folder)), folder.name.partition("-")[0]
        size, models = sum(map(_bytes, files)), origins.get(sha256, ())
        yield Entry("converted", folder, files, models, f"from sha256 {sha256}", size, _last_use(files))


def _partial(root: Path) -> Iterator[Entry]:
    known = {digest.partition(" ")[2]: names for digest, names in owners.of_digests().items()}
    parts: dict[str, list[Path]] = {}
    for path in _children(root / FOLDERS["partial"]):
        match = re.fullmatch(r"([0-9a-f]{8,})\.(part|part\.json|import)", path.name)
        if match and path.is_file():
            parts.setdefault(match[1], []).append(path)
        else:
            yield Entry("partial", path, (), bytes=_own_bytes(path), busy=_is_young(path))
    for value, files in parts.items():
        size, first = sum(map(_bytes, files)), min(files, key=lambda file: len(file.name))
        yield Entry("partial", first, tuple(files), known.get(value, ()), bytes=size, lock=value)


def _datasets(root: Path) -> Iterator[Entry]:
    for folder in _folders(root / FOLDERS["dataset"]):
        name, unfinished, _ = folder.name.partition(CLONING)
        kind = "partial" if unfinished else "dataset"
        yield Entry(kind, folder, bytes=_own_bytes(folder), lock=f"dataset-{name}")


def _records(root: Path) -> Iterator[Entry]:
    folder = root / FOLDERS["record"]
    if folder.is_dir() and not folder.is_symlink():
        yield Entry("record", folder, bytes=_own_bytes(folder))
    if (root / LICENCES).is_file():
        yield Entry("record", root / LICENCES, (root / LICENCES,), bytes=_bytes(root / LICENCES))


def _recorded_sha256(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the registered digest and the SHA-256 of files that are published with another digest."""
    weights = (path.with_name(f"{path.name}.ok") for entry in _weights(root) for path in entry.files)
    for record in (*weights, *_files(root / FOLDERS["record"])):
        with suppress(OSError, ValueError, KeyError, TypeError):
            state = json.loads(record.read_text(encoding="utf-8"))
            yield str(state["digest"]), str(state["sha256"])


def _children(folder: Path) -> list[Path]:
    """List a folder that is no symbolic link."""
    if folder.is_symlink():
        return []
    with suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _folders(folder: Path) -> list[Path]:
    return [path for path in _children(folder) if path.is_dir() and not path.is_symlink()]


def _files(*places: Path | str) -> list[Path]:
    """List the files of a folder, then of the folders in it that are named."""
    top = Path(places[0])
    folders = (top, *(top / name for name in places[1:]))
    return [path for folder in folders for path in _children(folder) if path.is_file()]


def _bytes(path: Path) -> int:
    with suppress(OSError):
        return path.lstat().st_size
    return 0


def _own_bytes(path: Path) -> int:
    """Add up the files at or below a path that no other place shares by a hard link."""
    below = (Path(place, name) for place, _, names in os.walk(path) for name in names)
    total = 0
    for file in below if path.is_dir() and not path.is_symlink() else (path,):
        with suppress(OSError):
            status = file.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0
    return total


def _last_use(files: Iterable[Path]) -> float | None:
    times = []
    for file in files:
        with suppress(OSError):
            status = file.stat()
            times += [status.st_atime] if status.st_atime > status.st_ctime else []
    return max(times, default=None)


def _is_young(path: Path) -> bool:
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime < LOCK_SECONDS
    return False
