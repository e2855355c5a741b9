"""list, info and the help pages: complete, quick, and without Keras."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kerasneuro import registry

Call = Callable[..., Any]


def test_list_shows_every_name_and_its_licence(call: Call) -> None:
    outcome = call("list")
    assert outcome.code == 0 and outcome.err == ""
    lines = {line.split()[0]: line for line in outcome.out.splitlines()[1:]}
    assert set(lines) == {*registry.names(), *registry.samples()}
    for card in registry.cards():
        assert card.status in lines[card.name] and card.licence.name in lines[card.name]


def test_list_pattern_and_json_agree(call: Call) -> None:
    rows = call("list", "nobrainer-*", "--json").json
    assert [row["name"] for row in rows] == registry.names("nobrainer-*")
    assert rows[0]["bytes"] == 19169888 and rows[0]["local"] is False


def test_list_of_nothing_says_so(call: Call) -> None:
    outcome = call("list", "zzz*")
    assert outcome.out == "" and "zzz*" in outcome.err


def test_list_sees_a_file_in_a_search_folder(
    call: Call, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = registry.samples()["t1-group-average"].file
    assert file.bytes is not None
    monkeypatch.setenv("KERASNEURO_WEIGHTS", str(tmp_path))
    assert call("list", "t1-*", "--json").json[0]["local"] is False
    (tmp_path / file.name).write_bytes(b"too short")
    assert call("list", "t1-*", "--json").json[0]["local"] is False
    with (tmp_path / file.name).open("wb") as target:
        target.truncate(file.bytes)
    assert call("list", "t1-*", "--json").json[0]["local"] is True
    assert call("info", "t1-group-average", "--json").json["local"] == {file.name: str(tmp_path / file.name)}


@pytest.mark.parametrize("name", ["deepbet", "synthmorph-joint", "fcd-mobilenet", "t1-group-average"])
def test_info_holds_the_whole_card(call: Call, name: str) -> None:
    record = registry.samples().get(name) or registry.get(name)
    document = call("info", name, "--json").json
    assert {key: document[key] for key in registry.as_dict(record)} == json.loads(
        json.dumps(registry.as_dict(record))
    )
    text = call("info", name).out
    assert record.summary in text and record.citation in text
    assert record.licence.grant in text
    for file in getattr(record, "files", ()):
        assert file.name in text and str(file.digest) in text


@pytest.mark.parametrize(
    "command", [["info", "deepbett"], ["fetch", "deepbett"], ["run", "deepbett", "-o", "x"]]
)
def test_unknown_name_gets_the_nearest(call: Call, command: list[str]) -> None:
    outcome = call(*command)
    assert outcome.code == 1 and outcome.out == ""
    (line,) = outcome.errors
    assert line.startswith("kerasneuro: error: ") and "'deepbet'" in line


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["run", "--help"], ["fetch", "--help"]])
def test_help_exits_with_0(call: Call, arguments: list[str]) -> None:
    outcome = call(*arguments)
    assert outcome.code == 0 and outcome.out.startswith("Usage: kerasneuro") and outcome.err == ""


def test_run_help_lists_the_models_that_can_run(call: Call) -> None:
    text = call("run", "--help").out
    for card in registry.cards():
        assert (f"\n  {card.name} " in text) is (card.status != "planned")


def test_version(call: Call) -> None:
    from kerasneuro import __version__

    assert call("--version").out.strip().endswith(__version__)


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["list", "--nope"], ["run"], ["fetch"], ["info"], ["run", "deepbet", "x.nii", "--nope"]],
)
def test_misuse_is_one_sentence_and_2(call: Call, arguments: list[str]) -> None:
    outcome = call(*arguments)
    assert outcome.code == 2 and outcome.out == ""
    (line,) = outcome.errors
    assert line.startswith("kerasneuro: error: ") and "--help" in line


@pytest.mark.parametrize(
    "command", ["list", "info deepbet", "run --help", "run nobrainer-brainy --help", "fetch -h"]
)
def test_no_backend_and_no_keras_is_imported(command: str) -> None:
    code = (
        "import sys; from kerasneuro.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'keras', 'tensorflow', 'torch', 'jax', 'openvino', 'nibabel', 'pandas', 'matplotlib'};"
        "sys.exit(code or ' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
