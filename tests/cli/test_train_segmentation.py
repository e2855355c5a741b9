"""The commands train segmentation, run FOLDER and evaluate segmentation, on small synthetic tumours."""

from __future__ import annotations

import csv
import json
import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml

import kerasneuro
from kerasneuro.finetuning.evaluate import compare
from kerasneuro.tasks import Result
from kerasneuro.training.config import as_mapping, read_config
from kerasneuro.training.scans.class_table import ClassTable
from kerasneuro.training.scans.pairs import Pair
from kerasneuro.training.segmentation.config import SegmentationConfig

Call = Callable[..., Any]
MAKER = runpy.run_path(str(Path(__file__).parents[1] / "training" / "tumour_maker.py"))
BLOCKS = ("--block-shape", "16", "16", "16")


def write_config(folder: Path, **sections: dict[str, Any]) -> Path:
    model = {"start": "random", "config": {"filters": 1}, "name": "balls", **sections.pop("model", {})}
    data = {"train": "scans/pairs.csv", "validation_share": 0.4, "classes": {"ball": 1, "core": 4}}
    data |= {"patch_shape": [16, 16, 16], "patches_per_volume": 2, "augmented": False}
    fit = {"epochs": 1, "learning_rate": 0.01, **sections.pop("fit", {})}
    path = folder / "config.yaml"
    everything = {"model": model, "data": {**data, **sections.pop("data", {})}, "fit": fit, **sections}
    path.write_text(yaml.safe_dump(everything), encoding="utf-8")
    return path


def refused(outcome: Any, *words: str) -> None:
    assert outcome.code == 1 and outcome.out == ""
    (line,) = outcome.errors
    assert line.startswith("kerasneuro: error: ") and "unexpected" not in line
    for word in words:
        assert word in line


@pytest.mark.training
def test_network_is_trained_run_and_evaluated(call: Call, tmp_path: Path) -> None:
    MAKER["make_pairs"](tmp_path / "scans", 3)
    config, out = write_config(tmp_path), tmp_path / "run"
    outcome = call("train", "segmentation", config, "-o", out, "--json")
    assert (outcome.code, outcome.errors) == (0, [])
    assert {path.name for path in out.iterdir()} == {
        "best.h5", "checkpoint.h5", "config.yaml", "history.csv", "model", "split.csv",
    }  # fmt: skip
    saved = json.loads((out / "model" / "card.json").read_text(encoding="utf-8"))
    assert outcome.json["name"] == saved["name"] == "balls"
    assert outcome.json["data"]["training"] == {"scans": 2, "subjects": 2}
    assert read_config(out / "config.yaml", SegmentationConfig).data.patch_shape == (16, 16, 16)
    refused(call("train", "segmentation", config, "-o", out), "holds a training run already")

    scan = tmp_path / "scans" / "s0.nii"
    outcome = call("run", out / "model", scan, "-o", tmp_path / "found", "--overlap", "0")
    assert (outcome.code, outcome.errors) == (0, [])
    labels = nibabel.load(tmp_path / "found" / "s0_labels.nii.gz")
    expected = kerasneuro.load(out / "model")(scan, overlap=0.0).labels
    np.testing.assert_array_equal(np.asarray(labels.dataobj), np.asarray(expected.dataobj))

    table = tmp_path / "scores.csv"
    pairs = tmp_path / "scans" / "pairs.csv"
    outcome = call("evaluate", "segmentation", out / "model", pairs, "-o", table)
    assert (outcome.code, outcome.errors) == (0, [])
    assert "ball: dice" in outcome.out
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["subject"], row["class"]) for row in rows[:2]] == [("p0", "ball"), ("p0", "core")]
    assert len(rows) == 6 and all(0 <= float(row["dice"]) <= 1 for row in rows)
    refused(call("evaluate", "segmentation", out / "model", pairs, "-o", table), "exists already")
    again = call("train", "segmentation", config, "-o", out, "--resume")
    assert (again.code, again.errors) == (0, [])


@pytest.mark.backend_free
def test_scores_of_a_scan_are_those_of_its_voxels(tmp_path: Path) -> None:
    truth, found = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.uint8)
    truth[2:4, 2:4, 2:4], found[2:4, 2:4, 3:5] = 4, 4
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(truth, affine), tmp_path / "truth.nii")
    result = Result(labels=nibabel.Nifti1Image(found, affine))
    pair = Pair((tmp_path / "image.nii",), tmp_path / "truth.nii", "p")
    core, other = compare(pair, result, ClassTable.of({"core": 4, "ball": 1}))
    assert (core["dice"], core["jaccard"]) == (0.5, pytest.approx(1 / 3))
    assert (core["hd95_mm"], core["volume_error"], core["true_mm3"]) == (2.0, 0.0, 16.0)
    assert core["asd_mm"] == pytest.approx(1.0)
    assert math.isnan(other["dice"]) and other["hd95_mm"] == 0.0


@pytest.mark.backend_free
def test_default_configuration_is_printed(call: Call) -> None:
    outcome = call("train", "segmentation", "--write-config")
    assert outcome.code == 0
    assert yaml.safe_load(outcome.out) == as_mapping(SegmentationConfig())
    assert all("  # " in line for line in outcome.out.splitlines() if not line.endswith(":"))


@pytest.mark.training
@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"fitt": {}}, ("unknown key fitt; the nearest known key is fit",)),
        ({"model": {"parent": "nobrainer-brainie"}}, ("nobrainer-brainy",)),
        ({"model": {"parent": "fcd-mobilenet", "config": {}}}, ("expected a model for segmentation",)),
        ({"model": {"freeze": "decoder"}}, ("expected 'none' or 'encoder' or 'all-but-head'",)),
        ({"model": {"config": {"wide": 2}}}, ("no configuration wide",)),
        ({"data": {"train": "none.csv"}}, ("none.csv cannot be read as CSV",)),
        ({"data": {"classes": {"ball": 1}}}, ("which belong to no class",)),
        ({"data": {"patch_shape": [16, 16]}}, ("expected a list of 3",)),
        ({"fit": {"epochs": 0}}, ("expected at least 1",)),
    ],
)
def test_settings_that_cannot_be_used(
    call: Call, tmp_path: Path, sections: dict[str, Any], words: tuple[str, ...]
) -> None:
    MAKER["make_pairs"](tmp_path / "scans", 3)
    outcome = call("train", "segmentation", write_config(tmp_path, **sections), "-o", tmp_path / "run")
    refused(outcome, *words)
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.backend_free
def test_misuse(call: Call, tmp_path: Path) -> None:
    assert call("train", "segmentation").code == 2
    assert call("train", "segmentation", "c.yaml", "-o", "out", "--resume", "--overwrite").code == 2
    refused(call("train", "segmentation", tmp_path / "no.yaml", "-o", "out"), "cannot be read as text")
    refused(call("run", tmp_path, "scan.nii", "-o", tmp_path / "out"), "holds no card.json")
    refused(
        call("run", "./no-such", "scan.nii", "-o", tmp_path / "out"), "is a path, expected a registry name"
    )
