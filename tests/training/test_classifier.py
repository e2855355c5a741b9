"""Train a classifier end to end, end it in the middle, resume it, and let it judge another cohort."""

from __future__ import annotations

import csv
import json
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kerasneuro.classifying import evaluate_classifier, open_run, train_classifier
from kerasneuro.errors import InvalidOption, OutputError, WeightsMismatch
from kerasneuro.report.evaluation import write_evaluation_page
from kerasneuro.training.classifier.config import ClassifierConfig
from kerasneuro.training.classifier.outputs import predict, with_embedding
from kerasneuro.training.classifier.train import build_network, compile_network, load_weights
from kerasneuro.training.classifier.volume_dataset import VolumeDataset, balanced_weights
from kerasneuro.training.config import to_yaml
from kerasneuro.training.progress import COLUMNS
from kerasneuro.training.run_folder import RunFolder
from kerasneuro.weights import read

pytestmark = pytest.mark.training

MAKER_PATH = Path(__file__).parent / "cohort_maker.py"
MAKER = runpy.run_path(str(MAKER_PATH))
NETWORK, make_config = MAKER["NETWORK"], MAKER["make_config"]
# The sums of a convolution's gradient may be taken in another order by each run of TensorFlow.
SAME = 0.0 if keras.backend.backend() != "tensorflow" else 1e-4


@dataclass(frozen=True)
class Trained:
    config: ClassifierConfig
    folder: RunFolder
    card: dict[str, Any]
    cohort: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("cohort")
    cohort = MAKER["make_cohort"](folder)
    config = make_config(cohort, harmonise={"of": "intensity", "covariates": ["age", "sex"]})
    card = train_classifier(config, folder / "run", network=NETWORK)
    return Trained(config, RunFolder(folder / "run"), card, cohort)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with read(path) as store:
        return {name: array.read() for name, array in store.items()}


def test_tells_the_classes_of_unseen_subjects_apart(trained: Trained) -> None:
    assert trained.card["scores"]["test"]["AUROC"]["value"] > 0.9
    assert trained.card["scores"]["test"]["accuracy"]["value"] > 0.7
    assert trained.card == json.loads(trained.folder.card.read_text(encoding="utf-8"))
    assert "never a diagnosis" in trained.card["use"]
    counts = trained.card["data"]["subsets"]
    assert {name: part["samples"] for name, part in counts.items()} == {
        "training": 24,
        "validation": 8,
        "test": 8,
    }


def test_predictions_are_those_of_the_best_weights(trained: Trained) -> None:
    job = open_run(trained.folder.path, NETWORK)
    assert job.config == trained.config
    model = build_network(job)
    load_weights(model, trained.folder.best)
    held_out = [sample for sample in job.samples if sample.split != "training"]
    rows = rows_of(trained.folder.predictions)
    assert [row["subject"] for row in rows] == [sample.subject for sample in held_out]
    probabilities, _ = predict(model, job, held_out)
    written = [[float(row["probability_control"]), float(row["probability_FCD"])] for row in rows]
    np.testing.assert_allclose(written, probabilities, atol=1e-5)
    assert [row["predicted"] for row in rows] == [MAKER["CLASSES"][k] for k in probabilities.argmax(axis=1)]


