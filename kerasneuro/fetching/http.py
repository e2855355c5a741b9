"""Fetch a file over https: streamed, bounded, hashed on the way, continued where it broke off."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from kerasneuro.fetching.receive import (
    Interrupted,
    Progress,
    SourceFailed,
    WrongBytes,
    receive,
    require_space,
)
from kerasneuro.fetching.resume import first_byte, forget_part, kept_part, note_origin, request_headers
from kerasneuro.registry import Source, WeightFile

if TYPE_CHECKING:
    import requests

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
CHUNK_BYTES = 1 << 16
MOST_REDIRECTS = 10
# Pauses between the tries at one address; one try more than pauses. Bytes gained start the count anew.
PAUSES = (1.0, 4.0)
CUT = "closed the connection before the end of the file"
sleep: Callable[[float], None] = time.sleep


def fetch(source: Source, file: WeightFile, part: Path, progress: Progress | None = None) -> None:
    """Fetch the file from the URL of a source into ``part`` and verify it.

    Raises
    ------
    SourceFailed
        If the server is not reached, answers with an error, or sends other bytes.
    """
    assert source.url is not None
    fetch_url(source.url, file, part, progress)


def fetch_url(url: str, file: WeightFile, part: Path, progress: Progress | None = None) -> None:
    """Fetch one URL into ``part`` and verify it; what ``part`` already holds is continued.

    Raises
    ------
    SourceFailed
        As in :func:`fetch`. After ``Interrupted`` the partial file can be continued.
    """
    import requests

    failures = 0
    most = kept_part(part, file).size
    with requests.Session() as session:
        while True:
            try:
                return _continue_or_restart(session, url, file, part, progress)
            except Interrupted:
                size = kept_part(part, file).size
                failures, most = (0, size) if size > most else (failures + 1, most)
                if failures > len(PAUSES):
                    raise
                sleep(PAUSES[max(failures - 1, 0)])


def check_url(url: str, previous: str | None = None) -> None:
    """Refuse everything but https (plain http only on this computer), and leaving https by a redirect.

    Raises
    ------
    SourceFailed
        If the URL is refused.
    """
    parts = urlsplit(url)
    if previous is not None and urlsplit(previous).scheme == "https" and parts.scheme != "https":
        raise SourceFailed(
            f"redirects from https to {parts.scheme or 'an invalid address'}, which is refused"
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        raise SourceFailed("is not an https address")


def open_url(session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
    """Open a URL for streaming, following redirects one by one so that each can be checked."""
    check_url(url)
    for _ in range(MOST_REDIRECTS):
        response = session.get(
            url,
            stream=True,
            allow_redirects=False,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            headers=dict(headers),
        )
        if not response.is_redirect:
            return response
        response.close()
        target = urljoin(url, response.headers["location"])
        check_url(target, previous=url)
        url = target
    raise SourceFailed(f"redirects more than {MOST_REDIRECTS} times")


def _continue_or_restart(
    session: requests.Session, url: str, file: WeightFile, part: Path, progress: Progress | None
) -> None:
    """Continue the partial file; if that gives other bytes, it is the part that may be wrong: begin anew."""
    if kept_part(part, file).size:
        try:
            return _transfer(session, url, file, part, progress)
        except WrongBytes:
            forget_part(part)
    _transfer(session, url, file, part, progress)


def _transfer(
    session: requests.Session, url: str, file: WeightFile, part: Path, progress: Progress | None
) -> None:
    import requests

    kept = kept_part(part, file)
    if kept.size and kept.size == file.bytes:  # Only the last steps of the earlier transfer are missing.
        return receive((), part, file, progress, kept=kept.size)
    try:
        with open_url(session, url, request_headers(kept, url)) as response:
            begin = first_byte(response.status_code, response.reason, response.headers, kept, file)
            if file.bytes is None:
                length = response.headers.get("Content-Length", "")
                require_space(part.parent, int(length) if length.isdecimal() else 0)
            note_origin(part, url, response.headers)
            receive(_body(response, begin, file), part, file, progress, kept=begin)
    except requests.RequestException as error:
        raise _translated(error) from error


def _body(response: requests.Response, begin: int, file: WeightFile) -> Iterator[bytes]:
    """Yield the content; notice a broken connection also where the server announced no length."""
    done = begin
    for chunk in response.iter_content(CHUNK_BYTES):
        done += len(chunk)
        yield chunk
    announced = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    is_page = response.headers.get("Content-Type", "").startswith("text/html")
    if file.bytes is not None and done < file.bytes and not announced and not is_page:
        raise Interrupted(CUT)


def _translated(error: requests.RequestException) -> SourceFailed:
    import requests

    exceptions, text = requests.exceptions, str(error)
    if isinstance(error, exceptions.ConnectTimeout):
        return Interrupted(f"did not answer within {CONNECT_SECONDS:g} s")
    if isinstance(error, exceptions.Timeout) or "Read timed out" in text:
        return Interrupted(f"sent nothing for {READ_SECONDS:g} s")
    if isinstance(error, exceptions.SSLError):
        return SourceFailed(f"has no valid certificate ({text})")
    if isinstance(error, exceptions.ChunkedEncodingError):
        return Interrupted(CUT)
    if "resolve" in text or "Name or service" in text:
        return SourceFailed("was not found by name (no network?)")
    if isinstance(error, exceptions.ConnectionError):
        return Interrupted(f"could not be reached ({type(error).__name__})")
    return SourceFailed(f"could not be asked ({type(error).__name__})")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
