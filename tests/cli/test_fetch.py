"""fetch prints verified paths, copies whole files, and fails with one sentence."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kerasneuro import registry
from kerasneuro.registry import Digest, WeightFile

Call = Callable[..., Any]

CONTENT = b"not really an image" * 100


@pytest.fixture
def sample(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WeightFile:
    """Register a sample whose file lies in a search folder."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    file = WeightFile(
        "tiny.nii.gz", "", "image", len(CONTENT), Digest("sha256", hashlib.sha256(CONTENT).hexdigest())
    )
    (folder / file.name).write_bytes(CONTENT)
    entry = replace(registry.samples()["t1-group-average"], name="tiny", file=file)
    monkeypatch.setattr(registry, "samples", lambda: {"tiny": entry})
    monkeypatch.setenv("KERASNEURO_WEIGHTS", str(folder))
    return file


def test_path_is_printed(call: Call, sample: WeightFile, tmp_path: Path) -> None:
    outcome = call("fetch", "tiny")
    assert (outcome.code, outcome.out.strip()) == (0, str(tmp_path / "shelf" / "tiny.nii.gz"))
    assert call("fetch", "tiny", "--json").json == {"tiny": {"tiny.nii.gz": outcome.out.strip()}}


def test_copies_go_to_dest_and_are_kept(call: Call, sample: WeightFile, tmp_path: Path) -> None:
    for _ in range(2):
        outcome = call("fetch", "tiny", "--dest", tmp_path / "mine")
        assert outcome.code == 0
        assert outcome.out.strip() == str(tmp_path / "mine" / "tiny.nii.gz")
        assert os.listdir(tmp_path / "mine") == ["tiny.nii.gz"]
    assert (tmp_path / "mine" / "tiny.nii.gz").read_bytes() == CONTENT


def test_another_file_of_the_name_is_not_touched(call: Call, sample: WeightFile, tmp_path: Path) -> None:
    target = tmp_path / "mine" / "tiny.nii.gz"
    target.parent.mkdir()
    target.write_bytes(b"mine")
    outcome = call("fetch", "tiny", "--dest", target.parent)
    assert outcome.code == 1 and "another file" in outcome.errors[0] and len(outcome.errors) == 1
    assert target.read_bytes() == b"mine"


def test_full_disk_leaves_nothing(
    call: Call, sample: WeightFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kerasneuro.cli.fetch.shutil.copyfile", full)
    outcome = call("fetch", "tiny", "--dest", tmp_path / "mine")
    assert outcome.code == 1 and "No space left" in outcome.errors[0] and len(outcome.errors) == 1
    assert os.listdir(tmp_path / "mine") == []


def test_unusable_dest_is_told_before_anything_is_fetched(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kerasneuro.fetch", lambda *a, **k: pytest.fail("fetched"))
    outcome = call("fetch", "deepbet", "--dest", tmp_path / "no" / "such" / "folder")
    assert outcome.code == 1 and len(outcome.errors) == 1 and "does not exist" in outcome.errors[0]


def test_all_asks_for_everything_that_is_ready(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(name: str, **options: object) -> dict[str, Path]:
        asked.append(name)
        return {}

    monkeypatch.setattr("kerasneuro.fetch", fetch)
    assert call("fetch", "--all").code == 0
    ready = [card.name for card in registry.cards() if card.status == "ready" and card.files]
    assert asked == [*ready, *registry.samples()]


def test_model_without_files_says_to_bring_them(call: Call) -> None:
    outcome = call("fetch", "nobrainer-unet")
    assert outcome.code == 1 and len(outcome.errors) == 1 and "weights=" in outcome.errors[0]


def test_no_network(call: Call, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    outcome = call("fetch", "nobrainer-brainy", "--source", "https")
    assert outcome.code == 1 and outcome.out == ""
    (line,) = outcome.errors
    assert line.startswith("kerasneuro: error: ")
    for word in ("brain-extraction-unet-128iso-model.h5", "19,169,888 bytes", "KERASNEURO_WEIGHTS"):
        assert word in line


def test_offline(call: Call, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERASNEURO_OFFLINE", "1")
    outcome = call("fetch", "deepbet")
    assert outcome.code == 1 and len(outcome.errors) == 1 and "offline" in outcome.errors[0]


def test_cache_that_cannot_be_written(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("KERASNEURO_CACHE", str(tmp_path / "file" / "cache"))
    outcome = call("fetch", "deepbet")
    assert outcome.code == 1 and len(outcome.errors) == 1 and "KERASNEURO_CACHE" in outcome.errors[0]
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.filterwarnings("default:Removed a damaged file")
def test_wrong_digest_in_the_cache(call: Call, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kerasneuro.fetching.cache import path_for

    place = path_for(registry.get("nobrainer-brainy").files[0])
    place.parent.mkdir(parents=True)
    place.write_bytes(b"\0" * 19169888)
    monkeypatch.setenv("KERASNEURO_OFFLINE", "1")
    outcome = call("run", "nobrainer-brainy", "no.nii", "-o", "out")
    assert outcome.code == 1  # The missing scan is told first; nothing is looked up for it.
    outcome = call("fetch", "nobrainer-brainy")
    assert outcome.code == 1 and outcome.out == ""
    (line,) = outcome.errors
    assert line.startswith("kerasneuro: error: ") and place.name in line
