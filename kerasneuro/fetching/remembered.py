"""The SHA-256 of large files outside the cache, remembered by path, size and time of change."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from kerasneuro.fetching.cache import cache_directory, mark, write_whole


@dataclass(frozen=True)
class FileState:
    """What tells a file from an older or newer one of the same name."""

    path: str
    size: int
    mtime_ns: int


_KNOWN: dict[FileState, str] = {}


def state_of(path: Path) -> FileState:
    """Return the state of a file as it is now."""
    status = path.stat()
    return FileState(str(path.absolute()), status.st_size, status.st_mtime_ns)


def recall_digest(path: Path) -> str | None:
    """Return the SHA-256 of a file if it was remembered and the file has not changed since."""
    state = state_of(path)
    if state not in _KNOWN:
        with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
            record = json.loads(_record(state).read_text(encoding="utf-8"))
            digest = record.pop("sha256")
            if record == asdict(state) and isinstance(digest, str):
                _KNOWN[state] = digest
    return _KNOWN.get(state)


def remember_digest(state: FileState, digest: str) -> None:
    """Remember the SHA-256 of the bytes that a file had in this state."""
    _KNOWN[state] = digest
    with suppress(OSError):  # Where the cache cannot be written, the next process hashes again.
        mark()
        record = _record(state)
        record.parent.mkdir(parents=True, exist_ok=True)
        write_whole(record, json.dumps({**asdict(state), "sha256": digest}))


def _record(state: FileState) -> Path:
    return cache_directory() / "records" / f"{sha256(state.path.encode()).hexdigest()}.sha256"
