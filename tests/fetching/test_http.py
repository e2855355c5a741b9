"""Fetching over http(s): what is accepted, and what each fault is called."""

from __future__ import annotations

import hashlib
import socket

import pytest

from kerasneuro.errors import FetchFailed
from kerasneuro.fetching import ensure, http, receive
from kerasneuro.fetching.receive import SourceFailed
from kerasneuro.registry import Digest

FAULTS = {
    "404": "the file is gone (404)",
    "500": "answers 500 each time",
    "truncated": "cut each time, Range is ignored",
    "wrong": "wrong bytes",
    "long": "longer than registered",
    "short": "shorter than registered",
    "page": "a web page instead of the file",
    "circle": "redirect loop",
}


def nothing_left(cache_folder) -> bool:
    stored = [path for path in (cache_folder / "weights").rglob("*") if path.is_file()]
    return not stored and not list((cache_folder / "tmp").iterdir())


def test_a_good_file_is_stored_read_only_under_its_hash(server, make_file, cache_folder, content):
    file = make_file(server.address("good"))
    path = ensure(file)
    value = file.digest.value
    assert path == cache_folder / "weights" / "sha256" / value[:2] / value / "weights.h5"
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o444
    assert (
        (cache_folder / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    )
    assert list((cache_folder / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("404", "answered 404 Not Found"),
        ("500", "answered 500"),
        ("truncated", "closed the connection before the end"),
        ("wrong", "sent other bytes"),
        ("long", "more than the 307,200 bytes"),
        ("short", "sent 1,000 of 307,200 bytes"),
        ("page", "a web page instead of the file"),
        ("circle", "redirects more than"),
    ],
)
def test_fault(server, make_file, cache_folder, fault_table, path, reason):
    file = make_file(server.address(path))
    with pytest.raises(FetchFailed, match=reason) as caught:
        ensure(file)
    for part in (str(file), server.address(path), "KERASNEURO_WEIGHTS"):
        assert part in str(caught.value)
    assert nothing_left(cache_folder) or path == "truncated"
    fault_table(FAULTS[path], "https", f'refused: "{reason}"')


def test_the_next_address_is_tried(server, make_file, content, fault_table):
    addresses = [server.address(path) for path in ("404", "wrong", "truncated", "good", "500")]
    assert ensure(make_file(*addresses)).read_bytes() == content
    assert server.requests == ["404", "wrong", *["truncated"] * 3, "good"]
    fault_table("first address of a file is gone", "https", "the next address is asked")


def test_a_slow_server_is_given_up(server, make_file, monkeypatch, cache_folder, fault_table):
    monkeypatch.setattr(http, "READ_SECONDS", 0.1)
    with pytest.raises(FetchFailed, match=r"sent nothing for 0\.1 s"):
        ensure(make_file(server.address("slow")))
    assert nothing_left(cache_folder)
    fault_table("sends nothing", "https", "given up after the read timeout, then the next source")


def test_a_slow_but_steady_server_is_waited_for(ranges, make_file, content, fault_table):
    ranges.pause = 0.01
    seen = []
    file = make_file(ranges.address("f"))
    assert ensure(file, progress=lambda done, total: seen.append(done)).read_bytes() == content
    assert len(seen) > 1 and len(ranges.asked) == 1
    fault_table("slow but steady", "https", "waited for, with progress; no limit but the read timeout")


def test_no_network(make_file, fault_table):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/f"
        with pytest.raises(FetchFailed, match="could not be reached"):
            ensure(make_file(address))
    fault_table("no network", "https", 'refused: "could not be reached"')


def test_a_redirect_is_followed(server, make_file, content):
    assert ensure(make_file(server.address("redirect"))).read_bytes() == content
    assert server.requests == ["redirect", "good"]


def test_https_is_never_left_by_a_redirect(fault_table):
    with pytest.raises(SourceFailed, match="redirects from https to http"):
        http.check_url("http://127.0.0.1/f", previous="https://example.org/f")
    http.check_url("https://cdn.example.org/f", previous="https://example.org/f")
    fault_table("redirect from https to http", "https", "refused before the transfer")


@pytest.mark.parametrize("url", ["http://example.org/f", "ftp://127.0.0.1/f", "file:///etc/passwd", "f"])
def test_only_https_is_accepted(url, make_file, fault_table):
    with pytest.raises(FetchFailed, match="is not an https address"):
        ensure(make_file(url))
    fault_table("plain http, ftp or file address", "https", "refused before the transfer")


@pytest.mark.parametrize("url", ["http://localhost/f", "http://127.0.0.1:8/f", "http://[::1]/f"])
def test_plain_http_is_accepted_on_this_computer(url):
    http.check_url(url)


def test_progress_reports_bytes_and_total(server, make_file, content):
    seen = []
    ensure(make_file(server.address("good")), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(content), len(content))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_git_blob_of_unknown_size(server, make_file, content):
    value = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    blob = make_file(server.address("good"), bytes=None, digest=Digest("git-blob", value))
    assert ensure(blob).read_bytes() == content
    with pytest.raises(FetchFailed, match="sent other bytes"):
        ensure(make_file(server.address("wrong"), bytes=None, digest=Digest("git-blob", "0" * 40)))


def test_a_file_of_unknown_size_is_bounded(server, make_file, monkeypatch):
    monkeypatch.setattr(receive, "LARGEST_BYTES", 1000)
    with pytest.raises(FetchFailed, match="more than the 1,000 bytes"):
        ensure(make_file(server.address("good"), bytes=None))
