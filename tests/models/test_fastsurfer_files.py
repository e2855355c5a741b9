"""From a scan to files: the FastSurfer task with the original's classes in place of its networks'."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from kerasneuro import registry
from kerasneuro.errors import InvalidOption
from kerasneuro.models.fastsurfer.aggregation import CLASSES
from kerasneuro.models.fastsurfer.graph import build
from kerasneuro.models.fastsurfer.slices import PLANES
from kerasneuro.models.fastsurfer.task import TASK, FastSurferTask
from kerasneuro.tasks import Result
from kerasneuro.volume import conform_mgh, load

pytestmark = pytest.mark.backend_free  # The networks are not asked.
CARD = registry.get("fastsurfer-cnn")
IMAGES = ("labels", "aseg", "mask", "conformed")


@pytest.fixture(scope="module")
def folder(fixtures: Path) -> Path:
    return fixtures / "fastsurfer"


@pytest.fixture(scope="module")
def weights(folder: Path) -> dict[str, Path]:
    return {part: folder / f"e2e_{part}.pkl" for part in PLANES}


@pytest.fixture(scope="module")
def task() -> FastSurferTask:
    """The task with networks that have the right classes and nothing else."""
    models = {part: build(filters=1, classes=CLASSES[part]) for part in PLANES}
    return FastSurferTask(CARD, models, {})


@pytest.fixture(scope="module")
def reference(folder: Path) -> dict:
    stored = np.load(folder / "e2e_result.npz")
    meta = json.loads(str(stored["meta"]))
    box = tuple(slice(*edge) for edge in zip(meta["crop_lo"], meta["crop_hi"], strict=True))
    return {**stored, **meta, "box": box}


@pytest.fixture(scope="module")
def known(task: FastSurferTask, reference: dict) -> Iterator[FastSurferTask]:
    """The task with the original's classes in place of what its networks give."""
    classes = np.zeros((256, 256, 256), np.uint8)
    classes[reference["box"]] = reference["class_index_crop"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "classify", lambda volume, settings, work_dir: classes)
        yield task


@pytest.fixture(scope="module")
def result(known: FastSurferTask, folder: Path) -> Result:
    return known(folder / "e2e_t1.nii.gz")


# --- from scan to files --------------------------------------------------------------------------------


def test_result_of_the_original(result: Result, reference: dict) -> None:
    labels = np.asarray(result.labels.dataobj)
    np.testing.assert_array_equal(labels[reference["box"]], reference["labels_crop"])
    assert np.count_nonzero(labels) == np.count_nonzero(reference["labels_crop"])
    for name in IMAGES:
        image = getattr(result, name)
        assert image.shape == (256, 256, 256)
        np.testing.assert_array_equal(image.affine, reference["affine"])
    assert [getattr(result, name).get_data_dtype().name for name in IMAGES] == ["int16", *["uint8"] * 3]
    assert result.provenance["options"]["batch_size"] == 8 and "date" in result.provenance
    assert sum(row["voxels"] for row in result.table) == np.count_nonzero(labels)


def test_files_of_a_deterministic_run_are_the_same_again(
    known: FastSurferTask, folder: Path, tmp_path: Path
) -> None:
    written = []
    for name in ("one", "two"):
        result = known(folder / "e2e_t1.nii.gz", deterministic=True, clean=True)
        written.append(result.save(tmp_path / name))
    assert set(written[0]) == set(FastSurferTask.outputs)
    for name, path in written[0].items():
        assert path.read_bytes() == written[1][name].read_bytes(), name
    colours = written[0]["colours"].read_text().splitlines()
    assert len(colours) == 97
    volumes = json.loads(written[0]["volumes"].read_text())
    assert len(volumes["structures"]) == 95
    again = nibabel.load(written[0]["labels"])
    assert again.get_data_dtype().name == "int16" and written[0]["labels"].suffix == ".mgz"
    found = {int(line.split()[0]) for line in colours[1:]}
    assert set(np.unique(np.asarray(again.dataobj))) <= found


def test_one_file_holds_the_labels(result: Result, tmp_path: Path) -> None:
    written = result.save(tmp_path / "aparc.nii.gz")
    assert list(written) == ["labels"] and [path.name for path in tmp_path.iterdir()] == ["aparc.nii.gz"]
    image = nibabel.load(written["labels"])
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(result.labels.dataobj))
    np.testing.assert_array_equal(image.affine, result.labels.affine)


