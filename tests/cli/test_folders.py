"""Many scans: those of a folder that fit a pattern, without those that have results."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import pytest

from kerasneuro.cli.folders import expand_folders
from kerasneuro.cli.plan import plan_jobs
from kerasneuro.errors import InvalidImage, InvalidOption, OutputError
from kerasneuro.tasks import Task

pytestmark = pytest.mark.backend_free


class Labelling(Task):
    outputs: ClassVar[Mapping[str, str]] = MappingProxyType({"labels": ".nii.gz", "table": ".csv"})
    main_output: ClassVar[str] = "labels"


@pytest.fixture
def study(tmp_path: Path, fixtures: Path) -> Path:
    for name in ("sub-1/sub-1_T1w.nii.gz", "sub-10/sub-10_T1w.nii.gz", "sub-10/sub-10_T2w.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(fixtures / "hsf" / "orientation" / "native_RAS_0.nii.gz", tmp_path / name)
    for result in ("labels", "right_hippocampus_seg"):
        (tmp_path / "sub-1" / f"sub-1_T1w_{result}.nii.gz").touch()
    return tmp_path


def test_a_pattern_finds_scans_and_no_results(study: Path):
    found = expand_folders(Labelling, [study, Path("other.nii.gz")], "**/*T1w*.nii.gz")
    assert [path.name for path in found] == ["sub-1_T1w.nii.gz", "sub-10_T1w.nii.gz", "other.nii.gz"]
    assert len(expand_folders(Labelling, [study / "sub-10"], "*.nii.gz")) == 2


def test_images_alone_are_taken_as_they_are():
    paths = [Path("a.nii.gz"), Path("b.nii.gz")]
    assert expand_folders(Labelling, paths, None) == paths


@pytest.mark.parametrize(
    ("place", "pattern", "reason"),
    [
        (".", None, r"is a folder; say which images in it are run"),
        ("sub-1/sub-1_T1w.nii.gz", "*.nii.gz", "give a folder as the image"),
        (".", "/absolute/*.nii.gz", "--pattern '/absolute/"),
    ],
)
def test_folders_and_patterns_belong_together(study: Path, place: str, pattern: str | None, reason: str):
    with pytest.raises(InvalidOption, match=reason):
        expand_folders(Labelling, [study / place], pattern)


def test_a_folder_without_fitting_images_is_refused(study: Path):
    with pytest.raises(InvalidImage, match=r"holds no image that fits '\*_FLAIR.nii.gz'; check"):
        expand_folders(Labelling, [study], "*_FLAIR.nii.gz")
    with pytest.raises(InvalidImage, match="but 2 results"):
        expand_folders(Labelling, [study / "sub-1"], "*T1w_*.nii.gz")


def test_a_scan_with_results_is_left_out_and_a_longer_name_does_not_count(study: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub-10_T1w_labels.nii.gz").touch()
    scans = [{"image": path} for path in sorted(study.glob("*/*_T1w.nii.gz"))]

    def plan(skip_existing: bool) -> list[str]:
        jobs = plan_jobs(
            Labelling,
            scans,
            str(out),
            outputs=None,
            report=False,
            overwrite=False,
            skip_existing=skip_existing,
        )
        return [job.stem for job in jobs]

    assert plan(True) == ["sub-1_T1w"]
    with pytest.raises(OutputError, match=r"sub-10_T1w_labels\.nii\.gz exists already"):
        plan(False)
    (out / "sub-1_T1w_labels.nii.gz").touch()
    assert plan(True) == []
