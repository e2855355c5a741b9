"""Delete what the cache holds, and never anything else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kerasneuro.errors import InvalidOption
from kerasneuro.fetching.cache import CACHE_TAG, cache_directory, delete_file
from kerasneuro.fetching.datalad import remove_clone
from kerasneuro.fetching.inventory import Entry, damage


def check_root(root: Path) -> None:
    """Refuse to delete below a folder that may not be a cache of ours.

    Parameters
    ----------
    root : Path
        The cache folder, which exists.

    Raises
    ------
    InvalidOption
        If it is the home folder, the root of the file system or a folder above home, lies in a git work tree,
        is a symbolic link to another place, or carries no ``CACHEDIR.TAG`` of kerasneuro.
    """
    real = root.resolve()
    reason = None
    if real == Path(real.anchor):
        reason = "is the root of the file system"
    elif any(home.is_relative_to(real) for home in _homes()):
        reason = "is the home folder or lies above it"
    elif root.is_symlink() and real.parent != root.parent.resolve():
        reason = f"is a symbolic link to {real}"
    elif (tree := next(filter(_is_git_tree, (real, *real.parents)), None)) is not None:
        reason = f"lies in the git work tree {tree}"
    elif not _is_tagged(real):
        reason = "has no CACHEDIR.TAG written by kerasneuro"
    if reason:
        raise InvalidOption(
            f"Nothing is deleted below {root}: it {reason}, and only a folder that kerasneuro made for "
            "its cache is cleaned; set KERASNEURO_CACHE to such a folder, or delete by hand."
        )


def select(
    entries: Iterable[Entry], *, kinds: Collection[str] = (), names: Collection[str] = ()
) -> list[Entry]:
    """Choose entries of some kinds (default all) that belong to some models (default any).

    A file that several models share is chosen if one of them is named.
    """
    chosen = [entry for entry in entries if not kinds or entry.kind in kinds]
    return [entry for entry in chosen if not names or set(names).intersection(entry.models)]


def clean(entries: Iterable[Entry]) -> list[tuple[Entry, str | None]]:
    """Delete entries of the cache, each under the lock that its transfer would hold.

    Symbolic links are removed and never followed. The tag and the (empty) lock files stay: another process
    may be waiting for one.

    Returns
    -------
    list of (Entry, str or None)
        Every entry, with the reason why it was kept, or None if it is gone.

    Raises
    ------
    InvalidOption
        As in :func:`check_root`; then nothing is deleted.
    """
    root = cache_directory()
    if not root.exists():
        return []
    check_root(root)
    return [(entry, _delete(root, entry)) for entry in entries]


def remove_damaged(entries: Iterable[Entry]) -> list[tuple[Entry, str | None]]:
    """Delete entries that are still damaged once their lock is held; returns as :func:`clean`."""
    root = cache_directory()
    check_root(root)
    return [(entry, _delete(root, entry, only_damaged=True)) for entry in entries]


def _delete(root: Path, entry: Entry, *, only_damaged: bool = False) -> str | None:
    if entry.busy:
        return "is less than an hour old and may belong to a running transfer"
    if not entry.path.parent.resolve().is_relative_to(root.resolve()):
        return "lies outside the cache"
    try:
        with _lock_now(root, entry.lock) as free:
            if not free:
                return "is in use by another process"
            if only_damaged and damage(entry) is None:
                return "was replaced meanwhile and is intact"
            _delete_now(entry)
    except OSError as error:
        return f"cannot be deleted: {error.strerror or error}"
    return "cannot be deleted completely" if os.path.lexists(entry.path) else None


def _delete_now(entry: Entry) -> None:
    for file in entry.files:  # First, since a folder of read-only files is not deleted on Windows.
        delete_file(file)
    if entry.path.is_symlink() or not entry.path.is_dir():
        entry.path.unlink(missing_ok=True)
    elif entry.lock.startswith("dataset-"):
        remove_clone(entry.path)
    else:
        with suppress(FileNotFoundError):
            shutil.rmtree(entry.path)


@contextmanager
def _lock_now(root: Path, name: str) -> Iterator[bool]:
    """Take a lock of the cache without waiting; gives False if another process has it."""
    import filelock

    if not name:
        yield True
        return
    (root / "locks").mkdir(exist_ok=True)
    lock = filelock.FileLock(root / "locks" / f"{name}.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _homes() -> list[Path]:
    with suppress(RuntimeError, OSError):  # A user without an entry in the system's list has none.
        return [Path.home().resolve()]
    return []


def _is_git_tree(folder: Path) -> bool:
    return os.path.lexists(folder / ".git")


def _is_tagged(folder: Path) -> bool:
    tag = folder / "CACHEDIR.TAG"
    if tag.is_symlink():
        return False
    try:
        return tag.read_text(encoding="utf-8") == CACHE_TAG
    except (OSError, ValueError):
        return False