def test_log_and_schedule(trained: Trained) -> None:
    rows = rows_of(trained.folder.history)
    assert list(rows[0]) == list(COLUMNS)
    assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates[0] == pytest.approx(0.03, rel=1e-5)  # One epoch of warm-up.
    assert rates[3] == pytest.approx(0.03 * 0.5 * (1 + np.cos(np.pi * 3 / 7)), rel=1e-4)
    assert rates[-1] < 1e-6 and np.all(np.diff(rates) < 0)
    best = max(rows, key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    assert trained.card["training"]["best_epoch"] == int(best["epoch"])


def test_embeddings_are_kept_before_and_after_harmonisation(trained: Trained) -> None:
    found = trained.folder.read_embeddings()
    assert found["before"].shape == (40, 6) and found["after"].shape == (40, 6)
    assert np.isfinite(found["after"]).all()
    assert np.abs(found["after"] - found["before"]).max() > 0.01


class Cut(keras.callbacks.Callback):
    """End the process's work in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.last, self.now = epoch, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.now = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.now == self.last and batch == 1:
            raise KeyboardInterrupt


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    expected, found = rows_of(one.history), rows_of(other.history)
    assert len(found) == len(expected)
    for name in COLUMNS:
        values = [[float(row[name]) for row in rows] for rows in (found, expected)]
        np.testing.assert_allclose(*values, rtol=SAME, err_msg=name)
    best, again = arrays_of(one.best), arrays_of(other.best)
    assert list(best) == list(again)
    for name, array in best.items():
        np.testing.assert_allclose(again[name], array, rtol=SAME, atol=SAME, err_msg=name)


def test_resumes_as_if_it_had_never_been_interrupted(trained: Trained, tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        train_classifier(trained.config, tmp_path / "run", network=NETWORK, callbacks=[Cut(3)])
    assert len(rows_of(tmp_path / "run" / "history.csv")) == 3
    train_classifier(trained.config, tmp_path / "run", network=NETWORK, resume=True, say=lines.append)
    assert "resuming after epoch 3" in lines
    assert_same_run(trained.folder, RunFolder(tmp_path / "run"))
    assert not list((tmp_path / "run").glob(".*"))


SCRIPT = """
import runpy, sys
from pathlib import Path
from kerasneuro.classifying import train_classifier
from kerasneuro.training.classifier.config import ClassifierConfig
from kerasneuro.training.config import read_config
maker = runpy.run_path(sys.argv[1])
config = read_config(sys.argv[2], ClassifierConfig)
train_classifier(config, sys.argv[3], network=maker["NETWORK"], say=lambda line: print(line, flush=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="a kill is the same under every backend")
def test_resumes_after_kill_9(trained: Trained, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(to_yaml(trained.config), encoding="utf-8")
    command = [sys.executable, "-c", SCRIPT, str(MAKER_PATH), str(config), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 2:"):
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert len(rows_of(tmp_path / "run" / "history.csv")) < trained.config.fit.epochs
    train_classifier(trained.config, tmp_path / "run", network=NETWORK, resume=True)
    assert_same_run(trained.folder, RunFolder(tmp_path / "run"))


def test_another_cohort_is_judged_without_labels(trained: Trained, tmp_path: Path) -> None:
    cohort = MAKER["make_cohort"](tmp_path, 8, seed=5)
    rows = rows_of(cohort)
    MAKER["write_cohort"](cohort, [{**row, "label": ""} for row in rows])
    judged = evaluate_classifier(trained.folder.path, cohort, network=NETWORK)
    assert [row["subject"] for row in judged] == [row["subject"] for row in rows]
    assert all(row["label"] == "" and "never a diagnosis" in row["use"] for row in judged)
    right = sum(row["predicted"] == truth["label"] for row, truth in zip(judged, rows, strict=True))
    assert right >= 6
    assert not trained.folder.cache.exists()
    foreign = MAKER["write_cohort"](cohort, [{**row, "site": "C"} for row in rows])
    with pytest.raises(InvalidOption, match="the site 'C' is not among those of the training subset"):
        evaluate_classifier(trained.folder.path, foreign, network=NETWORK)
    kept = evaluate_classifier(trained.folder.path, foreign, keep_unseen_sites=True, network=NETWORK)
    assert len(kept) == 8 and kept[0]["probability_FCD"] != judged[0]["probability_FCD"]


def test_page_shows_heat_maps(trained: Trained, tmp_path: Path) -> None:
    path, notes = write_evaluation_page(
        trained.folder.path, tmp_path / "page.html", maps=(), subjects=2, network=NETWORK
    )
    text = path.read_text(encoding="utf-8")
    assert notes == () and text.count("<h2>Heat map: ") == 2 and text.count("<h2>Scans: ") == 2
    assert "http" not in text.replace("http-equiv", "")


def test_early_stopping_ends_a_run_for_good(trained: Trained, tmp_path: Path) -> None:
    settings = {"learning_rate": 0.0, "patience": 2, "epochs": 9, "warmup_epochs": 0}
    config = make_config(trained.cohort, fit={**settings, "batch_size": 24})
    card = train_classifier(config, tmp_path / "run", network=NETWORK)
    # A learning rate of 0 changes nothing but the running statistics.
    first = len(rows_of(tmp_path / "run" / "history.csv"))
    accuracies = [float(row["val_accuracy"]) for row in rows_of(tmp_path / "run" / "history.csv")]
    assert first == card["training"]["epochs"] < 9
    assert first == accuracies.index(max(accuracies)) + 1 + 2
    train_classifier(config, tmp_path / "run", network=NETWORK, resume=True)
    assert len(rows_of(tmp_path / "run" / "history.csv")) == first
    with pytest.raises(OutputError, match="holds a training run already"):
        train_classifier(config, tmp_path / "run", network=NETWORK)
    changed = replace(config, fit=replace(config.fit, batch_size=4))
    with pytest.raises(InvalidOption, match=r"another fit\.batch_size"):
        train_classifier(changed, tmp_path / "run", network=NETWORK, resume=True)


def test_mixed_precision_and_weights_to_start_from(trained: Trained, tmp_path: Path) -> None:
    config = make_config(
        trained.cohort,
        model={"precision": "mixed_bfloat16", "weights": str(trained.folder.best)},
        fit={"epochs": 1, "class_weights": "balanced", "clip_norm": 1.0, "batch_size": 24, "accumulate": 1},
        harmonise={"of": "intensity"},
    )
    card = train_classifier(config, tmp_path / "run", network=NETWORK)
    assert keras.config.dtype_policy().name == "float32"
    assert card["scores"]["test"]["AUROC"]["value"] > 0.8
    assert all(array.dtype == np.float32 for array in arrays_of(tmp_path / "run" / "best.h5").values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"channels": ["t1"]}}, "takes 2 channels, data.channels names 1"),
        ({"model": {"config": {"in_channels": 3}}}, "takes 3 channels, data.channels names 2"),
        ({"model": {"config": {"classes": 1}}}, "gives 1 classes, the cohort has 2"),
        ({"model": {"embedding_layer": "first"}}, "expected a layer with outputs"),
    ],
)
def test_network_that_does_not_fit_the_data(
    trained: Trained, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = make_config(trained.cohort, **changes)
    with pytest.raises(InvalidOption, match=message):
        job = replace(open_run(trained.folder.path, NETWORK), config=config)
        with_embedding(build_network(job), config.model.embedding_layer)


def test_checkpoint_of_another_network_is_refused(trained: Trained, tmp_path: Path) -> None:
    from kerasneuro.training.checkpoint import restore_checkpoint

    config = make_config(trained.cohort, model={"config": {"classes": 3}})
    job = replace(open_run(trained.folder.path, NETWORK), config=config)
    model = build_network(job)
    compile_network(model, job)
    with pytest.raises(WeightsMismatch, match="belongs to another network or optimiser"):
        restore_checkpoint(trained.folder.checkpoint, model)
    with pytest.raises(WeightsMismatch, match="is no checkpoint"):
        restore_checkpoint(trained.folder.best, model)


def test_batches_depend_on_seed_and_epoch_alone(trained: Trained) -> None:
    job = open_run(trained.folder.path, NETWORK)
    samples = job.of("training")

    def noise(volume: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return volume + np.float32(generator.normal())

    def batches(**options: int) -> list[np.ndarray]:
        data = VolumeDataset(samples, job.prepare, 5, shuffle=True, change=noise, **options)
        return [part for index in range(len(data)) for part in data[index]]

    def equal(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
        return all(np.array_equal(one, other) for one, other in zip(left, right, strict=True))

    assert equal(batches(seed=1), batches(seed=1))
    assert not equal(batches(seed=1), batches(seed=2))
    assert not equal(batches(seed=1), batches(seed=1, epoch=1))
    labels = np.concatenate(batches(seed=1)[1::3])
    assert sorted(labels) == sorted(sample.label for sample in samples)
    with pytest.raises(InvalidOption):
        VolumeDataset([], job.prepare, 5)


def test_balanced_weights_make_classes_count_alike() -> None:
    weights = balanced_weights([0, 0, 0, 1], 2)
    np.testing.assert_allclose(weights, [4 / 6, 2.0])