def test_labels_on_the_grid_of_the_scan(known: FastSurferTask, folder: Path) -> None:
    scan = nibabel.load(folder / "e2e_t1.nii.gz")
    result = known(folder / "e2e_t1.nii.gz", space="native")
    labels = np.asarray(result.labels.dataobj)
    assert labels.shape == scan.shape and labels.dtype == np.int16
    np.testing.assert_array_equal(result.labels.affine, scan.affine)
    assert result.mask.shape == result.aseg.shape == scan.shape and result.conformed.shape == (256, 256, 256)
    # What was labelled in 1 mm voxels has the same volume in the scan's own, and lies on the brain.
    voxel = abs(np.linalg.det(scan.affine[:3, :3]))
    conformed_mm3 = sum(row["volume_mm3"] for row in result.table)
    assert np.count_nonzero(labels) * voxel == pytest.approx(conformed_mm3, rel=0.02)
    assert (np.asarray(scan.dataobj)[labels > 0] > 0).mean() > 0.95


def test_quality_page_in_the_colours_of_freesurfer(result: Result) -> None:
    from kerasneuro.report.quality import gather

    quality, scene = gather(result)
    regions = {region.label: region for region in scene.regions}
    assert regions[17].name == "Left-Hippocampus" and regions[17].colour == "#dcd814"
    np.testing.assert_array_equal(
        np.sort(scene.scan.ravel()), np.sort(np.asarray(result.conformed.dataobj).ravel())
    )
    assert len(quality.table) == 95 and quality.warnings


# --- what is told of the scan


def test_conformed_grid_of_another_type_is_told(known: FastSurferTask, folder: Path) -> None:
    conformed, _ = conform_mgh(load(folder / "e2e_t1.nii.gz", dtype=None))
    image = nibabel.MGHImage(conformed.array.astype(np.int16), conformed.affine)
    result = known(image)
    assert any("stored as int16 instead of uint8" in warning for warning in result.warnings)
    assert "\n" not in "".join(result.warnings)


def test_cropped_field_of_view_is_told(known: FastSurferTask, folder: Path) -> None:
    scan = nibabel.load(folder / "e2e_t1.nii.gz")
    middle = scan.shape[2] // 2
    result = known(scan.slicer[:, :, middle - 20 : middle + 20])
    assert any("field of view is cropped" in warning for warning in result.warnings)


# --- the command line ----------------------------------------------------------------------------------


def test_names_of_the_original_options() -> None:
    from kerasneuro.cli.run import model_command

    names = {name for option in model_command(CARD).params for name in option.opts}
    assert {
        "--clean",
        "--clean_seg",
        "--batch_size",
        "--in_name",
        "--t1",
        "--csv_file",
        "--work-dir",
    } <= names
    assert {"--space", "--deterministic"} <= names and TASK is FastSurferTask


def test_list_of_subjects(tmp_path: Path, folder: Path) -> None:
    from kerasneuro.cli.plan import plan_jobs
    from kerasneuro.cli.subjects import list_subjects

    for subject in ("sub-01", "sub-02"):
        (tmp_path / subject).mkdir()
        shutil.copy(folder / "conform_input.mgz", tmp_path / subject / "orig.mgz")
    subjects = tmp_path / "subjects.csv"
    subjects.write_text(f"{tmp_path / 'sub-01'}\n\n{tmp_path / 'sub-02'}/\n")
    scans, stems = list_subjects(FastSurferTask, subjects, [])
    assert stems == ["sub-01", "sub-02"]
    assert [scan["image"].name for scan in scans] == ["orig.mgz", "orig.mgz"]
    out = str(tmp_path / "out")
    jobs = plan_jobs(FastSurferTask, scans, out, outputs=None, report=False, overwrite=False, stems=stems)
    assert [job.files["labels"].name for job in jobs] == ["sub-01_labels.mgz", "sub-02_labels.mgz"]
    named, _ = list_subjects(FastSurferTask, subjects, [{"image": Path("mri/001.mgz")}])
    assert named[0]["image"] == tmp_path / "sub-01" / "mri" / "001.mgz"
    (tmp_path / "empty.csv").write_text("\n")
    with pytest.raises(InvalidOption, match="names no folder"):
        list_subjects(FastSurferTask, tmp_path / "empty.csv", [])
    with pytest.raises(InvalidOption, match="cannot be read"):
        list_subjects(FastSurferTask, tmp_path / "missing.csv", [])
