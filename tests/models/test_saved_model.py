"""The folder of a saved model: written whole, read after its files are proven, hostile ones refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasneuro
from kerasneuro.errors import InvalidOption, ModelNotFound, OutputError, WeightsCorrupt, WeightsMismatch
from kerasneuro.inference import Engine

IMAGE = np.random.default_rng(0).normal(size=(1, 16, 16, 16, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def task(fixtures: Path) -> kerasneuro.Task:
    return kerasneuro.load("nobrainer-brainy", weights=fixtures / "nobrainer" / "unet_b1_c6_full.h5")


@pytest.fixture(scope="module")
def saved(task: kerasneuro.Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kerasneuro.save_model(task, tmp_path_factory.mktemp("models") / "own")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """Return a copy to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def card_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "card.json").read_text(encoding="utf-8"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    card = card_of(folder)
    change(card)
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")


def test_folder_gives_the_same_task(task: kerasneuro.Task, saved: Path) -> None:
    again = kerasneuro.load(saved)
    assert type(again) is type(task) and again.card.name == task.card.name
    np.testing.assert_allclose(Engine(again.model)(IMAGE), Engine(task.model)(IMAGE), atol=1e-6)
    assert again.provenance[""]["sha256"] == card_of(saved)["parts"][""]["sha256"]
    assert again.provenance[""]["parent"]["files"][""]["sha256"] == task.provenance[""]["sha256"]
    assert kerasneuro.load(str(saved)).card == again.card


def test_saved_again_it_keeps_its_card(saved: Path, tmp_path: Path) -> None:
    second = kerasneuro.save_model(kerasneuro.load(saved), tmp_path / "second", details={"metrics": {"a": 1}})
    first, other = card_of(saved), card_of(second)
    assert other["metrics"] == {"a": 1} and other["parent"] == first["parent"]
    assert other["config"] == first["config"]


def test_weight_file_is_one_of_the_registered_model(task: kerasneuro.Task, saved: Path) -> None:
    again = kerasneuro.load("nobrainer-brainy", weights=saved / "weights.h5")
    np.testing.assert_allclose(Engine(again.model)(IMAGE), Engine(task.model)(IMAGE), atol=1e-6)


def test_plain_keras_reads_the_copy_in_safe_mode(task: kerasneuro.Task, saved: Path) -> None:
    plain = keras.models.load_model(saved / "model.keras", safe_mode=True)
    np.testing.assert_allclose(Engine(plain)(IMAGE), Engine(task.model)(IMAGE), atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="one backend shows what a new process needs")
def test_new_process_reads_the_copy_once_the_layers_are_known(task: kerasneuro.Task, saved: Path) -> None:
    code = (
        "import sys, keras; import kerasneuro.nn.registered;"
        "print(keras.models.load_model(sys.argv[1], safe_mode=True).count_params())"
    )
    command = [sys.executable, "-c", code, str(saved / "model.keras")]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(answer.stdout.split()[-1]) == task.model.count_params()


def test_every_layer_of_the_zoo_is_made_known() -> None:
    from kerasneuro.nn import registered

    listed = {module.__name__.rpartition(".")[2] for module in registered.MODULES}
    folder = Path(registered.__file__).parent
    found = {path.stem for path in folder.glob("*.py") if "@keras.saving.register" in path.read_text()}
    assert found <= listed


def test_plain_copy_is_never_opened(folder: Path) -> None:
    (folder / "model.keras").write_bytes(b"not a model")
    assert kerasneuro.load(folder).card.name == "nobrainer-brainy"
    (folder / "model.keras").unlink()
    assert kerasneuro.load(folder).card.name == "nobrainer-brainy"


def test_weights_that_were_changed_are_refused(folder: Path) -> None:
    path = folder / "weights.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(WeightsCorrupt, match=r"is not the file that card\.json was written for"):
        kerasneuro.load(folder)


@pytest.mark.parametrize(
    "name", ["../outside.h5", "/etc/passwd", "..", "sub/weights.h5", ".hidden.h5", "weights.keras", None, 7]
)
def test_card_that_points_outside_its_folder_is_refused(folder: Path, name: object) -> None:
    shutil.copy(folder / "weights.h5", folder.parent / "outside.h5")
    rewrite(folder, lambda card: card["parts"][""].update(file=name))
    with pytest.raises(WeightsCorrupt, match="must name a file of its own folder"):
        kerasneuro.load(folder)


def test_link_that_leads_out_is_refused(folder: Path) -> None:
    outside = folder.parent / "outside.h5"
    shutil.move(folder / "weights.h5", outside)
    os.symlink(outside, folder / "weights.h5")
    with pytest.raises(WeightsCorrupt, match="is a link that leads out of its folder"):
        kerasneuro.load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda card: card.update(kind="other"), "does not describe a kerasneuro model"),
        (lambda card: card.update(version=2), "has version 2, this kerasneuro reads 1"),
        (lambda card: card.pop("parts"), "lacks parts"),
        (lambda card: card.update(parts={}), "names no weight file"),
        (lambda card: card.update(base="no-such"), "which this version does not have"),
        (lambda card: card.update(family="..os"), "which this version does not have"),
        (lambda card: card.update(base="deepbet"), "which this version does not have"),
        (lambda card: card.update(pipeline="shell"), "which this version does not have"),
        (lambda card: card.update(name="../x"), "has a name or classes that cannot be used"),
        (lambda card: card.update(classes=[{"index": 0}]), "has a name or classes that cannot be used"),
        (lambda card: card["parts"][""].update(sha256="ab"), "with its SHA-256"),
        (lambda card: card["parts"][""].update(file="other.h5"), r"lacks other\.h5"),
    ],
)
def test_card_that_cannot_be_used(folder: Path, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    rewrite(folder, change)
    with pytest.raises(WeightsCorrupt, match=words) as caught:
        kerasneuro.load(folder)
    assert "\n" not in str(caught.value)


def test_file_of_another_network_is_refused(folder: Path) -> None:
    rewrite(folder, lambda card: card.update(base="nobrainer-ams"))
    with pytest.raises(WeightsMismatch, match="was converted for the model 'nobrainer-brainy'"):
        kerasneuro.load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'"text"'])
