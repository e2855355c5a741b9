"""Write an incoming file to a partial file while counting, hashing and reporting progress."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from kerasneuro.fetching.digest import CHUNK_BYTES, Hasher, digest_file, new_hasher, required_digest
from kerasneuro.registry import WeightFile

Progress = Callable[[int, int | None], None]

# No registered file is larger; it bounds what a server can make us write where no size is published.
LARGEST_BYTES = 4 << 30


class SourceFailed(Exception):
    """One source did not deliver the file; the next one is tried. The text is the reason."""


class Interrupted(SourceFailed):
    """The transfer broke off; asking the same source again may help, and what came is kept."""


class WrongBytes(SourceFailed):
    """What came is not the registered file; the partial file is of no use."""


def receive(
    chunks: Iterable[bytes], part: Path, file: WeightFile, progress: Progress | None = None, *, kept: int = 0
) -> None:
    """Write chunks to ``part`` and compare size and digest with the registered ones.

    Parameters
    ----------
    chunks : iterable of bytes
        The content in order, from byte ``kept`` on.
    part : Path
        Where to write; what follows its first ``kept`` bytes is overwritten.
    file : WeightFile
        What is expected. More bytes than registered end the transfer at once.
    progress : callable, optional
        Called with (bytes done, bytes in all or None).
    kept : int
        Bytes of ``part`` to keep from an earlier transfer; they are hashed again.

    Raises
    ------
    WrongBytes
        If size or digest differ.
    OSError
        If the partial file cannot be written.
    """
    digest = required_digest(file)
    limit = LARGEST_BYTES if file.bytes is None else file.bytes
    # A git blob id begins with the size, so without a published size it is taken afterwards.
    late = digest.algorithm == "git-blob" and file.bytes is None
    hasher = None if late else new_hasher(digest.algorithm, limit)
    done = kept
    if part.is_file() and part.stat().st_nlink > 1:  # A second name of a dataset's content is not ours.
        part.unlink()
    with open(part, "r+b" if kept else "wb") as stream:
        if hasher is not None:
            _hash_kept(stream.read, kept, hasher)
        stream.seek(kept)
        stream.truncate()
        for chunk in chunks:
            done += len(chunk)
            if done > limit:
                raise WrongBytes(f"sent more than the {limit:,} bytes expected")
            stream.write(chunk)
            if hasher is not None:
                hasher.update(chunk)
            if progress is not None:
                progress(done, file.bytes)
        stream.flush()
        os.fsync(stream.fileno())
    if file.bytes is not None and done != file.bytes:
        raise WrongBytes(f"sent {done:,} of {file.bytes:,} bytes{_page_hint(part)}")
    found = digest_file(part, digest.algorithm) if hasher is None else hasher.hexdigest()
    if found != digest.value:
        raise WrongBytes(f"sent other bytes ({digest.algorithm} {found}){_page_hint(part)}")


def require_space(folder: Path, needed: int) -> None:
    """Refuse a transfer that cannot end well, before it begins.

    Raises
    ------
    OSError
        With ``ENOSPC`` if the file system has fewer free bytes than needed.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")


def _hash_kept(read: Callable[[int], bytes], kept: int, hasher: Hasher) -> None:
    while kept > 0:
        chunk = read(min(CHUNK_BYTES, kept))
        if not chunk:
            raise WrongBytes("has a partial file that became shorter meanwhile")
        hasher.update(chunk)
        kept -= len(chunk)


def _page_hint(part: Path) -> str:
    with open(part, "rb") as stream:
        head = stream.read(512).lstrip().lower()
    is_page = head.startswith((b"<!doctype html", b"<html"))
    return ": a web page instead of the file, as login pages and proxies send" if is_page else ""
