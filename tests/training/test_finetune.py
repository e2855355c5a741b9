"""Fine-tuning from labelled scans to a task that predicts, in small: every stage, every option, resuming."""

from __future__ import annotations

import csv
import json
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import nibabel
import numpy as np
import pytest

import kerasneuro
from kerasneuro.errors import InvalidOption, OutputError
from kerasneuro.finetuning import finetuned, offspring
from kerasneuro.models.nobrainer.task import NobrainerTask
from kerasneuro.tasks.blocks import BlockTask
from kerasneuro.training.scans.class_table import ClassTable
from kerasneuro.training.segmentation.config import ModelSettings, SegmentationConfig, with_options
from kerasneuro.training.segmentation.scans import Scans, divide, find_scans

pytestmark = pytest.mark.training
TORCH = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the same code; compiling it again takes a minute"
)
MAKER = runpy.run_path(str(Path(__file__).with_name("tumour_maker.py")))
SMALL: dict[str, Any] = {
    "patch_shape": (16, 16, 16),
    "batch_size": 2,
    "patches_per_volume": 2,
    "augmented": False,
    "learning_rate": 0.01,
}
TUMOUR = {"tumour": [1, 4]}
# Each stage is compiled anew, which takes long but on PyTorch.
STAGES = {0: "encoder", 1: None} if keras.backend.backend() == "torch" else {0: None}


def random_parent(**config: Any) -> kerasneuro.Task:
    """Return a small nobrainer network with random weights as a task."""
    settings = ModelSettings(start="random", config={"filters": 1, **config})
    return offspring.find_parent("nobrainer-brainy", settings)


def arrays(model: keras.Model) -> dict[str, np.ndarray]:
    return {item.path: np.asarray(keras.ops.convert_to_numpy(item)) for item in model.weights}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path]]:
    return MAKER["make_pairs"](tmp_path_factory.mktemp("scans"), 3)


