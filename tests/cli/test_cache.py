"""cache list, verify and clean: what they print, ask, delete and refuse."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kerasneuro import registry
from kerasneuro.cli import cache as commands
from kerasneuro.fetching import import_file
from kerasneuro.fetching.cache import hold, part_path
from kerasneuro.registry import Digest, WeightFile

pytestmark = pytest.mark.backend_free

Call = Callable[..., Any]

CONTENT = b"not really an image" * 100


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> WeightFile:
    digest = Digest("sha256", hashlib.sha256(CONTENT).hexdigest())
    record = WeightFile("tiny.nii.gz", "", "image", len(CONTENT), digest)
    sample = replace(registry.samples()["t1-group-average"], name="tiny", file=record)
    monkeypatch.setattr(registry, "samples", lambda: {"tiny": sample})
    return record


@pytest.fixture
def cached(own_cache: Path, file: WeightFile, tmp_path: Path) -> Path:
    """Fill a cache with weights, a converted file, a partial file and a clone; gives the weights' path."""
    (tmp_path / "mine").write_bytes(CONTENT)
    path = import_file(tmp_path / "mine", file)
    assert file.digest is not None
    converted = own_cache / "converted" / f"{file.digest.value}-1" / "made.h5"
    clone = own_cache / "datasets" / "set-01" / ".git" / "config"
    for place in (converted, part_path(file), clone):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"12345")
    return path


def kinds(outcome: Any, key: str = "entries") -> list[str]:
    return sorted(entry["kind"] for entry in outcome.json[key])


def test_list(call: Call, cached: Path, file: WeightFile, own_cache: Path) -> None:
    outcome = call("cache", "list")
    assert outcome.code == 0 and f"4 entries, 1.92 kB in {own_cache}" in outcome.err
    rows = [line.split("\t") for line in outcome.out.splitlines()]
    assert rows[0][:5] == ["weights", "tiny", "tiny.nii.gz", "1.9 kB", str(file.digest)]
    assert [row[0] for row in rows] == ["weights", "converted", "partial", "dataset"]
    document = call("cache", "list", "--json").json
    assert document["cache"] == str(own_cache)
    assert document["entries"][0]["path"] == str(cached.parent)
    assert document["entries"][0]["bytes"] == len(CONTENT)
    assert document["entries"][1]["models"] == ["tiny"]


def test_last_reading_is_told_where_it_is_known(call: Call, cached: Path) -> None:
    os.utime(cached, (cached.stat().st_ctime + 86_400, cached.stat().st_mtime))
    assert call("cache", "list", "--json").json["entries"][0]["last_read"] is not None


def test_absent_cache(call: Call, own_cache: Path) -> None:
    for command in (("list",), ("verify",), ("clean", "--yes")):
        outcome = call("cache", *command)
        assert (outcome.code, outcome.out) == (0, "")
    assert not own_cache.exists()


def test_help_without_a_command(call: Call) -> None:
    outcome = call("cache")
    assert outcome.code == 0 and all(word in outcome.out for word in ("list", "verify", "clean"))


def test_verify(call: Call, cached: Path) -> None:
    outcome = call("cache", "verify", "--json")
    assert outcome.code == 0
    states = {entry["kind"]: entry["state"] for entry in outcome.json}
    assert states["weights"] == "verified"
    assert {states[kind] for kind in ("converted", "partial", "dataset")} == {"not checked"}
    cached.chmod(0o644)
    cached.write_bytes(CONTENT[::-1])
    outcome = call("cache", "verify")
    assert outcome.code == 1 and "DAMAGED" in outcome.out and "expected" in outcome.err
    assert cached.exists()
    outcome = call("cache", "verify", "--remove-damaged")
    assert outcome.code == 0 and "damaged, removed" in outcome.out
    assert not cached.exists()
    assert call("cache", "verify").code == 0


def test_damaged_file_in_use_is_kept(call: Call, cached: Path, file: WeightFile) -> None:
    cached.chmod(0o644)
    cached.write_bytes(b"damaged")
    assert file.digest is not None
    with hold(file.digest.value, "it"):
        outcome = call("cache", "verify", "--remove-damaged")
    assert outcome.code == 1 and "in use" in outcome.err and cached.exists()


