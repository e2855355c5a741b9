"""Digests and the recognition of files by them."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
import sys

import pytest

from kerasneuro import registry
from kerasneuro.errors import MissingDependency, WeightsCorrupt
from kerasneuro.fetching import digest_file, identify, verify
from kerasneuro.registry import Digest


@pytest.fixture
def path(tmp_path, content):
    target = tmp_path / "any.bin"
    target.write_bytes(content)
    return target


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_digest_equals_hashlib(path, content, algorithm):
    assert digest_file(path, algorithm) == hashlib.new(algorithm, content).hexdigest()


def test_git_blob_of_known_content(tmp_path):
    target = tmp_path / "hello"
    target.write_bytes(b"hello\n")
    assert digest_file(target, "git-blob") == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_blob_equals_git(path):
    result = subprocess.run(["git", "hash-object", str(path)], capture_output=True, text=True, check=True)
    assert digest_file(path, "git-blob") == result.stdout.strip()


def test_xxh3_of_known_content(tmp_path):
    pytest.importorskip("xxhash")
    target = tmp_path / "empty"
    target.write_bytes(b"")
    assert digest_file(target, "xxh3_64") == "2d06800538d394c2"


def test_xxh3_without_the_package(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xxhash", None)
    with pytest.raises(MissingDependency, match="pip install xxhash"):
        digest_file(path, "xxh3_64")


def test_unknown_algorithm(path):
    with pytest.raises(ValueError, match="crc32"):
        digest_file(path, "crc32")


def test_verify(path, make_file, content):
    verify(path, make_file())
    with pytest.raises(WeightsCorrupt, match=r"307,200 bytes, but weights.h5 has 7"):
        verify(path, make_file(bytes=7))
    with pytest.raises(WeightsCorrupt, match="has sha256"):
        verify(path, make_file(content=content[::-1]))
    with pytest.raises(WeightsCorrupt, match="without a digest"):
        verify(path, make_file(digest=None))


def test_identify(path, make_file):
    card = registry.get("nobrainer-unet")
    known = dataclasses.replace(card, name="mine", files=(make_file(),))
    other = dataclasses.replace(card, files=(make_file(digest=Digest("md5", "0" * 32)), make_file(bytes=3)))
    assert identify(path, [other, known]) == "mine: weights.h5"
    assert identify(path, [other]) is None
    assert identify(path, registry.cards()) is None


def test_identify_works_without_the_optional_package(path, make_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "xxhash", None)
    card = registry.get("nobrainer-unet")
    files = (make_file(digest=Digest("xxh3_64", "0" * 16)), make_file())
    assert identify(path, [dataclasses.replace(card, files=files)]) == "nobrainer-unet: weights.h5"
