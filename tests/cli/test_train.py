"""The commands train, evaluate and report, on a small synthetic cohort and the FCD network."""

from __future__ import annotations

import csv
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import nibabel
import numpy as np
import pytest
import yaml

import kerasneuro
from kerasneuro import classifying
from kerasneuro.models.fcd.steps import prepare
from kerasneuro.training.classifier.config import ClassifierConfig
from kerasneuro.training.classifier.job import start
from kerasneuro.training.classifier.train import build_network, save_weights
from kerasneuro.training.config import as_mapping, from_mapping

Call = Callable[..., Any]
MAKER = runpy.run_path(str(Path(__file__).parents[1] / "training" / "cohort_maker.py"))
FILES = {
    "best.h5",
    "card.json",
    "checkpoint.h5",
    "config.yaml",
    "embeddings.h5",
    "history.csv",
    "predictions.csv",
    "split.csv",
}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_config(folder: Path, **sections: dict[str, Any]) -> Path:
    data = {"classes": MAKER["CLASSES"], "size": [12, 12, 12], **sections.pop("data", {})}
    fit = {"epochs": 1, "batch_size": 4, "accumulate": 1, **sections.pop("fit", {})}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"data": data, "fit": fit, **sections}), encoding="utf-8")
    return path


def refused(outcome: Any, *words: str) -> None:
    assert outcome.code == 1 and outcome.out == ""
    (line,) = outcome.errors
    assert line.startswith("kerasneuro: error: ") and "unexpected" not in line
    for word in words:
        assert word in line


@pytest.mark.training
def test_network_is_trained_judged_and_shown(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifying, "find_network", lambda config: MAKER["NETWORK"])
    cohort = MAKER["make_cohort"](tmp_path, 20)
    config, out = write_config(tmp_path, model={"embedding_layer": "pool"}), tmp_path / "run"
    outcome = call("train", "classifier", config, "-o", out, "--json")
    assert (outcome.code, outcome.errors) == (0, [])
    assert {path.name for path in out.iterdir()} == FILES
    assert outcome.json == json.loads((out / "card.json").read_text(encoding="utf-8"))
    assert "never a diagnosis" in outcome.json["use"]

    outcome = call("evaluate", "classifier", out, cohort, "-o", tmp_path / "judged.csv")
    assert (outcome.code, outcome.errors) == (0, [])
    judged = {row["subject"]: row for row in rows_of(tmp_path / "judged.csv")}
    assert len(judged) == 20
    for row in rows_of(out / "predictions.csv"):
        again = float(judged[row["subject"]]["probability_FCD"])
        assert again == pytest.approx(float(row["probability_FCD"]), abs=1e-5)

    page = tmp_path / "page.html"
    outcome = call("report", "evaluation", out, "-o", page, "--map", "tsne", "--subjects", 1, "--no-grad-cam")
    assert (outcome.code, outcome.errors) == (0, [])
    assert "Evaluation of fcd-mobilenet" in page.read_text(encoding="utf-8")
    refused(call("train", "classifier", config, "-o", out), "holds a training run already")


@pytest.mark.training
@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="compiling the gradient takes a minute; the code is the same"
)
def test_fcd_network_learns_and_is_loaded(call: Call, tmp_path: Path) -> None:
    MAKER["make_cohort"](tmp_path, 60)
    config, out = (
        write_config(
            tmp_path,
            model={"config": {"width": 0.25, "stochastic_depth": 0.0, "dropout": 0.0}},
            data={"size": [24, 24, 24]},
            augment={"affine": 0.0, "bias_field": 0.0, "gamma": 0.0, "noise": 0.01},
            fit={"epochs": 14, "batch_size": 6, "learning_rate": 0.005, "warmup_epochs": 1},
        ),
        tmp_path / "run",
    )
    outcome = call("train", "classifier", config, "-o", out)
    assert (outcome.code, outcome.errors) == (0, [])
    assert float(re.findall("test: AUROC ([0-9.]+)", outcome.out)[0]) > 0.9
    row = rows_of(out / "predictions.csv")[0]
    task = kerasneuro.load("fcd-mobilenet", weights=out / "best.h5")
    images = [nibabel.load(tmp_path / f"{row['subject']}_{name}.nii") for name in ("t1", "flair")]
    batch = prepare([np.asarray(image.dataobj, np.float32) for image in images], (24, 24, 24))
    logits = np.asarray(task.model.predict_on_batch(batch), np.float64)[0]
    probability = 1 / (1 + np.exp(logits[0] - logits[1]))
    assert float(row["probability_FCD"]) == pytest.approx(probability, abs=1e-4)


