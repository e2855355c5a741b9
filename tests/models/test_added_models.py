"""Models that were added are loaded by their name: of HSF's family, of any other, and saved folders."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import kerasneuro
from kerasneuro import hub
from kerasneuro.errors import InvalidOption, WeightsMismatch, WeightsNotFound

LABELS = ["background", "DG", "CA1", "CA2", "CA3", "SUB"]


@pytest.fixture(autouse=True)
def own_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERASNEURO_HUB", str(tmp_path / "hub"))
    monkeypatch.setenv("KERASNEURO_OFFLINE", "1")


def describe(folder: Path, source: Path, **changes: object) -> Path:
    """Put a network and its description into a folder."""
    path = folder / "network.onnx"
    shutil.copyfile(source, path)
    content = {
        "name": "my-network",
        "family": "onnx",
        "summary": "A small network with random weights.",
        "files": [{"path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}],
        "labels": LABELS,
        "licence": "MIT",
        "citation": "Nobody (2026).",
        **changes,
    }
    description = folder / "mine.json"
    description.write_text(json.dumps(content))
    return description


def test_a_network_of_hsf_by_another_name(tmp_path: Path, fixtures: Path) -> None:
    source = fixtures / "hsf" / "arunet_v4_dyn.onnx"
    hub.add(describe(tmp_path, source, family="hsf", contract={"augmented_copies": 3}))
    task = kerasneuro.load("my-network")
    (model,) = task.models.values()
    assert model.output_shape == (None, None, None, None, 6)
    assert task.card.input["augmented_copies"] == 3
    (origin,) = task.provenance.values()
    assert origin["registered"] == "my-network: network.onnx"
    with (tmp_path / "network.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(
        WeightsNotFound, match=r"network\.onnx: was not used: .* bytes, but network\.onnx has"
    ):
        kerasneuro.load("my-network")


def test_another_network_segments_a_scan(tmp_path: Path, fixtures: Path) -> None:
    import nibabel as nib

    source = fixtures / "hsf" / "unet3d_in_elu_dyn.onnx"
    with np.load(fixtures / "hsf" / f"{source.stem}.npz") as file:
        stored = {name: file[name] for name in file.files}
    classes = stored["y0"].shape[1]
    names = [f"class {index}" for index in range(classes)]
    hub.add(describe(tmp_path, source, labels=names, contract={"normalise": "none"}))
    task = kerasneuro.load("my-network")
    volume = stored["x0"][0, 0]
    result = task(nib.Nifti1Image(volume, np.eye(4)), block_shape=volume.shape, overlap=0.0, merge="constant")
    found, expected = np.asarray(result.labels.dataobj), stored["y0"][0].argmax(0)
    assert (found == expected).mean() >= 0.999
    assert [row["name"] for row in result.table] == names[1:]


def test_a_description_that_does_not_fit_the_network(tmp_path: Path, fixtures: Path) -> None:
    source = fixtures / "hsf" / "unet3d_bn_resize_dyn.onnx"
    hub.add(describe(tmp_path, source, labels=["background", "all"]))
    with pytest.raises(WeightsMismatch, match=r"does not fit the description of my-network: .* 2 classes"):
        kerasneuro.load("my-network")
    with pytest.raises(InvalidOption, match="built from its file alone"):
        kerasneuro.build("my-network")


def test_a_saved_model_by_its_added_name(tmp_path: Path, fixtures: Path) -> None:
    task = kerasneuro.load("nobrainer-brainy", weights=fixtures / "nobrainer" / "pipe_unet_b2.h5")
    folder = kerasneuro.save_model(task, tmp_path / "saved")
    hub.add(folder, name="my-brains")
    again = kerasneuro.load("my-brains")
    ours, theirs = (network.get_weights() for network in (again.model, task.model))
    assert len(ours) == len(theirs)
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))
    with pytest.raises(InvalidOption, match="brings its own weights"):
        kerasneuro.load("my-brains", weights="other.h5")
