"""Transfers that break off, stop, or meet a server that has changed; killed processes; proxies; space."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from kerasneuro.errors import FetchFailed
from kerasneuro.fetching import cache, ensure, find_local, receive
from kerasneuro.registry import Digest

KILLS = 50


def broken_off(file, ranges, size, etag='"v1"'):
    """Leave what a process that was killed after ``size`` bytes leaves."""
    part = cache.part_path(file)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(ranges.content[:size])
    note = {"url": ranges.address("f"), "validator": etag}
    part.with_name(part.name + ".json").write_text(json.dumps(note))
    return part


@pytest.fixture
def file(ranges, make_file):
    return make_file(ranges.address("f"))


def test_a_cut_transfer_is_continued_at_once(ranges, file, pauses, content, fault_table):
    ranges.cuts = [200_000]
    assert ensure(file).read_bytes() == content
    assert [wanted for wanted, _ in ranges.asked] == [None, "bytes=196608-"]
    assert ranges.asked[1][1] == '"v1"' and pauses == [1.0]
    fault_table("cut at a byte", "https", "continued with a Range request")


@pytest.mark.parametrize("seed", range(4))
def test_cuts_at_random_bytes_without_a_length(ranges, file, content, seed, pauses):
    random.seed(seed)
    ranges.length = False
    ranges.cuts = [random.randrange(len(content)) for _ in range(3)]
    assert ensure(file).read_bytes() == content


def test_three_tries_without_a_new_byte(ranges, file, pauses, fault_table):
    ranges.statuses = [503] * 9
    with pytest.raises(FetchFailed, match="answered 503"):
        ensure(file)
    assert len(ranges.asked) == 3 and pauses == [1.0, 4.0]
    fault_table("answers 503 each time", "https", "three tries, then the next source")


def test_a_server_that_recovers(ranges, file, content, pauses):
    ranges.statuses = [500, 429]
    assert ensure(file).read_bytes() == content
    assert pauses == [1.0, 4.0]


def test_what_came_stays_for_the_next_call(ranges, file, content, fault_table):
    ranges.cuts = [150_000, 0, 0, 0, 0]
    with pytest.raises(FetchFailed, match="closed the connection"):
        ensure(file)
    kept = cache.part_path(file).stat().st_size
    assert 0 < kept <= 150_000
    ranges.cuts, ranges.asked = [], []
    seen = []
    assert ensure(file, progress=lambda done, total: seen.append(done)).read_bytes() == content
    assert ranges.asked == [(f"bytes={kept}-", '"v1"')] and seen[0] > kept and seen[-1] == len(content)
    assert list(cache.part_path(file).parent.iterdir()) == []
    fault_table("gone in the middle of a file", "https", "what came is kept and continued by the next call")


def test_the_kept_part_is_continued_from_another_address(ranges, server, make_file, content):
    file = make_file(server.address("404"), ranges.address("f"))
    part = broken_off(file, ranges, 100_000)
    part.with_name(part.name + ".json").unlink()
    assert ensure(file).read_bytes() == content
    assert ranges.asked == [("bytes=100000-", None)]


def test_ranges_that_are_ignored(ranges, file, content, fault_table):
    broken_off(file, ranges, 100_000)
    ranges.honours_range = False
    assert ensure(file).read_bytes() == content
    fault_table("Range is ignored", "https", "begun anew")


def test_a_file_that_has_changed_on_the_server(ranges, file, content, fault_table):
    broken_off(file, ranges, 100_000, etag='"v0"')
    assert ensure(file).read_bytes() == content
    assert ranges.asked == [("bytes=100000-", '"v0"')]
    fault_table("ETag has changed", "https", "begun anew")


def test_a_damaged_part_is_given_up(ranges, file, content, fault_table):
    broken_off(file, ranges, 100_000).write_bytes(b"x" * 100_000)
    assert ensure(file).read_bytes() == content
    assert [wanted for wanted, _ in ranges.asked] == ["bytes=100000-", None]
    fault_table("the kept part is damaged", "https", "begun anew")


def test_a_part_that_is_a_hard_link_is_never_written_through(ranges, make_file, content, tmp_path):
    file = make_file(ranges.address("f"), bytes=None)
    elsewhere = tmp_path / "content of a dataset"
    elsewhere.write_bytes(b"other bytes")
    broken_off(file, ranges, 5)
    cache.part_path(file).unlink()
    os.link(elsewhere, cache.part_path(file))
    assert ensure(file).read_bytes() == content
    assert elsewhere.read_bytes() == b"other bytes"


def test_a_whole_part_needs_no_transfer(ranges, file, content):
    part = broken_off(file, ranges, len(content))
    part.chmod(0o444)
    assert ensure(file).read_bytes() == content
    assert ranges.asked == []


@pytest.mark.parametrize("left", ["wrong", "long"])
def test_a_whole_but_wrong_part(ranges, file, content, left):
    part = broken_off(file, ranges, 0)
    part.write_bytes(content[::-1] if left == "wrong" else content + b"more")
    assert ensure(file).read_bytes() == content


def test_416_for_a_file_of_unknown_size(ranges, make_file, content, fault_table):
    file = make_file(ranges.address("f"), bytes=None)
    broken_off(file, ranges, len(content))
    assert ensure(file).read_bytes() == content
    assert [wanted for wanted, _ in ranges.asked] == [f"bytes={len(content)}-", None]
    fault_table("Range is not satisfiable (416)", "https", "begun anew")


@pytest.mark.parametrize("header", ["bytes 0-9/10", "bytes 100000-307199/999", "nonsense", ""])
def test_an_answer_that_does_not_continue(ranges, file, content, monkeypatch, header):
    broken_off(file, ranges, 100_000)
    get = requests.Session.get

    def change(session, url, **options):
        response = get(session, url, **options)
        if response.status_code == 206:
            response.headers["Content-Range"] = header
        return response

    monkeypatch.setattr(requests.Session, "get", change)
    assert ensure(file).read_bytes() == content
    assert [wanted for wanted, _ in ranges.asked] == ["bytes=100000-", None]


def test_wrong_bytes_leave_nothing(ranges, file, content, fault_table):
    ranges.content = content[::-1]
    with pytest.raises(FetchFailed, match="sent other bytes"):
        ensure(file)
    assert list(cache.part_path(file).parent.iterdir()) == [] and len(ranges.asked) == 1
    fault_table("wrong bytes, no partial file", "https", "refused, nothing is kept, asked once")


def test_a_weak_etag_is_not_relied_upon(ranges, file, content, pauses):
    ranges.etag, ranges.cuts = 'W/"v1"', [100_000]
    assert ensure(file).read_bytes() == content
    assert ranges.asked[1][1] is None


# --- space, proxies, records ---------------------------------------------------------------------------


def test_too_little_space_is_noticed_before_the_transfer(ranges, file, monkeypatch, fault_table):
    monkeypatch.setattr(receive.shutil, "disk_usage", lambda _folder: Usage(1000))
    with pytest.raises(
        FetchFailed, match=r"no space left for .* \(307,200 bytes are needed, 1,000 are free\)"
    ):
        ensure(file)
    assert ranges.asked == []
    fault_table("too little free space", "any", "refused before the transfer, naming both sizes")


def test_too_little_space_for_a_file_of_unknown_size(ranges, make_file, monkeypatch):
    monkeypatch.setattr(receive.shutil, "disk_usage", lambda _folder: Usage(1000))
    with pytest.raises(FetchFailed, match="no space left"):
        ensure(make_file(ranges.address("f"), bytes=None))


class Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_the_users_proxy_is_asked(ranges, make_file, content, monkeypatch):
    passed = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            passed.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as service:
        threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02}).start()
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{service.server_address[1]}")
        try:
            assert ensure(make_file(ranges.address("f"))).read_bytes() == content
        finally:
            service.shutdown()
    assert passed == [ranges.address("f")] and ranges.asked == []


def test_size_and_sha256_are_recorded_beside_a_weaker_pin(ranges, make_file, content):
    import hashlib

    pin = Digest("md5", hashlib.md5(content).hexdigest())
    file = make_file(ranges.address("f"), bytes=None, digest=pin)
    path = ensure(file)
    record = json.loads(path.with_name("weights.h5.ok").read_text())
    assert (record["size"], record["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert record["digest"] == str(pin) and ensure(file) == path
    # A record is no pin: what it says of the SHA-256 never makes other bytes acceptable.
    path.chmod(0o600)
    path.write_bytes(content[::-1])
    record["sha256"] = hashlib.sha256(content[::-1]).hexdigest()
    path.with_name("weights.h5.ok").write_text(json.dumps(record))
    with pytest.warns(UserWarning, match="not used"):
        assert find_local(file) is None


# --- kill -9 -------------------------------------------------------------------------------------------

# One process that is quick to start others: each fetches, and is killed after the pause that was read.
DRIVER = """
import os, signal, sys, time
import filelock, platformdirs, requests
from kerasneuro.fetching import ensure
from kerasneuro.registry import Digest, Source, WeightFile
file = {file!r}
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            ensure(file)
        finally:
            os._exit(0)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments(ranges, file, content, fault_table):
    ranges.pause = 0.002  # 38 pieces: about 80 ms for the file.
    random.seed(4)
    complete = continued = 0
    command = [sys.executable, "-c", DRIVER.format(file=file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        for _ in range(KILLS):
            driver.stdin.write(f"{random.uniform(0.0, 0.12)}\n")
            driver.stdin.flush()
            assert driver.stdout.readline() == "killed\n"
            found = find_local(file)
            if found is not None:
                complete += 1
                assert found.read_bytes() == content
                cache.remove(file)
        driver.stdin.close()
    continued = sum(wanted is not None for wanted, _ in ranges.asked)
    assert ensure(file).read_bytes() == content
    assert continued >= 5 and complete < KILLS, (continued, complete)
    fault_table("kill -9, 50 times at random moments", "https", "continued by the next call; no wrong byte")
