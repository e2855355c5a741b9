"""Fetch a file over https, streamed, bounded and hashed on the way."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from kerasneuro.fetching.receive import Progress, SourceFailed, receive
from kerasneuro.registry import Source, WeightFile

if TYPE_CHECKING:
    import requests

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
CHUNK_BYTES = 1 << 18
MOST_REDIRECTS = 10


def fetch(source: Source, file: WeightFile, part: Path, progress: Progress | None = None) -> None:
    """Fetch the file from the URL of a source into ``part`` and verify it.

    Raises
    ------
    SourceFailed
        If the server is not reached, answers with an error, or sends other bytes.
    """
    import requests

    assert source.url is not None
    with requests.Session() as session:
        try:
            with open_url(session, source.url) as response:
                receive(_chunks(response), part, file, progress)
        except requests.RequestException as error:
            raise SourceFailed(_reason(error)) from error


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


def open_url(session: requests.Session, url: str) -> requests.Response:
    """Open a URL for streaming, following redirects one by one so that each can be checked."""
    check_url(url)
    for _ in range(MOST_REDIRECTS):
        response = session.get(
            url,
            stream=True,
            allow_redirects=False,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            # A transparently compressed answer would not have the registered size.
            headers={"Accept-Encoding": "identity"},
        )
        if not response.is_redirect:
            break
        response.close()
        target = urljoin(url, response.headers["location"])
        check_url(target, previous=url)
        url = target
    else:
        raise SourceFailed(f"redirects more than {MOST_REDIRECTS} times")
    if response.status_code != 200:
        response.close()
        raise SourceFailed(f"answered {response.status_code} {response.reason}".rstrip())
    return response


def _chunks(response: requests.Response) -> Iterator[bytes]:
    yield from response.iter_content(CHUNK_BYTES)


def _reason(error: requests.RequestException) -> str:
    import requests

    text = str(error)
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"did not answer within {CONNECT_SECONDS:g} s"
    if isinstance(error, requests.exceptions.Timeout) or "Read timed out" in text:
        return f"sent nothing for {READ_SECONDS:g} s"
    if isinstance(error, requests.exceptions.SSLError):
        return f"has no valid certificate ({text})"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "closed the connection before the end of the file"
    if "resolve" in text or "Name or service" in text:
        return "was not found by name (no network?)"
    return f"could not be reached ({type(error).__name__})"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
