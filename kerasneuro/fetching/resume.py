"""Continue a broken transfer: what a partial file holds, what to ask for, and what an answer means."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kerasneuro.fetching.receive import Interrupted, SourceFailed, WrongBytes
from kerasneuro.registry import WeightFile

TEMPORARY_FAILURES = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Kept:
    """The usable bytes of a partial file, and which version of which address they came from."""

    size: int
    url: str | None = None
    validator: str | None = None


def kept_part(part: Path, file: WeightFile) -> Kept:
    """Say what an earlier transfer left; a part too long to be the file, or a hard link, is worth nothing."""
    size = part.stat().st_size if part.is_file() and part.stat().st_nlink == 1 else 0
    if file.bytes is not None and size > file.bytes:
        size = 0
    with suppress(OSError, ValueError, AttributeError):
        origin = json.loads(_note_path(part).read_text(encoding="utf-8"))
        return Kept(size, origin.get("url"), origin.get("validator"))
    return Kept(size)


def note_origin(part: Path, url: str, headers: Mapping[str, str]) -> None:
    """Remember beside the partial file which version of which address it is being filled from."""
    validator = headers.get("ETag", "")
    if not validator.startswith('"'):  # A weak one (W/"...") does not promise equal bytes.
        validator = headers.get("Last-Modified", "")
    _note_path(part).write_text(json.dumps({"url": url, "validator": validator or None}), encoding="utf-8")


def forget_part(part: Path) -> None:
    """Delete a partial file and the note beside it."""
    part.unlink(missing_ok=True)
    _note_path(part).unlink(missing_ok=True)


def request_headers(kept: Kept, url: str) -> dict[str, str]:
    """Build the headers of a request for what is still missing.

    The part of one address is continued from another one, too: both are to give the same registered
    bytes, and the digest over all of them decides.
    """
    # A transparently compressed answer would not have the registered size.
    headers = {"Accept-Encoding": "identity"}
    if kept.size:
        headers["Range"] = f"bytes={kept.size}-"
        if kept.url == url and kept.validator:
            headers["If-Range"] = kept.validator
    return headers


def first_byte(status: int, reason: str, headers: Mapping[str, str], kept: Kept, file: WeightFile) -> int:
    """Say at which byte the body of an answer begins.

    Raises
    ------
    Interrupted
        If the server says that it may succeed later.
    WrongBytes
        If the server cannot continue the part that is kept.
    SourceFailed
        For every other answer that is not the file.
    """
    if status == 200:  # Ranges are not supported, or the file has changed: everything comes again.
        return 0
    if status == 206 and kept.size and _continues(headers.get("Content-Range", ""), kept, file):
        return kept.size
    if status in (206, 416) and kept.size:
        raise WrongBytes("does not continue the partial file")
    failure = Interrupted if status in TEMPORARY_FAILURES else SourceFailed
    raise failure(f"answered {status} {reason}".rstrip())


def _continues(content_range: str, kept: Kept, file: WeightFile) -> bool:
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", content_range.strip())
    if match is None or int(match[1]) != kept.size:
        return False
    return file.bytes is None or match[3] in ("*", str(file.bytes))


def _note_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")
