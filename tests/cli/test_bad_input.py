"""Whatever is wrong with the input: one sentence, a failing exit code, and no file left behind."""

from __future__ import annotations

import errno
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import kerasneuro

Call = Callable[..., Any]


def assert_refused(outcome: Any, *words: str) -> None:
    assert outcome.code == 1
    assert outcome.out == ""
    (line,) = outcome.errors
    assert line.startswith("kerasneuro: error: ")
    assert "unexpected" not in line and "Traceback" not in outcome.err
    for word in words:
        assert word in line


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with one file of the user's; nothing else may be in it after a failure."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    return folder


def untouched(out: Path) -> bool:
    return os.listdir(out) == ["notes.txt"] and (out / "notes.txt").read_text() == "mine"


# Weights.


def missing_weights(path: Path, good: Path) -> None:
    """There is no file."""


def garbage(path: Path, good: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def empty_file(path: Path, good: Path) -> None:
    path.write_bytes(b"")


def truncated_weights(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def text_as_weights(path: Path, good: Path) -> None:
    path.write_text("<html>404 not found</html>")


@pytest.mark.parametrize("spoil", [missing_weights, garbage, empty_file, truncated_weights, text_as_weights])
def test_bad_weights(
    spoil: Callable[[Path, Path], None], call: Call, scan: Path, weights: Path, out: Path, tmp_path: Path
) -> None:
    path = tmp_path / "weights.h5"
    spoil(path, weights)
    outcome = call("run", "nobrainer-brainy", scan, "--weights", path, "-o", out)
    assert_refused(outcome, "weights.h5")
    assert untouched(out)


def test_weights_of_another_model(call: Call, scan: Path, weights: Path, out: Path) -> None:
    other = ("--weights", f"bbox={weights}", "--weights", f"brain={weights}")
    assert_refused(call("run", "deepbet", scan, *other, "-o", out))
    assert untouched(out)


@pytest.mark.parametrize("given", [["a.pt"], ["bbox=a.pt"], ["a.pt", "b.pt", "c.pt"], ["bbox=a.pt", "b.pt"]])
def test_wrong_number_of_weight_files(call: Call, scan: Path, out: Path, given: list[str]) -> None:
    entries = [word for entry in given for word in ("--weights", entry)]
    assert_refused(call("run", "deepbet", scan, *entries, "-o", out), "part" if len(given) < 3 else "3")
    assert untouched(out)


@pytest.mark.filterwarnings("default:Removed a damaged file")
@pytest.mark.parametrize("offline", ["1", ""])
def test_wrong_digest_in_the_cache(
    call: Call, scan: Path, out: Path, own_cache: Path, offline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerasneuro import registry
    from kerasneuro.fetching.cache import path_for

    file = registry.get("nobrainer-brainy").files[0]
    place = path_for(file)
    place.parent.mkdir(parents=True)
    with place.open("wb") as target:
        target.truncate(file.bytes)
    monkeypatch.setenv("KERASNEURO_OFFLINE", offline)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert_refused(call("run", "nobrainer-brainy", scan, "-o", out), file.name)
    assert untouched(out)


def test_no_network(
    call: Call, scan: Path, out: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    outcome = call("run", "nobrainer-brainy", scan, "-o", out)
    assert_refused(outcome, "brain-extraction-unet-128iso-model.h5", "KERASNEURO_WEIGHTS")
    assert untouched(out)


def test_cache_that_cannot_be_written(
    call: Call, scan: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("KERASNEURO_CACHE", str(tmp_path / "file" / "cache"))
    assert_refused(call("run", "nobrainer-brainy", scan, "-o", out), "KERASNEURO_CACHE")
    assert untouched(out)


# Scans.


def save(array: np.ndarray, path: Path, affine: np.ndarray | None = None) -> None:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)


def not_an_image(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(4000))


def text_file(path: Path) -> None:
    path.write_text("subject,age\n1,40\n" * 50)


def no_bytes(path: Path) -> None:
    path.write_bytes(b"")


def truncated_gz(path: Path) -> None:
    whole = path.with_name("whole.nii.gz")
    save(noise(40, 40, 40), whole)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.unlink()


def header_promises_more(path: Path) -> None:
    whole = path.with_name("whole.nii")
    save(noise(20, 20, 20), whole)
    content = bytearray(whole.read_bytes())
    content[42:48] = np.array([60, 60, 60], "<i2").tobytes()  # dim[1..3] of the header
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    whole.unlink()


def two_axes(path: Path) -> None:
    save(noise(40, 40), path)


def four_axes(path: Path) -> None:
    save(noise(20, 20, 20, 3), path)


def empty_axis(path: Path) -> None:
    save(np.zeros((20, 0, 20), np.float32), path)


def only_zeros(path: Path) -> None:
    save(np.zeros((20, 20, 20), np.float32), path)


def not_a_number(path: Path) -> None:
    array = noise(20, 20, 20)
    array[3, 4, 5] = np.nan
    save(array, path)


def header_with(path: Path, **fields: Any) -> None:
    """Write a valid image, then fields of its header as they could not be set by nibabel."""
    whole = path.with_name("whole.nii")
    save(noise(20, 20, 20), whole)
    content = bytearray(whole.read_bytes())
    header = np.ndarray((), nibabel.nifti1.header_dtype, buffer=content)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    whole.unlink()


def negative_zooms(path: Path) -> None:
    header_with(path, pixdim=[1, -1, -1, -1, 0, 0, 0, 0], sform_code=0, qform_code=1)


def singular_affine(path: Path) -> None:
    header_with(
        path, sform_code=1, qform_code=0, srow_x=[1, 0, 0, 0], srow_y=[1, 0, 0, 0], srow_z=[0, 0, 1, 0]
    )


BAD_SCANS = [
    (not_an_image, "scan.nii.gz"),
    (not_an_image, "scan.mgz"),
    (text_file, "scan.nii"),
    (no_bytes, "scan.nii.gz"),
    (truncated_gz, "scan.nii.gz"),
    (header_promises_more, "scan.nii"),
    (header_promises_more, "scan.nii.gz"),
    (two_axes, "scan.nii.gz"),
    (four_axes, "scan.nii.gz"),
    (empty_axis, "scan.nii.gz"),
    (only_zeros, "scan.nii.gz"),
    (not_a_number, "scan.nii.gz"),
    (negative_zooms, "scan.nii.gz"),
    (singular_affine, "scan.nii.gz"),
    (lambda path: None, "scan.nii.gz"),
    (lambda path: path.mkdir(), "scan.nii.gz"),
]


@pytest.mark.parametrize(("make", "name"), BAD_SCANS)
def test_bad_scan(make: Callable[[Path], None], name: str, brainy: Call, out: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    make(path)
    before = sorted(os.listdir(tmp_path))
    assert_refused(brainy(path, "-o", out), name)
    assert untouched(out)
    assert sorted(os.listdir(tmp_path)) == before


# Targets.


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kerasneuro, "load", lambda *a, **k: pytest.fail("the model was loaded"))


@pytest.mark.usefixtures("nothing_is_loaded")
class TestTargets:
    def test_folder_without_parent(self, brainy: Call, scan: Path, tmp_path: Path) -> None:
        assert_refused(brainy(scan, "-o", tmp_path / "no" / "such"), "does not exist")
        assert_refused(brainy(scan, "-o", tmp_path / "no" / "such" / "mask.nii.gz"), "does not exist")
        assert os.listdir(tmp_path) == []

    def test_folder_that_is_a_file(self, brainy: Call, scan: Path, out: Path) -> None:
        assert_refused(brainy(scan, "-o", f"{out}/notes.txt/"), "notes.txt")
        assert untouched(out)

    def test_name_that_is_neither_folder_nor_image(self, brainy: Call, scan: Path, out: Path) -> None:
        assert_refused(brainy(scan, "-o", out / "mask.png"), "mask.png", ".nii.gz")
        assert untouched(out)

    def test_folder_that_cannot_be_written(
        self, brainy: Call, scan: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def denied(*args: object, **options: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr("kerasneuro.tasks.result.tempfile.TemporaryFile", denied)
        assert_refused(brainy(scan, "-o", out), "not writable", "Permission denied")
        assert untouched(out)

    def test_new_folder_is_not_left_behind(
        self, brainy: Call, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def denied(*args: object, **options: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr("kerasneuro.tasks.result.tempfile.TemporaryFile", denied)
        assert_refused(brainy(scan, "-o", tmp_path / "new"), "not writable")
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("name", ["mask.nii.gz", "mask_report.png"])
    def test_existing_output(self, brainy: Call, scan: Path, out: Path, name: str) -> None:
        (out / name).write_text("mine, too")
        assert_refused(brainy(scan, "-o", out / "mask.nii.gz", "--report"), name, "exists")
        assert (out / name).read_text() == "mine, too"
        assert sorted(os.listdir(out)) == sorted([name, "notes.txt"])

    def test_two_scans_with_one_target(self, brainy: Call, scan: Path, out: Path, tmp_path: Path) -> None:
        other = tmp_path / "session-2" / "PIPE_T1.nii"  # One name where case and suffix do not count.
        other.parent.mkdir()
        other.write_bytes(gzip.decompress(scan.read_bytes()))
        assert_refused(brainy(scan, other, "-o", out), str(scan), str(other))
        assert_refused(brainy(scan, other, "-o", out / "mask.nii.gz"), str(scan), str(other))
        assert_refused(brainy(scan, scan, "-o", out))
        assert untouched(out)

    @pytest.mark.parametrize("spelling", ["{0}/scan.nii.gz", "{0}/../results/scan.nii.gz", "{0}/link.nii.gz"])
    def test_target_that_is_an_input(self, brainy: Call, scan: Path, out: Path, spelling: str) -> None:
        own = out / "scan.nii.gz"
        own.write_bytes(scan.read_bytes())
        os.link(own, out / "link.nii.gz")
        assert_refused(brainy(own, "-o", spelling.format(out), "--overwrite"), "input")
        assert own.read_bytes() == scan.read_bytes()
        assert sorted(os.listdir(out)) == ["link.nii.gz", "notes.txt", "scan.nii.gz"]

    def test_target_that_is_the_weight_file(self, call: Call, scan: Path, out: Path) -> None:
        weights = out / "weights.nii"
        weights.write_text("weights")
        command = ("run", "nobrainer-brainy", scan, "--weights", weights, "-o", weights, "--overwrite")
        assert_refused(call(*command), "input")
        assert weights.read_text() == "weights"

    @pytest.mark.parametrize(
        "options", [["--overlap", "1.5"], ["--batch-size", "0"], ["--max-memory", "lots"]]
    )
    def test_prediction_option_out_of_range(
        self, brainy: Call, scan: Path, out: Path, options: list[str]
    ) -> None:
        assert_refused(brainy(scan, "-o", out, *options), options[0].strip("-").replace("-", "_"))
        assert untouched(out)

    @pytest.mark.parametrize(("outputs", "word"), [("mask,brains", "brains"), (",", "--outputs")])
    def test_output_that_the_task_does_not_make(
        self, brainy: Call, scan: Path, out: Path, outputs: str, word: str
    ) -> None:
        assert_refused(brainy(scan, "-o", out, "--outputs", outputs), word)
        assert untouched(out)

    def test_several_outputs_in_one_file(self, brainy: Call, scan: Path, out: Path) -> None:
        assert_refused(brainy(scan, "-o", out / "mask.nii.gz", "--outputs", "mask,table"), "folder")
        assert untouched(out)

    def test_model_that_is_only_planned(self, call: Call, scan: Path, out: Path) -> None:
        from kerasneuro import registry

        planned = [card.name for card in registry.cards() if card.status == "planned"]
        for name in planned:
            assert_refused(call("run", name, scan, "-o", out), name)
        assert untouched(out)


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_full_disk(brainy: Call, scan: Path, out: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the files is the one that finds no space, none is left."""
    replace, done = os.replace, []

    def full(source: Any, target: Any) -> None:
        if str(out) in str(target):
            if len(done) >= after:
                raise OSError(errno.ENOSPC, "No space left on device")
            done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert_refused(brainy(scan, "-o", out), "No space left on device")
    assert untouched(out)


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_full_disk_while_files_are_put_in_place(
    brainy: Call, scan: Path, out: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, done = os.replace, []

    def full(source: Any, target: Any) -> None:
        if Path(target).parent == out:
            if len(done) >= after:
                raise OSError(errno.ENOSPC, "No space left on device")
            done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert_refused(brainy(scan, "-o", out), "No space left on device")
    assert len(done) == after
    assert untouched(out)


@pytest.mark.parametrize("threshold", ["0", "1", "-2", "nan"])
def test_option_of_the_task_out_of_range(brainy: Call, scan: Path, out: Path, threshold: str) -> None:
    assert_refused(brainy(scan, "-o", out, "--threshold", threshold), "threshold")
    assert untouched(out)
