"""The weight cache: content-addressed, verified once, safe for several processes."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from kerasneuro.errors import FetchFailed, KerasNeuroError, WeightsCorrupt
from kerasneuro.fetching.digest import digest_file, holds_content, required_digest, verify
from kerasneuro.fetching.resume import forget_part
from kerasneuro.registry import WeightFile

LOCK_SECONDS = 3600.0
CACHE_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder is a cache of kerasneuro; everything in it can be fetched again.\n"
)


def cache_directory() -> Path:
    """Return the cache folder: ``KERASNEURO_CACHE``, else the user's cache folder of the system."""
    chosen = os.environ.get("KERASNEURO_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("kerasneuro", appauthor=False))


def path_for(file: WeightFile) -> Path:
    """Return where a file lies in the cache, whether it is there or not."""
    digest = required_digest(file)
    if not digest.value.isalnum() or Path(file.name).name != file.name:
        raise WeightsCorrupt(f"{file.name!r} with digest {digest.value!r} is not a valid registry entry.")
    folder = cache_directory() / "weights" / digest.algorithm / digest.value[:2] / digest.value
    return folder / file.name


def look_up(file: WeightFile) -> Path | None:
    """Return the cached copy of a file, or None if there is none.

    A copy whose size and modification time equal its verification record is trusted; otherwise it is
    hashed, and the record is written anew.

    Raises
    ------
    WeightsCorrupt
        If there is a copy and it is not the registered bytes.
    """
    path = path_for(file)
    return path if verified(path, file, path.with_name(path.name + ".ok")) else None


def look_outside(path: Path, file: WeightFile) -> bool:
    """Say whether a file outside the cache is the registered one; remember the answer in the cache.

    Raises
    ------
    WeightsCorrupt
        If there is a file and it is not the registered bytes.
    """
    key = sha256(f"{path.absolute()}\0{file.digest}".encode()).hexdigest()
    return verified(path, file, cache_directory() / "records" / f"{key}.ok")


def verified(path: Path, file: WeightFile, record: Path) -> bool:
    """Compare a file with the registry: by its record if that fits, else by hashing it.

    Raises
    ------
    WeightsCorrupt
        If the file exists and is not the registered bytes.
    """
    if not holds_content(path):
        return False
    remembered, state = _read_record(record), _state(path, file)
    if isinstance(remembered, dict) and state.items() <= remembered.items():
        return True
    verify(path, file)
    _remember(record, _with_sha256(state, path, file))
    return True


def remove(file: WeightFile) -> None:
    """Delete the cached copy of a file and its record."""
    path = path_for(file)
    path.with_name(path.name + ".ok").unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        path.chmod(0o600)  # Windows deletes no read-only file.
        path.unlink()


def part_path(file: WeightFile) -> Path:
    """Return the partial file of a transfer; the same for every process, so that it can be resumed."""
    return cache_directory() / "tmp" / f"{required_digest(file).value}.part"


def install(part: Path, file: WeightFile) -> Path:
    """Move a complete and verified partial file to its place in the cache, read-only."""
    path = path_for(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, path)
    path.chmod(0o444)  # Not before: an interrupted call must leave a part that can be continued.
    forget_part(part)
    _remember(path.with_name(path.name + ".ok"), _with_sha256(_state(path, file), path, file))
    return path


def import_file(path: str | Path, file: WeightFile) -> Path:
    """Copy a file that the user already has into the cache, after comparing it with the registry.

    Parameters
    ----------
    path : str or Path
        The user's copy; it is left as it is.
    file : WeightFile
        What it should be.

    Returns
    -------
    Path
        The copy in the cache.

    Raises
    ------
    WeightsCorrupt
        If it is not the registered bytes.
    FetchFailed
        If the cache cannot be written.
    """
    verify(path, file)
    with writing(file), locked(file):
        with suppress(WeightsCorrupt):
            present = look_up(file)
            if present is not None:
                return present
        part = part_path(file)
        try:
            shutil.copyfile(path, part)
            verify(part, file)
            return install(part, file)
        finally:
            forget_part(part)


@contextmanager
def locked(file: WeightFile) -> Iterator[None]:
    """Hold the lock of one file, across threads and processes; creates the cache folders."""
    with hold(required_digest(file).value, file.name):
        yield


@contextmanager
def hold(name: str, what: str) -> Iterator[None]:
    """Hold a named lock of the cache, across threads and processes; creates the cache folders.

    Raises
    ------
    FetchFailed
        If somebody else has held it for ``LOCK_SECONDS``.
    """
    import filelock

    root = cache_directory()
    for folder in ("tmp", "locks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    tag = root / "CACHEDIR.TAG"
    if not tag.exists():
        tag.write_text(CACHE_TAG, encoding="ascii")
    try:
        with filelock.FileLock(root / "locks" / f"{name}.lock", timeout=LOCK_SECONDS):
            yield
    except filelock.Timeout as error:
        raise FetchFailed(
            f"Another process has been fetching {what} for an hour; end it, or delete {error.lock_file}."
        ) from error


@contextmanager
def writing(file: WeightFile) -> Iterator[None]:
    """Translate the failures of writing to the cache into one sentence.

    Raises
    ------
    FetchFailed
        If the cache folder cannot be written, or the disk is full.
    """
    import errno

    try:
        yield
    except KerasNeuroError:  # Some of them are OSErrors, too.
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "has no space left for" if full else "cannot be written to store"
        raise FetchFailed(
            f"The cache folder {cache_directory()} {what} {file} ({error.strerror or error}); "
            f"{'free some space or ' if full else ''}set KERASNEURO_CACHE to another folder."
        ) from error


def _state(path: Path, file: WeightFile) -> dict[str, object]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "digest": str(file.digest)}


def _with_sha256(state: dict[str, object], path: Path, file: WeightFile) -> dict[str, object]:
    """Add the SHA-256 of a file published with another digest; the registered one stays the judge."""
    if required_digest(file).algorithm == "sha256":
        return state
    return {**state, "sha256": digest_file(path, "sha256")}


def _read_record(record: Path) -> object:
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _remember(record: Path, state: dict[str, object]) -> None:
    """Write a verification record; where that is impossible, the next call only hashes again."""
    scratch = record.with_name(f"{record.name}.{os.getpid()}-{threading.get_ident()}")
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_text(json.dumps(state), encoding="utf-8")
            os.replace(scratch, record)
        finally:
            scratch.unlink(missing_ok=True)