@pytest.fixture(scope="module")
def trained(
    pairs: list[tuple[Path, Path]], fixtures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[kerasneuro.Task, kerasneuro.Task, Path]:
    """Parent, offspring, and the folder of the run."""
    parent = kerasneuro.load("nobrainer-brainy", weights=fixtures / "nobrainer" / "unet_b1_full.h5")
    output = tmp_path_factory.mktemp("runs") / "run"
    task = kerasneuro.finetune(
        parent,
        pairs[:2],
        pairs[2:],
        classes=TUMOUR,
        freeze=STAGES,
        epochs=2,
        orientation="RAS",
        name="tumour-1",
        output=output,
        **SMALL,
    )
    return parent, task, output


def test_task_predicts_on_the_grid_of_the_scan(
    trained: tuple[kerasneuro.Task, kerasneuro.Task, Path], pairs: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    _, task, _ = trained
    assert isinstance(task, BlockTask) and task.card.name == "tumour-1"
    result = task(pairs[2][0], threshold=0.2)
    scan = nibabel.load(pairs[2][0])
    for image in (result.mask, result.probability):
        assert image.shape == scan.shape
        np.testing.assert_array_equal(image.affine, scan.affine)
    np.testing.assert_array_equal(np.asarray(result.mask.dataobj), result.probability.get_fdata() > 0.2)
    assert result.provenance["weights"]["model"]["parent"]["name"] == "nobrainer-brainy"
    files = result.save(tmp_path / "out")
    assert set(files) == {"mask", "probability", "table", "provenance"}


def test_card_names_parent_data_and_licence(trained: tuple[kerasneuro.Task, kerasneuro.Task, Path]) -> None:
    parent, task, output = trained
    text = (output / "model" / "card.json").read_text(encoding="utf-8")
    card = json.loads(text)
    assert str(output.parent) not in text and "s0.nii" not in text, "a card holds no paths"
    assert card["parent"]["files"][""]["sha256"] == parent.provenance[""]["sha256"]
    assert card["licence"]["name"] == parent.card.licence.name
    assert card["licence"]["note"].startswith("Inherited from nobrainer-brainy")
    assert card["data"]["training"] == {"scans": 2, "subjects": 2}
    assert [row["name"] for row in card["classes"]] == ["background", "tumour"]
    assert len(card["history"]) == 2 and "never a diagnosis" in card["use"]
    assert task.card.output["classes"][1]["name"] == "tumour"


def test_saved_task_predicts_the_same(
    trained: tuple[kerasneuro.Task, kerasneuro.Task, Path], pairs: list[tuple[Path, Path]]
) -> None:
    _, task, output = trained
    again = kerasneuro.load(output / "model")
    for one, other in zip(arrays(task.model).values(), arrays(again.model).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    first, second = (each(pairs[2][0]).probability.get_fdata() for each in (task, again))
    np.testing.assert_allclose(first, second, atol=1e-6)


@TORCH
def test_encoder_was_frozen_first_and_trained_later(
    trained: tuple[kerasneuro.Task, kerasneuro.Task, Path],
) -> None:
    parent, task, output = trained
    before, after = arrays(parent.model), arrays(task.model)
    best = max(
        rows_of(output / "history.csv"), key=lambda row: (float(row["val_dice"]), -float(row["val_loss"]))
    )
    moved = not np.array_equal(before["conv3d/kernel"], after["conv3d/kernel"])
    assert moved == (best["epoch"] == "2"), "the first layer moves in the second epoch alone"
    assert not np.array_equal(before["conv3d_14/kernel"], after["conv3d_14/kernel"])


KILLED = """
import json, os, signal, sys
import keras
import kerasneuro
from kerasneuro.finetuning import offspring
from kerasneuro.training.segmentation.config import ModelSettings

class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

keras.utils.set_random_seed(5)
settings = ModelSettings(start="random", config={"filters": 1})
parent = offspring.find_parent("nobrainer-brainy", settings)
pairs, options = json.loads(sys.argv[1]), json.loads(sys.argv[2])
kerasneuro.finetune(parent, pairs[:2], pairs[2:], classes={"tumour": [1, 4]}, output=sys.argv[3],
                    callbacks=[Kill()], freeze={0: "encoder", 1: None}, **options)
"""


@TORCH
def test_run_that_was_killed_goes_on_as_if_nothing_had_been(
    pairs: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    options = {**SMALL, "epochs": 3, "augmented": True, "ema": 0.9}
    texts = [json.dumps([list(map(str, pair)) for pair in pairs]), json.dumps(options)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *texts, str(tmp_path / "killed")], check=False, timeout=300
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(rows_of(tmp_path / "killed" / "history.csv")) == 2
    for folder, resume in (("killed", True), ("whole", False)):
        keras.utils.set_random_seed(5)
        kerasneuro.finetune(
            random_parent(),
            pairs[:2],
            pairs[2:],
            classes=TUMOUR,
            output=tmp_path / folder,
            resume=resume,
            freeze={0: "encoder", 1: None},
            **options,
        )
    assert (tmp_path / "killed" / "history.csv").read_text() == (
        tmp_path / "whole" / "history.csv"
    ).read_text()
    cards = [
        json.loads((tmp_path / name / "model" / "card.json").read_text()) for name in ("killed", "whole")
    ]
    assert cards[0]["history"] == cards[1]["history"]


@TORCH
def test_options_of_the_training_are_followed(pairs: list[tuple[Path, Path]], tmp_path: Path) -> None:
    lines: list[str] = []
    task = kerasneuro.finetune(
        "nobrainer-unet",
        pairs,
        start="random",
        config={"filters": 1, "batchnorm": True},
        classes=[0, 1, 4],
        epochs=1,
        precision="mixed_bfloat16",
        accumulate=2,
        weight_decay=0.01,
        l2_sp=0.1,
        encoder_rate=0.1,
        schedule="cosine",
        clip_norm=1.0,
        freeze_normalization=True,
        validation_share=0.3,
        samples=1,
        tensorboard=False,
        loss={"generalised_dice": 1.0, "cross_entropy": 0.5},
        output=tmp_path / "run",
        say=lines.append,
        **SMALL,
    )
    assert any("2 scans for training, 1 scans for validation" in line for line in lines)
    assert (tmp_path / "run" / "samples" / "epoch-0001.png").is_file()
    assert all(variable.dtype == "float32" for variable in task.model.variables)
    assert task.model.compute_dtype == "float32"
    np.testing.assert_array_equal(arrays(task.model)["batch_normalization/moving_mean"], 0)
    found = task(pairs[0][0])
    assert set(np.unique(np.asarray(found.labels.dataobj))) <= {0, 1, 4}
    assert [row["label"] for row in found.table] == [1, 4]
    card = json.loads((tmp_path / "run" / "model" / "card.json").read_text(encoding="utf-8"))
    assert card["licence"]["note"] == "Trained from random weights."


@TORCH
def test_two_channels_widen_the_network(pairs: list[tuple[Path, Path]]) -> None:
    both = [((image, image), labels) for image, labels in pairs]
    parent = random_parent()
    task = kerasneuro.finetune(
        parent, both, classes=TUMOUR, epochs=1, freeze="all-but-head", name="both", **SMALL
    )
    assert task.model.input_shape[-1] == 2 and task.roles == ("image_1", "image_2")
    kernel = arrays(parent.model)["conv3d/kernel"]
    np.testing.assert_array_equal(
        arrays(task.model)["conv3d/kernel"], np.concatenate([kernel] * 2, axis=3) / 2
    )
    assert task(*both[0][0]).mask.shape == (24, 24, 24)
    with pytest.raises(InvalidOption, match="takes 2 images"):
        task(pairs[0][0])


@TORCH
def test_dataset_of_patches_is_taken_as_it_is(pairs: list[tuple[Path, Path]]) -> None:
    from kerasneuro.training.data import PatchDataset, standardise

    data = PatchDataset(pairs, patch_shape=16, classes=[0, 1, 4], prepare=standardise, one_hot=False)
    parent = random_parent(n_classes=3)
    task = kerasneuro.finetune(
        parent, data, freeze=lambda layer: layer.name != "conv3d_14", epochs=1, patch_shape=(16, 16, 16)
    )
    before, after = arrays(parent.model), arrays(task.model)
    different = {path for path in before if not np.array_equal(before[path], after[path])}
    assert different == {"conv3d_14/kernel", "conv3d_14/bias"}, "the head is kept where no classes are named"


def test_parents_pipeline_is_taken_where_its_scans_are_of_the_same_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parent, table = random_parent(), ClassTable.of(3)
    plan = offspring.plan_offspring(parent, ModelSettings(), table, 1)
    model = plan.build()
    config = with_options(SegmentationConfig(), {"normalise": "zscore"})
    scans = Scans([], None, 1, ("image",))
    rows = [dict.fromkeys(("loss", "dice", "val_loss", "val_dice"), 0.5)]
    monkeypatch.setattr(Scans, "shapes", lambda self: {(256, 256, 256)})
    assert isinstance(finetuned.make_task(plan, model, table, scans, config, rows), NobrainerTask)
    monkeypatch.setattr(Scans, "shapes", lambda self: {(256, 256, 160)})
    assert isinstance(finetuned.make_task(plan, model, table, scans, config, rows), BlockTask)
    own = with_options(config, {"pipeline": "own"})
    assert isinstance(finetuned.make_task(plan, model, table, scans, own, rows), NobrainerTask)
    with pytest.raises(InvalidOption, match="cannot run a network of these channels and classes"):
        finetuned.make_task(plan, model, ClassTable.of([0, 1, 4]), scans, own, rows)


def test_settings_that_cannot_be_used_are_refused(pairs: list[tuple[Path, Path]], tmp_path: Path) -> None:
    parent = random_parent()

    def refused(match: str, *arguments: Any, **options: Any) -> None:
        with pytest.raises(InvalidOption, match=match):
            kerasneuro.finetune(*(arguments or (parent, pairs)), **{"classes": TUMOUR, **options})

    refused("the nearest is epochs", epoch=3)
    refused("patch_shape must be multiples of 8", patch_shape=(12, 12, 12))
    refused("are in the training and in the validation", parent, pairs, pairs[:1])
    refused("expected a model for segmentation", "fcd-mobilenet", pairs, start="random")
    refused("has the networks 'axial', 'coronal', 'sagittal'", "fastsurfer-cnn", pairs, start="random")
    refused("needs a name of its own", name="deepbet")
    refused("cannot run a network of these", classes=[0, 1, 4], pipeline="own", **SMALL)
    refused("no loss is named 'dise'", loss="dise", **SMALL)
    refused("optimizer is a function", optimizer="adam")
    refused("gives 1 channels, 3 are needed", head="keep", classes=3)
    (tmp_path / "model").mkdir()
    with pytest.raises(OutputError, match="holds a training run already"):
        kerasneuro.finetune(parent, pairs, classes=TUMOUR, output=tmp_path)


def test_run_goes_on_with_its_own_settings_and_scans_alone(
    trained: tuple[kerasneuro.Task, kerasneuro.Task, Path], pairs: list[tuple[Path, Path]]
) -> None:
    parent, _, output = trained
    options = {**SMALL, "epochs": 2, "orientation": "RAS", "name": "tumour-1"}
    go_on: dict[str, Any] = {"classes": TUMOUR, "output": output, "resume": True}
    with pytest.raises(InvalidOption, match=r"started with another fit\.learning_rate"):
        kerasneuro.finetune(parent, pairs[:2], pairs[2:], **go_on, **{**options, "learning_rate": 0.1})
    with pytest.raises(InvalidOption, match="the scans are not those"):
        kerasneuro.finetune(parent, pairs[:1], pairs[2:], **go_on, **options)


def test_subjects_are_divided_as_a_whole(pairs: list[tuple[Path, Path]]) -> None:
    found = find_scans(pairs, None, with_options(SegmentationConfig(), {}).data, 0)
    training, held_out = divide(found.training, 0.34, 0)
    assert len(training) == 2 and len(held_out) == 1
    assert divide(found.training, 0.34, 0) == (training, held_out)
    with pytest.raises(InvalidOption, match="two subjects or more"):
        divide(found.training[:1], 0.5, 0)


@TORCH
def test_example_of_the_readme_runs_as_it_is_written(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = (part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "finetune(" in part)
    # Fewer and smaller scans, fewer epochs, and a parent that needs no download; all else as it stands.
    for long, short in (
        ("range(16)", "range(2)"),
        ("range(16, 20)", "range(2, 3)"),
        ("epochs=20", "epochs=1, patch_shape=(16, 16, 16), patches_per_volume=1"),
        ('"nobrainer-brainy"', "parent"),
    ):
        assert long in block
        block = block.replace(long, short)
    for number, (image, labels) in enumerate(MAKER["make_pairs"](tmp_path / "made", 4)):
        name = "new" if number == 3 else str(number)
        (tmp_path / "scans").mkdir(exist_ok=True)
        scan, truth = nibabel.load(image), nibabel.load(labels)
        nibabel.save(scan, tmp_path / "scans" / f"{name}_T1.nii.gz")
        mask = nibabel.Nifti1Image((np.asarray(truth.dataobj) > 0).astype(np.uint8), truth.affine)
        nibabel.save(mask, tmp_path / "scans" / f"{name}_labels.nii.gz")
    monkeypatch.chdir(tmp_path)
    weights = fixtures / "nobrainer" / "unet_b1_full.h5"
    names = {"parent": kerasneuro.load("nobrainer-brainy", weights=weights)}
    exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "out" / "new_T1_mask.nii.gz").is_file()
    assert names["again"].card.name == "nobrainer-brainy-finetuned"