def test_damaged_card(folder: Path, content: bytes) -> None:
    (folder / "card.json").write_bytes(content)
    with pytest.raises(WeightsCorrupt) as caught:
        kerasneuro.load(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_saved_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"holds no card\.json"):
        kerasneuro.load(tmp_path)
    with pytest.raises(ModelNotFound, match="is a path, expected a registry name"):
        kerasneuro.load(tmp_path / "none")
    with pytest.raises(InvalidOption, match="brings its own weights"):
        kerasneuro.load(folder, weights=folder / "weights.h5")


def test_folder_is_written_whole_or_not_at_all(
    task: kerasneuro.Task, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match="exists already"):
        kerasneuro.save_model(task, folder)
    with pytest.raises(OutputError, match="holds no saved model and is not replaced"):
        kerasneuro.save_model(task, folder.parent, overwrite=True)
    with pytest.raises(OutputError, match="does not exist; create it first"):
        kerasneuro.save_model(task, folder / "a" / "b")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(self: keras.Model, *arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save", fail)
        with pytest.raises(OutputError, match="No space left"):
            kerasneuro.save_model(task, folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    kerasneuro.save_model(task, folder, overwrite=True)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_network_of_another_origin_is_refused(task: kerasneuro.Task, tmp_path: Path) -> None:
    other = type(task)(task.card, {"": keras.models.clone_model(task.model)})
    with pytest.raises(InvalidOption, match="was not built by kerasneuro"):
        kerasneuro.save_model(other, tmp_path / "other")