@pytest.mark.training
def test_file_of_a_run_is_one_of_its_model(tmp_path: Path) -> None:
    config = from_mapping(
        ClassifierConfig,
        {
            "data": {"cohort": str(MAKER["make_cohort"](tmp_path, 20)), "classes": MAKER["CLASSES"]},
            "model": {"config": {"width": 0.1}},
        },
    )
    job = start(config, tmp_path / "run", classifying.find_network(config))
    model = build_network(job)
    save_weights(model, job)
    task = kerasneuro.load("fcd-mobilenet", weights=job.folder.best)
    for one, other in zip(model.weights, task.model.weights, strict=True):
        assert one.path == other.path
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(item) for item in (one, other)))


@pytest.mark.backend_free
def test_default_configuration_is_printed(call: Call) -> None:
    outcome = call("train", "classifier", "--write-config")
    assert outcome.code == 0
    values = yaml.safe_load(outcome.out)
    assert values == as_mapping(ClassifierConfig())


@pytest.mark.training
@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"fitt": {}}, ("unknown key fitt; the nearest known key is fit",)),
        ({"model": {"name": "fcd-mobilnet"}}, ("fcd-mobilenet",)),
        ({"model": {"name": "deepbet"}}, ("expected a model for classification",)),
        ({"split": {"folds": 21}}, ("20 subjects for 21 folds",)),
        ({"data": {"channels": ["t1"]}}, ("takes 2 channels, data.channels names 1 (t1)",)),
        ({"data": {"cohort": "none.csv"}}, ("none.csv cannot be read as CSV",)),
        ({"model": {"config": {"wide": 2}}}, ("no configuration wide",)),
    ],
)
def test_settings_that_cannot_be_used(
    call: Call, tmp_path: Path, sections: dict[str, Any], words: tuple[str, ...]
) -> None:
    MAKER["make_cohort"](tmp_path, 20)
    refused(call("train", "classifier", write_config(tmp_path, **sections), "-o", tmp_path / "run"), *words)


@pytest.mark.training
def test_missing_flair_is_named_before_anything_is_written(call: Call, tmp_path: Path) -> None:
    MAKER["make_cohort"](tmp_path, 20)
    (tmp_path / "s03_flair.nii").unlink()
    outcome = call("train", "classifier", write_config(tmp_path), "-o", tmp_path / "run")
    refused(outcome, "subject s03", "channel flair", "no file at")
    assert not (tmp_path / "run").exists()


@pytest.mark.backend_free
def test_misuse(call: Call, tmp_path: Path) -> None:
    assert call("train", "classifier").code == 2
    assert call("train", "classifier", "c.yaml", "-o", "out", "--resume", "--overwrite").code == 2
    assert call("train").code == call("evaluate").code == call("report").code == 0
    refused(call("train", "classifier", tmp_path / "no.yaml", "-o", "out"), "cannot be read as text")
    cohort = MAKER["make_cohort"](tmp_path, 2)
    outcome = call("evaluate", "classifier", tmp_path, cohort, "-o", tmp_path / "out.csv")
    refused(outcome, "is not the folder of a training run")
    outcome = call("report", "evaluation", tmp_path, "-o", tmp_path / "page.html", "--no-grad-cam")
    refused(outcome, "is not the folder of a training run")
