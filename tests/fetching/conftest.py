"""A private cache for every test, and servers on this computer with switchable faults."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kerasneuro.fetching import http, receive
from kerasneuro.registry import Digest, Source, WeightFile

CONTENT = bytes(range(256)) * 1200


@dataclass
class Server:
    url: str
    requests: list[str] = field(default_factory=list)

    def address(self, path: str) -> str:
        return f"{self.url}/{path}"


@dataclass
class Ranges(Server):
    """A server of one file that continues transfers; each request uses up one entry of the lists."""

    content: bytes = CONTENT
    etag: str | None = '"v1"'
    honours_range: bool = True
    length: bool = True
    statuses: list[int] = field(default_factory=list)
    cuts: list[int | None] = field(default_factory=list)
    pause: float = 0.0
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)


def answer(handler: BaseHTTPRequestHandler, path: str) -> None:
    """Answer the paths below, /good, /truncated (cut), /slow, /dawdle (a little), /redirect and /circle."""
    status = {"404": 404, "500": 500, "redirect": 302, "circle": 302}.get(path, 200)
    body = {
        "wrong": b"x" * len(CONTENT),
        "long": CONTENT + b"more",
        "short": CONTENT[:1000],
        "page": b"<!DOCTYPE html><html>Please log in</html>",
        "404": b"no",
        "500": b"no",
        "redirect": b"",
        "circle": b"",
    }.get(path, CONTENT)
    handler.send_response(status)
    if status == 302:
        handler.send_header("Location", "/good" if path == "redirect" else "/circle")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if path == "truncated":
        body = body[:1000]
    elif path == "slow":
        time.sleep(1.0)
    elif path == "dawdle":
        time.sleep(0.2)
    try:
        handler.wfile.write(body)
    except OSError:  # The client has given up, as it should.
        handler.close_connection = True


def answer_ranges(handler: BaseHTTPRequestHandler, state: Ranges) -> None:
    """Answer a request for the whole file or for its end, as far as the state of the server allows."""
    wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
    state.asked.append((wanted, condition))
    status = state.statuses.pop(0) if state.statuses else 200
    begin = 0
    if wanted and state.honours_range and status == 200 and condition in (None, state.etag):
        begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
        status = 206 if begin < len(state.content) else 416
    body = state.content[begin:] if status in (200, 206) else b""
    handler.send_response(status)
    if status == 206:
        handler.send_header("Content-Range", f"bytes {begin}-{len(state.content) - 1}/{len(state.content)}")
    if state.etag:
        handler.send_header("ETag", state.etag)
    if state.length:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    cut = state.cuts.pop(0) if state.cuts else None
    try:
        for start in range(0, len(body[:cut]), 8192):
            handler.wfile.write(body[:cut][start : start + 8192])
            time.sleep(state.pause)
    except OSError:
        handler.close_connection = True


@contextmanager
def serving(record: Server, respond: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            record.requests.append(self.path.strip("/"))
            respond(self)

        def do_HEAD(self) -> None:
            record.requests.append("HEAD " + self.path.strip("/"))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as service:
        service.daemon_threads = True
        record.url = f"http://127.0.0.1:{service.server_address[1]}"
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield record
        service.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server(""), lambda handler: answer(handler, handler.path.strip("/"))) as record:
        yield record


@pytest.fixture
def ranges() -> Iterator[Ranges]:
    state = Ranges("")
    with serving(state, lambda handler: answer_ranges(handler, state)):
        yield state


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect the pauses between tries instead of waiting."""
    collected: list[float] = []
    monkeypatch.setattr(http, "sleep", collected.append)
    return collected


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> Path:
    folder = tmp_path / "cache"
    for name in ("WEIGHTS", "SOURCE", "OFFLINE", "DATALAD_SOURCE"):
        monkeypatch.delenv(f"KERASNEURO_{name}", raising=False)
    monkeypatch.delenv("FREESURFER_HOME", raising=False)
    monkeypatch.setenv("KERASNEURO_CACHE", str(folder))
    monkeypatch.setenv("NO_PROXY", "*")
    return folder


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk become full while a partial file is written."""

    class SmallDisk(io.FileIO):
        def write(self, data: bytes, /) -> int:  # type: ignore[override]
            if self.tell() + len(data) > len(CONTENT) // 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def open_small(path: Path, mode: str) -> io.IOBase:
        return SmallDisk(path, mode) if mode in ("wb", "r+b") else open(path, mode)

    monkeypatch.setattr(receive, "open", open_small, raising=False)


@pytest.fixture
def content() -> bytes:
    return CONTENT


@pytest.fixture
def make_file() -> Callable[..., WeightFile]:
    def make(*sources: Source | str, content: bytes = CONTENT, **changes: object) -> WeightFile:
        listed = tuple(Source(kind="https", url=s) if isinstance(s, str) else s for s in sources)
        values = {
            "name": "weights.h5",
            "part": "",
            "format": "keras-h5",
            "bytes": len(content),
            "digest": Digest("sha256", hashlib.sha256(content).hexdigest()),
            "sources": listed,
        }
        return WeightFile(**{**values, **changes})  # type: ignore[arg-type]

    return make
