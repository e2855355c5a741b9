"""A private cache for every test, and a server on this computer with switchable faults."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kerasneuro.registry import Digest, Source, WeightFile

CONTENT = bytes(range(256)) * 1200


@dataclass
class Server:
    url: str
    requests: list[str] = field(default_factory=list)

    def address(self, path: str) -> str:
        return f"{self.url}/{path}"


def answer(handler: BaseHTTPRequestHandler, path: str) -> None:
    """Answer /good, /404, /500, /truncated, /wrong, /long, /slow, /dawdle, /page, /redirect, /circle."""
    status = {"404": 404, "500": 500, "redirect": 302, "circle": 302}.get(path, 200)
    body = {
        "wrong": b"x" * len(CONTENT),
        "long": CONTENT + b"more",
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


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.strip("/")
            record.requests.append(path)
            answer(self, path)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as service:
        record = Server(f"http://127.0.0.1:{service.server_address[1]}")
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield record
        service.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    for name in ("WEIGHTS", "SOURCE", "OFFLINE"):
        monkeypatch.delenv(f"KERASNEURO_{name}", raising=False)
    monkeypatch.delenv("FREESURFER_HOME", raising=False)
    monkeypatch.setenv("KERASNEURO_CACHE", str(folder))
    monkeypatch.setenv("NO_PROXY", "*")
    return folder


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
