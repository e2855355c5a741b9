"""``kerasneuro hub``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.backend_free


@pytest.fixture(autouse=True)
def own_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setenv("KERASNEURO_HUB", str(tmp_path / "hub"))


@pytest.fixture
def description(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    content = {
        "name": "my-subfields",
        "family": "hsf",
        "summary": "Subfields of the hippocampus.",
        "files": [{"url": "https://example.org/net.onnx", "xxh3_64": "0123456789abcdef"}],
        "labels": ["background", "DG", "CA1", "CA2", "CA3", "SUB"],
        "licence": "MIT",
        "citation": "Somebody (2026).",
    }
    path.write_text(json.dumps(content))
    return path


def test_add_list_info_remove(call, description) -> None:
    added = call("hub", "add", description)
    assert (added.code, added.out) == (0, "my-subfields\n")
    assert "my-subfields comes from a third party" in added.err and added.errors == []

    (row,) = call("hub", "list", "--json").json
    assert (row["name"], row["family"], row["from"]) == ("my-subfields", "hsf", "mine.json")
    assert call("hub", "list").out.startswith("my-subfields\thsf\t1\tMIT\t")

    told = call("info", "my-subfields").out
    assert f"third party, added on {row['added']}" in told
    assert "net.onnx" in told and "https://example.org/net.onnx" in told
    assert call("info", "my-subfields", "--json").json["third_party"]["described_by"] == "mine.json"
    assert "third party" not in call("info", "deepbet").out
    assert call("list", "my-*", "--json").json[0]["name"] == "my-subfields"

    removed = call("hub", "remove", "my-subfields")
    assert (removed.code, removed.out) == (0, "")
    assert call("hub", "list", "--json").json == []
    assert call("info", "my-subfields").code == 1


def test_an_added_model_is_offered_and_named_when_it_cannot_be_fetched(
    call, description, monkeypatch
) -> None:
    call("hub", "add", description, "--name", "other-name")
    assert "other-name" in call("run", "--help").out
    assert "--boxes" in call("run", "other-name", "--help").out
    monkeypatch.setenv("KERASNEURO_OFFLINE", "1")
    (error,) = call("fetch", "other-name").errors
    assert "net.onnx" in error and "offline" in error


def test_mistakes_are_told_in_one_line(call, description, tmp_path) -> None:
    call("hub", "add", description)
    for arguments, told in (
        (("hub", "add", description), "has been added already"),
        (("hub", "add", description, "--name", "deepbet"), "comes with kerasneuro"),
        (("hub", "add", tmp_path / "absent.yaml"), "cannot be read"),
        (("hub", "add", tmp_path), "no saved model"),
        (("hub", "remove", "nothing"), "no model 'nothing' has been added"),
    ):
        answer = call(*arguments)
        assert answer.code == 1 and len(answer.errors) == 1 and told in answer.errors[0], answer.err
    assert call("hub", "add", description, "--replace", "--json").json["name"] == "my-subfields"


def test_help(call) -> None:
    assert "add" in call("hub").out and "FILE|FOLDER" in call("hub", "add", "--help").out