def test_clean_everything(call: Call, cached: Path, own_cache: Path) -> None:
    outcome = call("cache", "clean", "--dry-run", "--json")
    assert outcome.code == 0 and outcome.json["dry_run"] is True
    assert kinds(outcome, "deleted") == ["converted", "dataset", "partial", "weights"]
    assert cached.exists()
    outcome = call("cache", "clean", "--yes")
    assert outcome.code == 0 and len(outcome.out.splitlines()) == 4 and "deleted 4 entries" in outcome.err
    assert call("cache", "list", "--json").json["entries"] == []
    assert (own_cache / "CACHEDIR.TAG").exists()


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (("--partial",), ["converted", "dataset", "weights"]),
        (("--converted",), ["dataset", "partial", "weights"]),
        (("--datasets", "--partial"), ["converted", "weights"]),
        (("tiny",), ["dataset"]),
        (("tiny", "--converted"), ["dataset", "partial", "weights"]),
        (("deepbet",), ["converted", "dataset", "partial", "weights"]),
    ],
)
def test_clean_some(call: Call, cached: Path, arguments: tuple[str, ...], left: list[str]) -> None:
    assert call("cache", "clean", "--yes", *arguments).code == 0
    assert kinds(call("cache", "list", "--json")) == left


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 4), ("\n", 1, 4), ("", 130, 4)]
)
def test_person_is_asked(
    call: Call, cached: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    import io

    monkeypatch.setattr(commands, "watched", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    outcome = call("cache", "clean")
    assert outcome.code == code and "Delete 4 entries" in outcome.err
    assert len(call("cache", "list", "--json").json["entries"]) == left


def test_nobody_to_ask(call: Call, cached: Path) -> None:
    outcome = call("cache", "clean")
    assert (outcome.code, outcome.out, len(outcome.errors)) == (2, "", 1)
    assert "--yes" in outcome.errors[0] and cached.exists()


def test_unknown_name_and_misuse(call: Call, cached: Path) -> None:
    for arguments, code in ((("no-such-model",), 1), (("tiny", "--datasets"), 2)):
        outcome = call("cache", "clean", "--yes", *arguments)
        assert (outcome.code, outcome.out, len(outcome.errors)) == (code, "", 1)
    assert len(call("cache", "list", "--json").json["entries"]) == 4


def test_transfer_that_runs_is_left_alone(call: Call, cached: Path, file: WeightFile) -> None:
    assert file.digest is not None
    with hold(file.digest.value, "it"):
        outcome = call("cache", "clean", "--yes", "--json")
    assert outcome.code == 1 and kinds(outcome, "kept") == ["partial", "weights"]
    assert "in use" in outcome.err and cached.exists() and part_path(file).exists()


@pytest.mark.parametrize("case", ["home", "no tag", "git tree", "link"])
def test_suspicious_cache_is_refused(
    call: Call, cached: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    if case == "home":
        monkeypatch.setenv("HOME" if os.name != "nt" else "USERPROFILE", str(own_cache))
    elif case == "no tag":
        (own_cache / "CACHEDIR.TAG").unlink()
    elif case == "git tree":
        (own_cache.parent / ".git").mkdir()
    else:
        (own_cache.parent / "far").mkdir()
        own_cache.rename(own_cache.parent / "far" / "cache")
        own_cache.symlink_to(own_cache.parent / "far" / "cache")
    outcome = call("cache", "clean", "--yes")
    assert (outcome.code, outcome.out, len(outcome.errors)) == (1, "", 1)
    assert "Nothing is deleted below" in outcome.errors[0] and cached.exists()


def test_linked_part_of_the_cache_is_told(call: Call, cached: Path, own_cache: Path, tmp_path: Path) -> None:
    (own_cache / "weights").rename(tmp_path / "big disk")
    (own_cache / "weights").symlink_to(tmp_path / "big disk")
    outcome = call("cache", "clean", "--yes")
    assert outcome.code == 0 and "symbolic link" in outcome.err and cached.exists()
