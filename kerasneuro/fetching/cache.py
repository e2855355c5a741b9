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


def mark() -> Path:
    """Create the cache folder with its tag, by which backup programs and ``cache clean`` know it."""
    root = cache_directory()
    root.mkdir(parents=True, exist_ok=True)
    tag = root / "CACHEDIR.TAG"
    if not tag.exists():
        write_whole(tag, CACHE_TAG)
    return root


def write_whole(path: Path, text: str) -> None:
    """Write a small text file whole or not at all."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


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
    return verified(path, file, _outside_record(path, file))


def forget_record(path: Path, file: WeightFile) -> None:
    """Drop what is remembered of a copy, in the cache or outside, so that it is hashed before it is used."""
    with suppress(OSError):  # Where the cache is read-only, the record stays with the file it is about.
        _outside_record(path, file).unlink(missing_ok=True)
        if path == path_for(file):
            path.with_name(path.name + ".ok").unlink(missing_ok=True)


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
    delete_file(path)


def delete_file(path: Path) -> None:
    """Delete a file that may be read-only, or absent; other hard links to its content stay as they are."""
    if os.name == "nt":  # Windows deletes no read-only file.
        with suppress(OSError):
            path.chmod(0o600)
    path.unlink(missing_ok=True)


def part_path(file: WeightFile) -> Path:
    """Return the partial file of a transfer; the same for every process, so that it can be resumed."""
    return cache_directory() / "tmp" / f"{required_digest(file).value}.part"


def install(part: Path, file: WeightFile, *, linked: bool = False) -> Path:
    """Move a complete and verified partial file to its place in the cache, read-only.

    A ``linked`` one keeps its mode, which a hard link shares with the user's own file.
    """
    path = path_for(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, path)
    if not linked:  # Not before: an interrupted call must leave a part that can be continued.
        path.chmod(0o444)
    forget_part(part)
    _remember(path.with_name(path.name + ".ok"), _with_sha256(_state(path, file), path, file))
    return path


def import_file(path: str | Path, file: WeightFile, *, link: bool = False) -> Path:
    """Bring a file that the user already has into the cache, after comparing it with the registry.

    Parameters
    ----------
    path : str or Path
        The user's copy; it is left as it is.
    file : WeightFile
        What it should be.
    link : bool
        Make a hard link where the file system allows it, so that nothing is stored twice. Cache and user then
        share the bytes: a later edit in place also changes the cached copy, which is noticed when it is used.

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
        try:
            present = look_up(file)
            if present is not None:
                return present
        except WeightsCorrupt:
            remove(file)
        # Never the partial file of a transfer, which would continue it by writing into the user's own.
        scratch = part_path(file).with_suffix(".import")
        scratch.unlink(missing_ok=True)
        try:
            linked = link and _hard_link(Path(path), scratch)
            if not linked:
                shutil.copyfile(path, scratch)
            verify(scratch, file)
            forget_part(part_path(file))
            return install(scratch, file, linked=linked)
        finally:
            scratch.unlink(missing_ok=True)


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

    root = mark()
    for folder in ("tmp", "locks"):
        (root / folder).mkdir(exist_ok=True)
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
    with suppress(OSError):
        mark()
        record.parent.mkdir(parents=True, exist_ok=True)
        write_whole(record, json.dumps(state))


def _outside_record(path: Path, file: WeightFile) -> Path:
    key = sha256(f"{path.absolute()}\0{file.digest}".encode()).hexdigest()
    return cache_directory() / "records" / f"{key}.ok"


def _hard_link(path: Path, target: Path) -> bool:
    try:
        os.link(path.resolve(), target)
    except OSError:  # Another file system, one without links, or somebody else's file.
        return False
    return True
