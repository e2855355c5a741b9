"""``kerasneuro register`` with the options of ``mri_synthmorph register``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner

from kerasneuro.cli import registering
from kerasneuro.cli.register import register_command
from kerasneuro.volume.transform import Affine, Warp
from kerasneuro.volume.transform_io import load_transform

SMALL = ("-e", "64")


@pytest.fixture(scope="module")
def folder(fixtures: Path) -> Path:
    return fixtures / "synthmorph" / "e2e"


@pytest.fixture
def register(call: Any, folder: Path, own_cache: Path) -> Any:
    """Register the two scans; further options are given by the test."""

    def run(*options: object) -> Any:
        return call("register", folder / "moving.nii.gz", folder / "fixed.nii.gz", *options)

    return run


def test_command_of_the_issue_gives_what_the_original_gives(
    register: Any, folder: Path, tmp_path: Path
) -> None:
    moved, warp = tmp_path / "moved.nii.gz", tmp_path / "warp.nii.gz"
    weights = ("-w", folder / "affine.h5", "-w", folder / "deform.h5")
    outcome = register("-m", "joint", "-e", 192, "-o", moved, "-t", warp, *weights)
    assert outcome.code == 0 and outcome.out.split() == [str(moved), str(warp)]
    images = [nibabel.load(path) for path in (moved, folder / "joint.moved.nii.gz")]
    assert images[0].get_data_dtype() == np.float32
    np.testing.assert_allclose(images[0].affine, images[1].affine, rtol=0, atol=1e-3)
    np.testing.assert_allclose(images[0].get_fdata(), images[1].get_fdata(), rtol=0, atol=0.02)
    fields = [load_transform(path) for path in (warp, folder / "joint.trans.nii.gz")]
    apart = fields[0].to("disp_ras").displacement - fields[1].to("disp_ras").displacement
    assert np.linalg.norm(apart, axis=-1).max() <= 1e-2


def test_glued_letters_and_short_names(register: Any, folder: Path, tmp_path: Path) -> None:
    moved, matrix = tmp_path / "moved.nii.gz", tmp_path / "moved.lta"
    outcome = register("-mr", "-Ho", moved, "-e64", f"-t{matrix}", "-w", folder / "rigid.h5")
    assert outcome.code == 0
    assert nibabel.load(moved).shape == nibabel.load(folder / "moving.nii.gz").shape
    assert isinstance(load_transform(matrix), Affine)


def test_every_output_and_option_of_a_warp(register: Any, folder: Path, tmp_path: Path) -> None:
    names = ("moved.mgz", "fixed_moved.nii", "warp.mgz", "inverse.nii.gz", "jacobian.nii.gz")
    files = [tmp_path / name for name in names]
    outputs = [
        part for pair in zip(("-o", "-O", "-t", "-T", "--jacobian"), files, strict=True) for part in pair
    ]
    initial = ("-i", folder / "affine.trans.lta", "-M", "-r", 0.4, "-n", 5, "-d", tmp_path)
    page = ("--report", tmp_path / "page.html")
    outcome = register("-md", *SMALL, *outputs, *initial, *page, "-w", folder / "deform.h5", "--json", "-v")
    assert outcome.code == 0, outcome.err
    document = outcome.json
    pages = [tmp_path / "page.html", tmp_path / "page.png"]
    assert [Path(path) for path in document["files"].values()] == [*files, *pages]
    assert all(path.stat().st_size > 1000 for path in pages)
    assert document["provenance"]["options"]["steps"] == 5 and document["model"] == "synthmorph-deform"
    assert {"folding_percent", "overlap_percent"} <= document["summary"].keys()
    forward, inverse = load_transform(files[2]), load_transform(files[3])
    assert isinstance(forward, Warp) and isinstance(inverse, Warp)
    assert forward.source == inverse.target and forward.target == inverse.source
    assert nibabel.load(files[4]).shape == nibabel.load(files[0]).shape
    assert (tmp_path / "inp_1.mgz").exists()


def test_forms_of_itk(register: Any, folder: Path, tmp_path: Path) -> None:
    matrix, field = tmp_path / "matrix.txt", tmp_path / "field.nii.gz"
    assert register("-ma", *SMALL, "-t", matrix, "-w", folder / "affine.h5").code == 0
    assert matrix.read_text().startswith("#Insight Transform File")
    options = ("-t", field, "--transform-format", "itk", "-w", folder / "deform.h5")
    assert register("-md", *SMALL, *options).code == 0
    assert int(nibabel.load(field).header["intent_code"]) == 1007


@pytest.mark.parametrize("order", [("affine.h5", "deform.h5"), ("deform.h5", "affine.h5")])
def test_content_tells_the_weights_apart(order: tuple[str, str], folder: Path, tmp_path: Path) -> None:
    from kerasneuro import registry

    # Under names that say nothing.
    paths = [Path(shutil.copy(folder / name, tmp_path / f"{n}.h5")) for n, name in enumerate(order)]
    found = registering.sort_weights(tuple(paths), registry.get("synthmorph-joint"))
    assert found == {name.partition(".")[0]: path for name, path in zip(order, paths, strict=True)}
    assert registering.sort_weights(tuple(paths), registry.get("synthmorph-affine")) == found["affine"]
    assert registering.sort_weights((), registry.get("synthmorph-joint")) is None


def test_older_models(register: Any, call: Any, fixtures: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("one.nii.gz", "two.nii.gz"):
        image = nibabel.Nifti1Image(rng.random((32, 32, 16), np.float32), np.eye(4))
        nibabel.save(image, tmp_path / name)
    moved = tmp_path / "moved.nii.gz"
    weights = ("-w", fixtures / "synthmorph" / "vxmdense_brains.h5")
    outcome = call("register", tmp_path / "one.nii.gz", tmp_path / "two.nii.gz", "-mb", "-o", moved, *weights)
    assert outcome.code == 0 and nibabel.load(moved).shape == (32, 32, 16)
    for option in ("-M", "-H", "-e192"):
        assert register("-m", "brains", option, "-o", tmp_path / "not.nii.gz").code == 1


# Options, and words of the one sentence on stderr.
REFUSED = [
    (("-m", "x", "-o", "m.nii.gz"), "'x' is none of joint"),
    (("-m", "", "-o", "m.nii.gz"), "'' is none of joint"),
    ((), "nothing would be written"),
    (("-r", "1", "-o", "m.nii.gz"), "above 0 and below 1, found 1.0"),
    (("-r", "0", "-o", "m.nii.gz"), "above 0 and below 1, found 0.0"),
    (("-n", "4", "-o", "m.nii.gz"), "at least 5, found 4"),
    (("-M", "-o", "m.nii.gz"), "the mid-space is that of an initial transform"),
    (("-H", "-o", "m.nii.gz"), "cannot be put into a header"),
    (("-ma", "-r", "0.5", "-o", "m.nii.gz"), "a matrix has no regularisation"),
    (("-ma", "-n", "7", "-o", "m.nii.gz"), "a matrix is not integrated"),
    (("-ma", "-t", "warp.nii.gz"), "writes a matrix here; end the name with .lta"),
    (("-md", "-t", "warp.lta"), "writes a warp here; end the name with .nii.gz"),
    (("-ma", "--jacobian", "j.nii.gz"), "--jacobian is for warps"),
    (("-o", "m.txt"), "writes an image here"),
    (("-o", "m.nii.gz", "-O", "m.nii.gz"), "would both be written to"),
    (("-o", "m.nii.gz", "-w", "nowhere.h5"), "the weight file nowhere.h5 does not exist"),
    (("-o", "m.nii.gz", "-d", "nowhere"), "the debug folder nowhere does not exist"),
    (("-ma", "-i", "nowhere.lta", "-o", "m.nii.gz", "-w", "WEIGHTS"), "no such file"),
    (("-ma", "-e", "100", "-o", "m.nii.gz", "-w", "WEIGHTS"), "another multiple of 32, found 100"),
    (("-md", "-o", "m.nii.gz", "-w", "WEIGHTS"), "convolutions"),
    (("-ma", "-o", "m.nii.gz", "-w", "WEIGHTS", "-w", "WEIGHTS"), "both files of the affine network"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_bad_call_is_refused_in_one_sentence(
    options: tuple[str, ...],
    words: str,
    register: Any,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    outcome = register(*(str(folder / "affine.h5") if part == "WEIGHTS" else part for part in options))
    assert outcome.code in (1, 2) and outcome.out == ""
    assert len(outcome.errors) == 1 and words in outcome.errors[0]
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "cache"}


def test_existing_files_and_inputs_are_kept(call: Any, folder: Path, tmp_path: Path) -> None:
    scan = Path(shutil.copy(folder / "moving.nii.gz", tmp_path / "scan.nii.gz"))
    weights = ("-ma", *SMALL, "-w", folder / "affine.h5")
    for target, words in ((scan, "is an input of this run"), (tmp_path / "old.nii.gz", "exists already")):
        (tmp_path / "old.nii.gz").write_bytes(b"old")
        outcome = call("register", scan, folder / "fixed.nii.gz", "-o", target, *weights)
        assert outcome.code == 1 and words in outcome.errors[0]
    assert (tmp_path / "old.nii.gz").read_bytes() == b"old"
    options = ("-o", tmp_path / "old.nii.gz", "--overwrite")
    assert call("register", scan, folder / "fixed.nii.gz", *options, *weights).code == 0
    assert nibabel.load(tmp_path / "old.nii.gz").shape == nibabel.load(folder / "fixed.nii.gz").shape


def test_failed_run_leaves_no_folder(register: Any, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "moved.nii.gz"
    assert register("-ma", "-e", "100", "-o", target, "-w", folder / "affine.h5").code == 1
    assert not target.parent.exists()


def test_files_are_put_in_place_together(tmp_path: Path) -> None:
    files = {"moved": tmp_path / "a.nii", "transform": tmp_path / "b.lta"}
    with pytest.raises(RuntimeError), registering.temporary_names(files) as names:
        names["moved"].write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with registering.temporary_names(files) as names:
        assert {path.parent for path in names.values()} == {tmp_path}
        for path in names.values():
            path.write_bytes(b"whole")
    assert sorted(tmp_path.iterdir()) == sorted(files.values())


def test_threads_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: kept.append(cores), raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 1, 2}, raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in registering.THREAD_VARIABLES:
        monkeypatch.setenv(name, "9")
    registering.limit_threads(None)
    assert os.environ["OMP_NUM_THREADS"] == "9" and kept == []
    registering.limit_threads(2)
    assert os.environ["OMP_NUM_THREADS"] == "2" and kept == [[1, 2]]


def test_help_names_the_letters_of_the_original() -> None:
    text = CliRunner().invoke(register_command, ["--help"]).output
    for letter in "moOtTiMHrnewjgvd":
        assert f"-{letter}," in text, letter
