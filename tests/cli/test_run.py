"""run writes what the task computes, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import kerasneuro
from kerasneuro.errors import MissingDependency
from kerasneuro.models.nobrainer.task import NobrainerTask

Call = Callable[..., Any]


def voxels(path: Path) -> np.ndarray:
    return np.asanyarray(nibabel.load(path).dataobj)


def test_one_file_equals_the_original_tool(
    brainy: Call, scan: Path, weights: Path, fixtures: Path, tmp_path: Path
) -> None:
    outcome = brainy(scan, "-o", tmp_path / "mask.nii.gz")
    assert (outcome.code, outcome.errors) == (0, [])
    assert outcome.out.strip() == str(tmp_path / "mask.nii.gz")
    assert os.listdir(tmp_path) == ["mask.nii.gz"]
    assert outcome.err.splitlines()[0].endswith("loading nobrainer-brainy ...")
    reference = fixtures / "nobrainer" / "pipe_out_default_t03.nii.gz"
    np.testing.assert_array_equal(voxels(tmp_path / "mask.nii.gz"), voxels(reference))


def test_options_of_the_original_tool_reach_the_task(
    call: Call, scan: Path, weights: Path, fixtures: Path, tmp_path: Path
) -> None:
    target = tmp_path / "mask.nii.gz"
    grid = ["-r", "64", "64", "64", "-b", "32", "32", "32", "-t", "0.5"]
    outcome = call("run", "nobrainer-brainy", *grid, "--weights", weights, scan, "-o", target)
    assert (outcome.code, outcome.errors) == (0, [])
    np.testing.assert_array_equal(voxels(target), voxels(fixtures / "nobrainer" / "pipe_out_t05.nii.gz"))


def test_folder_gets_all_outputs_and_the_page(brainy: Call, scan: Path, tmp_path: Path) -> None:
    outcome = brainy(scan, "-o", tmp_path / "out", "--report", "--json")
    assert (outcome.code, outcome.errors) == (0, [])
    document = outcome.json
    names = {key: Path(path).name for key, path in document["files"].items()}
    assert names == {
        "mask": "pipe_t1_mask.nii.gz",
        "probability": "pipe_t1_probability.nii.gz",
        "table": "pipe_t1_table.csv",
        "provenance": "pipe_t1_provenance.json",
        "report": "pipe_t1_report.html",
        "report_picture": "pipe_t1_report.png",
    }
    assert sorted(os.listdir(tmp_path / "out")) == sorted(names.values())
    written = json.loads((tmp_path / "out" / "pipe_t1_provenance.json").read_text(encoding="utf-8"))
    assert document["provenance"] == written
    assert document["table"][0]["voxels"] == int(voxels(tmp_path / "out" / "pipe_t1_mask.nii.gz").sum())
    assert isinstance(document["warnings"], list)
    for warning in document["warnings"]:
        assert f"kerasneuro: warning: {warning}" in outcome.err.splitlines()


def test_chosen_outputs_of_several_scans(brainy: Call, scan: Path, tmp_path: Path) -> None:
    other = tmp_path / "sub-02.a.nii.gz"
    shutil.copyfile(scan, other)
    outcome = brainy(scan, other, "-o", tmp_path / "out", "--outputs", "mask,table", "--json")
    assert (outcome.code, outcome.errors) == (0, [])
    assert [result["images"] for result in outcome.json["results"]] == [
        {"image": str(scan)},
        {"image": str(other)},
    ]
    expected = [f"{stem}_{end}" for stem in ("pipe_t1", "sub-02.a") for end in ("mask.nii.gz", "table.csv")]
    assert sorted(os.listdir(tmp_path / "out")) == sorted(expected)


def test_page_beside_one_file(brainy: Call, scan: Path, tmp_path: Path) -> None:
    outcome = brainy(scan, "-o", tmp_path / "brain.nii", "--report")
    assert (outcome.code, outcome.errors) == (0, [])
    assert sorted(os.listdir(tmp_path)) == ["brain.nii", "brain_report.html", "brain_report.png"]


def test_overwrite(brainy: Call, scan: Path, tmp_path: Path) -> None:
    target = tmp_path / "mask.nii.gz"
    target.write_text("old")
    assert brainy(scan, "-o", target, "--overwrite").code == 0
    assert voxels(target).shape == voxels(scan).shape


def test_scan_that_fails_leaves_those_before_it_whole(brainy: Call, scan: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.nii"
    nibabel.save(nibabel.Nifti1Image(np.full((20, 20, 20), np.nan, np.float32), np.eye(4)), bad)
    outcome = brainy(scan, bad, "-o", tmp_path / "out", "--outputs", "mask")
    assert outcome.code == 1 and "bad.nii" in outcome.errors[0] and len(outcome.errors) == 1
    assert os.listdir(tmp_path / "out") == ["pipe_t1_mask.nii.gz"]


def interrupted(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


def broken(*args: object, **options: object) -> None:
    raise RuntimeError("first line\nsecond line")


def test_interrupt_leaves_nothing(
    brainy: Call, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kerasneuro.report.write_quality_page", interrupted)
    outcome = brainy(scan, "-o", tmp_path / "out", "--report")
    assert outcome.code == 130 and len(outcome.errors) == 1
    assert os.listdir(tmp_path) == []


def test_unforeseen_fault_is_one_line_and_asks_for_a_report(
    brainy: Call, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NobrainerTask, "predict_grid", broken)
    outcome = brainy(scan, "-o", tmp_path / "out")
    assert outcome.code == 1 and os.listdir(tmp_path) == []
    (line,) = outcome.errors
    assert "RuntimeError: first line second line" in line and "report" in line and "--verbose" in line


def test_verbose_adds_the_traceback(call: Call, scan: Path, tmp_path: Path) -> None:
    outcome = call("run", "nobrainer-brainy", tmp_path / "no.nii", "-o", tmp_path / "out", "--verbose")
    assert outcome.code == 1
    assert outcome.errors[0].startswith("kerasneuro: error: ")
    assert "Traceback (most recent call last):" in outcome.errors


def test_missing_report_extra_is_told_before_the_model_is_loaded(
    brainy: Call, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingDependency("install it with: pip install 'kerasneuro[report]'")

    monkeypatch.setattr("kerasneuro.report.require_report", missing)
    monkeypatch.setattr(kerasneuro, "load", lambda *a, **k: pytest.fail("loaded"))
    outcome = brainy(scan, "-o", tmp_path / "out", "--report")
    assert outcome.code == 1 and "kerasneuro[report]" in outcome.errors[0]
    assert os.listdir(tmp_path) == []


def test_backend_is_chosen_before_keras_is_imported(
    call: Call, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    def load(*args: object, **options: object) -> None:
        seen.append(os.environ.get("KERAS_BACKEND"))
        raise MissingDependency("far enough")

    monkeypatch.setattr(kerasneuro, "load", load)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "")
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("kerasneuro.cli.backend.is_installed", lambda name: name == "jax")
    outcome = call("run", "deepbet", scan, "-o", tmp_path / "out")
    assert seen == ["jax"]
    assert outcome.code == 1 and "using the jax backend" in outcome.err


def test_wrong_file_among_several_is_found_before_the_model_is_loaded(
    brainy: Call, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kerasneuro, "load", lambda *a, **k: pytest.fail("loaded"))
    (tmp_path / "bad.nii").write_text("not an image")
    outcome = brainy(scan, tmp_path / "bad.nii", "-o", tmp_path / "out")
    assert outcome.code == 1 and "bad.nii" in outcome.errors[0]
    assert os.listdir(tmp_path) == ["bad.nii"]
