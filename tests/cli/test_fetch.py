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

pytestmark = pytest.mark.backend_free

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
    document = call("fetch", "tiny", "--json").json
    assert document["tiny"]["files"] == {"tiny.nii.gz": outcome.out.strip()}
    licence = registry.samples()["tiny"].licence
    assert document["tiny"]["licence"]["name"] == licence.name
    assert document["tiny"]["licence"]["grant"] == licence.grant


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


# --- licences ------------------------------------------------------------------------------------------


def test_licence_is_shown_once(call: Call, sample: WeightFile, own_cache: Path) -> None:
    licence = registry.samples()["tiny"].licence
    first = call("fetch", "tiny")
    assert f"licence of tiny: {licence.name} ({licence.grant}" in first.err
    second = call("fetch", "tiny")
    assert "licence" not in second.err and second.out == first.out
    (own_cache / "licences.json").write_text("damaged")
    assert "licence of tiny" in call("fetch", "tiny").err


def test_licence_with_a_read_only_cache(
    call: Call, sample: WeightFile, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_cache.write_text("a file where the folder should be")
    for _ in range(2):
        outcome = call("fetch", "tiny")
        assert outcome.code == 0 and "licence of tiny" in outcome.err


# --- without a transfer --------------------------------------------------------------------------------


@pytest.fixture
def no_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    for target in ("kerasneuro.fetch", "kerasneuro.fetching.ensure"):
        monkeypatch.setattr(target, lambda *a, **k: pytest.fail("fetched"))


def lines(out: str) -> list[list[str]]:
    return [line.split("\t") for line in out.splitlines()]


def test_verify_only(call: Call, sample: WeightFile, tmp_path: Path, no_transfer: None) -> None:
    path = tmp_path / "shelf" / "tiny.nii.gz"
    outcome = call("fetch", "tiny", "--verify-only")
    assert (outcome.code, lines(outcome.out)) == (
        0,
        [["tiny", "tiny.nii.gz", "1.9 kB", "verified", str(path)]],
    )
    path.write_bytes(CONTENT[::-1])
    outcome = call("fetch", "tiny", "--verify-only")
    assert outcome.code == 1 and lines(outcome.out)[0][3] == "DAMAGED" and "replace" in outcome.err
    assert call("fetch", "--verify-only").code == 1
    path.unlink()
    outcome = call("fetch", "tiny", "--verify-only", "--json")
    assert outcome.code == 1
    (entry,) = outcome.json
    assert (entry["model"], entry["state"], entry["path"]) == ("tiny", "absent", None)


@pytest.mark.parametrize("everything", [(), ("--all",)])
def test_verify_only_of_all_accepts_what_is_absent(
    call: Call, sample: WeightFile, no_transfer: None, everything: tuple[str, ...]
) -> None:
    outcome = call("fetch", "--verify-only", *everything)
    assert outcome.code == 0
    states = {(model, state) for model, _, _, state, *_ in lines(outcome.out)}
    assert {("tiny", "verified"), ("deepbet", "absent"), ("synthmorph-deform", "absent")} <= states
    assert "nobrainer-unet" not in outcome.out


def test_from_links_and_reports(call: Call, sample: WeightFile, tmp_path: Path, no_transfer: None) -> None:
    stick = tmp_path / "stick"
    (stick / "sub").mkdir(parents=True)
    (tmp_path / "shelf" / "tiny.nii.gz").rename(stick / "sub" / "anything.bin")
    (stick / "notes.txt").write_text("other")
    outcome = call("fetch", "--from", stick)
    assert outcome.code == 0
    ((model, name, _, state, path),) = lines(outcome.out)
    assert (model, name, state) == ("tiny", "tiny.nii.gz", "linked")
    assert Path(path).samefile(stick / "sub" / "anything.bin")
    assert "1 files recognised, 1 passed over" in outcome.err and "licence of tiny" in outcome.err
    document = call("fetch", "tiny", "--from", stick, "--json").json
    (entry,) = document["imported"]
    assert (entry["models"], entry["state"], entry["path"]) == (["tiny"], "not needed", path)
    assert [item["path"] for item in document["passed over"]] == [str(stick / "notes.txt")]
    assert document["licences"]["tiny"]["name"] == registry.samples()["tiny"].licence.name


def test_from_without_what_is_asked_for(
    call: Call, sample: WeightFile, tmp_path: Path, no_transfer: None
) -> None:
    (tmp_path / "empty").mkdir()
    outcome = call("fetch", "deepbet", "--from", tmp_path / "empty")
    assert outcome.code == 1 and [line[3] for line in lines(outcome.out)] == ["absent", "absent"]
    outcome = call("fetch", "deepbet", "--from", tmp_path / "empty", "--json")
    assert [item["file"] for item in outcome.json["absent"]] == ["bbox_model.pt", "model.pt"]
    assert call("fetch", "tiny", "--from", tmp_path / "empty").code == 0  # It is on this machine already.
    outcome = call("fetch", "--from", tmp_path / "empty")
    assert outcome.code == 1 and len(outcome.errors) == 1 and "registered" in outcome.errors[0]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("no-such-model", "--verify-only"), 1, "no-such-model"),
        (("no-such-model", "--from", "."), 1, "no-such-model"),
        (("nobrainer-unet", "--verify-only"), 1, "no published file"),
        (("--from", "no/such/folder"), 1, "is not a folder"),
        (("tiny", "--verify-only", "--from", "."), 2, "--verify-only and --from"),
        (("tiny", "--verify-only", "--source", "https"), 2, "--verify-only and --from"),
        (("tiny", "--from", ".", "--dest", "x"), 2, "--verify-only and --from"),
        ((), 2, "name a model"),
    ],
)
def test_misuse_is_one_sentence(
    call: Call,
    sample: WeightFile,
    no_transfer: None,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    outcome = call("fetch", *arguments)
    assert (outcome.code, outcome.out, len(outcome.errors)) == (code, "", 1)
    assert words in outcome.errors[0]


def test_terminal_shows_a_table(
    call: Call, sample: WeightFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    outcome = call("fetch", "tiny")
    assert outcome.code == 0 and len(outcome.out.splitlines()) == 1
    assert "verified" in outcome.err and "licence" in outcome.err
