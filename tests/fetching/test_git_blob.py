"""Blobs of a git repository: the raw URL, and the blob id as the judge."""

from __future__ import annotations

import hashlib
import json

import pytest

from kerasneuro import registry
from kerasneuro.errors import FetchFailed
from kerasneuro.fetching import ensure
from kerasneuro.fetching.git_blob import raw_url
from kerasneuro.registry import Digest, Source


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def make_source(repository: str, content: bytes, **changes: str) -> Source:
    values = {"commit": "v1.0", "path": "a b/w.pkl", "blob": blob_id(content), **changes}
    return Source(kind="git-blob", repository=repository, **values)


@pytest.mark.parametrize(
    ("repository", "url"),
    [
        ("owner/name", "https://raw.githubusercontent.com/owner/name/v1.0/a%20b/w.pkl"),
        ("https://example.org/owner/name.git", "https://example.org/owner/name/raw/v1.0/a%20b/w.pkl"),
    ],
)
def test_raw_url(repository, url):
    assert raw_url(make_source(repository, b"")) == url


def test_every_registered_blob_has_a_raw_url():
    sources = [s for card in registry.cards() for f in card.files for s in f.sources if s.kind == "git-blob"]
    assert len(sources) >= 5
    for source in sources:
        url = raw_url(source)
        assert url.startswith("https://raw.githubusercontent.com/") and url.endswith(source.path)


@pytest.mark.parametrize("pinned_by", ["git-blob", "sha256"])
def test_a_blob_is_fetched_and_its_size_and_sha256_are_recorded(ranges, make_file, content, pinned_by):
    pin = Digest("git-blob", blob_id(content)) if pinned_by == "git-blob" else make_file().digest
    file = make_file(make_source(ranges.url, content), bytes=None, digest=pin)
    path = ensure(file)
    assert path.read_bytes() == content and ranges.requests == ["raw/v1.0/a%20b/w.pkl"]
    record = json.loads(path.with_name("weights.h5.ok").read_text())
    assert record["digest"] == str(pin)
    assert record.get("sha256") == (hashlib.sha256(content).hexdigest() if pinned_by == "git-blob" else None)


def test_a_blob_is_continued(ranges, make_file, content, pauses, fault_table):
    ranges.cuts = [200_000]
    file = make_file(
        make_source(ranges.url, content), bytes=None, digest=Digest("git-blob", blob_id(content))
    )
    assert ensure(file).read_bytes() == content
    assert ranges.asked[1][0] == "bytes=196608-"
    fault_table("cut at a byte", "git-blob", "continued with a Range request")


def test_other_bytes_are_refused(ranges, make_file, content, fault_table):
    source = make_source(ranges.url, content)
    ranges.content = content + b"\n"
    with pytest.raises(FetchFailed, match="sent other bytes"):
        ensure(make_file(source, bytes=None, digest=Digest("git-blob", source.blob)))
    fault_table("wrong bytes or size", "git-blob", "refused by the blob id, which covers the size")


def test_a_blob_id_that_contradicts_the_pin(ranges, make_file, content, fault_table):
    source = make_source(ranges.url, content, blob="0" * 40)
    with pytest.raises(FetchFailed, match=r"git blob .* expected 0000"):
        ensure(make_file(source))
    fault_table("blob id and digest contradict each other", "git-blob", "refused, naming both")


def test_a_tag_that_is_gone(ranges, make_file, content, fault_table):
    ranges.statuses = [404]
    with pytest.raises(FetchFailed, match="answered 404"):
        ensure(make_file(make_source(ranges.url, content)))
    fault_table("the tag is gone (404)", "git-blob", 'refused: "answered 404"')


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_fails_each_time(ranges, make_file, content, pauses, fault_table, status):
    ranges.statuses = [status] * 9
    with pytest.raises(FetchFailed, match=f"answered {status}"):
        ensure(make_file(make_source(ranges.url, content)))
    assert len(ranges.asked) == 3
    fault_table(f"answers {status} each time", "git-blob", "three tries, then the next source")
