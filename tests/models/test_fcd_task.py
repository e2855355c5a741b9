"""The FCD pipeline: preprocessing of the original, pairs, grids, optional steps, results, command line."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import nibabel
import numpy as np
import pytest

import kerasneuro
from kerasneuro import registry
from kerasneuro.cli import main
from kerasneuro.cli.run import collect_scans
from kerasneuro.errors import InvalidImage, InvalidOption, MissingDependency
from kerasneuro.models.fcd import optional, steps
from kerasneuro.models.fcd.inputs import choose_images, load_scan
from kerasneuro.models.fcd.task import FcdTask
from kerasneuro.tasks.result import RESEARCH_USE
from kerasneuro.volume import Volume

TOLERANCE = 1e-6
SMALL = (24, 30, 36)
has_gradients = keras.backend.backend() != "openvino"


@pytest.fixture(scope="module")
def folder(fixtures: Path) -> Path:
    return fixtures / "fcd"


@pytest.fixture(scope="module")
def arrays(folder: Path) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "preprocess.npz"))


@pytest.fixture(scope="module")
def task(folder: Path):
    return kerasneuro.load("fcd-mobilenet", weights=folder / "ckpt_model_key.pth")


@pytest.fixture(scope="module")
def pair(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a T1w and a FLAIR on one grid, as the only pair of a BIDS folder."""
    anat = tmp_path_factory.mktemp("bids") / "sub-01" / "anat"
    anat.mkdir(parents=True)
    t1 = nibabel.load(folder / "t1.nii.gz")
    values = t1.get_fdata()
    for name, array in (("T1w", values), ("FLAIR", np.abs(values.max() - values)[::-1])):
        nibabel.save(nibabel.Nifti1Image(array.astype("float32"), t1.affine), anat / f"sub-01_{name}.nii.gz")
    return anat / "sub-01_T1w.nii.gz", anat / "sub-01_FLAIR.nii.gz"


@pytest.mark.backend_free
@pytest.mark.parametrize(("name", "step"), [("t1", 1), ("flair", 2)])
def test_intensities_and_sizes_are_those_of_the_original(
    folder: Path, arrays: dict[str, np.ndarray], name: str, step: int
) -> None:
    scaled = steps.scale_intensity(load_scan(folder / f"{name}.nii.gz").array)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[::step, ::step, ::step], arrays[f"{name}.normalised"], atol=TOLERANCE)
    for shape in (SMALL, (50, 31, 40)):
        found = steps.resize(scaled, shape)
        expected = arrays[f"{name}.resized_{'x'.join(map(str, shape))}"]
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    full = steps.resize(scaled, steps.SHAPE)
    np.testing.assert_allclose(full[::8, ::8, ::8], arrays[f"{name}.resized_128_sub8"], atol=TOLERANCE)
    planes = [np.take(full, -1, axis)[::4, ::4] for axis in range(3)]
    np.testing.assert_allclose(planes, arrays[f"{name}.resized_128_lastplanes"], atol=TOLERANCE)
    statistics = [full.mean(dtype=np.float64), full.std(dtype=np.float64), full.min(), full.max()]
    np.testing.assert_allclose(statistics, arrays[f"{name}.resized_128_stats"], atol=TOLERANCE)


@pytest.mark.backend_free
@pytest.mark.parametrize("case", ["constant", "all_nonpositive", "single_positive", "negatives"])
def test_edge_cases_are_those_of_the_original(arrays: dict[str, np.ndarray], case: str) -> None:
    found = steps.scale_intensity(arrays[f"edge.{case}.in"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, arrays[f"edge.{case}.out"], atol=TOLERANCE)


@pytest.mark.backend_free
def test_last_plane_of_the_original_zoom_is_kept_as_it_is(arrays: dict[str, np.ndarray]) -> None:
    given, expected = arrays["zoomtrap.in"], arrays["zoomtrap.out"]
    np.testing.assert_allclose(steps.resize(given, expected.shape), expected, atol=TOLERANCE)
    assert not expected[-1].any()
    repaired = steps.resize(given, expected.shape, "nearest")
    assert repaired[-1].any()
    np.testing.assert_allclose(repaired[:-1, :, :-1], expected[:-1, :, :-1], atol=TOLERANCE)


@pytest.mark.parametrize(("shape", "name"), [(steps.SHAPE, "pipeline"), (SMALL, "pipeline_small")])
def test_whole_pipeline_gives_the_logits_of_the_original(
    task, folder: Path, arrays: dict[str, np.ndarray], shape: tuple[int, ...], name: str
) -> None:
    result = task(folder / "t1.nii.gz", folder / "flair.nii.gz", shape=shape, check_grid=False)
    np.testing.assert_allclose(result.logits, arrays[f"{name}_logits"][0], rtol=1e-5, atol=1e-4)
    if f"{name}_probabilities" in arrays:
        np.testing.assert_allclose(result.probabilities, arrays[f"{name}_probabilities"][0], atol=1e-6)
        embedding = task.embed_batch(result.batch)[0]
        expected = arrays[f"{name}_embedding_576"][0]
        assert np.abs(embedding - expected).max() <= 1e-5 * np.abs(expected).max()
    assert result.label == result.class_names[int(np.argmax(result.logits))]


def test_pair_of_a_bids_folder_equals_the_named_files(task, pair: tuple[Path, Path]) -> None:
    named = task(*pair, shape=SMALL)
    for place in (pair[0].parent, pair[0].parent.parent, pair[0].parent.parent.parent):
        np.testing.assert_array_equal(task(place, shape=SMALL).logits, named.logits)
    assert named.batch.shape == (1, *SMALL, 2)
    swapped = task(pair[1], pair[0], shape=SMALL)
    assert np.abs(swapped.logits - named.logits).max() > 1e-3


def test_result_on_disk_holds_numbers_and_the_research_sentence(
    task, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    result = task(*pair, shape=SMALL, embedding="penultimate")
    files = result.save(tmp_path / "out")
    assert set(files) == {"prediction", "table", "embedding", "provenance"}
    assert all(RESEARCH_USE in path.read_text() for path in files.values())
    prediction = json.loads(files["prediction"].read_text())
    assert prediction["predicted_label"] == result.label
    assert prediction["probability_control"] + prediction["probability_FCD"] == pytest.approx(1)
    with files["table"].open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["probability_FCD"]) == pytest.approx(result.probabilities[1])
    embedding = json.loads(files["embedding"].read_text())["values"]
    np.testing.assert_allclose(embedding, task.embed(*pair, layer="penultimate", shape=SMALL), rtol=1e-6)
    assert len(embedding) == 256
    assert json.loads(files["provenance"].read_text())["inputs"]["flair"]["path"] == str(pair[1])


def test_network_of_one_channel_takes_one_image(fixtures: Path, pair: tuple[Path, Path]) -> None:
    model = kerasneuro.build("fcd-mobilenet", in_channels=1, classes=1, width=0.125)
    single = FcdTask(registry.get("fcd-mobilenet"), {"": model})
    result = single(flair=pair[1], shape=SMALL)
    assert result.batch.shape == (1, *SMALL, 1)
    odds = np.log(result.probabilities[1] / result.probabilities[0])
    assert odds == pytest.approx(float(result.logits[0]), rel=1e-4, abs=1e-6)
    assert result.class_names == ("control", "FCD")
    with pytest.raises(InvalidOption, match="leave one out"):
        single(*pair)
    with pytest.raises(InvalidOption, match="leave it out"):
        single(pair[0], register=True)
    with pytest.raises(InvalidOption, match="looks at T1w"):
        FcdTask(single.card, single.models, needs={"brain_extraction": list})(
            flair=pair[1], brain_extraction=True
        )


def test_images_that_do_not_fit_are_refused_in_one_sentence(
    task, folder: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    shifted = nibabel.load(pair[1])
    affine = shifted.affine.copy()
    affine[0, 3] += 1
    shifted = nibabel.Nifti1Image(shifted.get_fdata(dtype=np.float32), affine)
    shutil.copytree(pair[0].parent, tmp_path / "anat")
    shutil.copy(pair[0], tmp_path / "anat" / "sub-01_run-2_T1w.nii.gz")
    cases = [
        ((folder / "t1.nii.gz", folder / "flair.nii.gz"), "37x51x43 and 29x40x35 voxels"),
        ((pair[0], shifted), "1 mm apart"),
        ((pair[0],), "FLAIR is missing"),
        ((None, pair[1]), "T1w is missing"),
        ((tmp_path / "anat",), "2 T1w images"),
        ((folder,), "holds no"),
        ((pair[0], nibabel.Nifti1Image(np.ones((3, 3, 3, 4), "float32"), np.eye(4))), "4 volumes"),
    ]
    for images, message in cases:
        with pytest.raises(InvalidImage, match=message) as caught:
            task(*images)
        assert "\n" not in str(caught.value)


def test_wrong_options_are_refused(task, pair: tuple[Path, Path]) -> None:
    for option in (
        {"shape": (0, 1, 2)},
        {"edge": "wrap"},
        {"embedding": "all"},
        {"overlap": 0.5},
        {"nope": 1},
    ):
        with pytest.raises(InvalidOption):
            task(*pair, **option)


def test_network_of_three_channels_is_left_to_the_user(task, pair: tuple[Path, Path]) -> None:
    with pytest.raises(InvalidOption, match="3 input channels"):
        choose_images(*pair, 3, task.bids_suffixes)


def test_brain_extraction_is_loaded_when_asked_for_only(task, pair: tuple[Path, Path]) -> None:
    asked = []

    class Extraction:
        def __call__(self, scan: Volume):
            mask = np.zeros(scan.shape, "uint8")
            mask[5:-5, 5:-5, 5:-5] = 1
            return type("Masked", (), {"mask": nibabel.Nifti1Image(mask, scan.affine)})

    def load() -> Extraction:
        asked.append("deepbet")
        return Extraction()

    other = FcdTask(task.card, task.models, task.provenance, needs={"brain_extraction": load})
    plain = other(*pair, shape=SMALL)
    assert not asked
    brain = other(*pair, shape=SMALL, brain_extraction=True)
    assert asked == ["deepbet"]
    assert not brain.batch[0, 0].any()
    assert np.abs(brain.logits - plain.logits).max() > 0
    assert brain.provenance["options"]["brain_extraction"] is True
    assert set(task.needs) == {"brain_extraction"}
    with pytest.raises(InvalidOption, match="without a brain extraction"):
        FcdTask(task.card, task.models)(*pair, brain_extraction=True)


def head(shape: tuple[int, ...], affine: np.ndarray, *, bias: bool = False) -> Volume:
    """Make an ellipsoid with an off-centre core on any grid, by world coordinates."""
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(voxels @ affine[:3, :3].T + affine[:3, 3], -1, 0)
    values = 100.0 * ((x / 30) ** 2 + (y / 36) ** 2 + (z / 26) ** 2 < 1)
    values += 60.0 * (((x - 8) / 12) ** 2 + ((y + 6) / 9) ** 2 + ((z - 4) / 10) ** 2 < 1)
    return Volume((values * np.exp(x / 60) if bias else values).astype("float32"), affine)


@pytest.mark.backend_free
def test_registration_finds_a_shift_and_a_rotation() -> None:
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = (-36, -42, -32)
    fixed = head((36, 42, 32), grid)
    angle = np.radians(6)
    motion = np.eye(4)
    motion[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    motion[:3, 3] = (4, -3, 2)
    turned = Volume(
        fixed.array[::-1],
        motion @ grid @ np.array([[-1, 0, 0, 35], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    )
    moved, matrix = optional.register_rigidly(turned, fixed)
    assert moved.shape == fixed.shape
    np.testing.assert_allclose(matrix[:3, 3], motion[:3, 3], atol=0.6)
    np.testing.assert_allclose(matrix[:3, :3], motion[:3, :3], atol=0.02)
    assert np.corrcoef(moved.array.ravel(), fixed.array.ravel())[0, 1] > 0.97


@pytest.mark.backend_free
def test_bias_correction_evens_out_a_slope() -> None:
    grid = np.diag([3.0, 3.0, 3.0, 1.0])
    grid[:3, 3] = (-36, -42, -32)
    sloped, flat = head((24, 28, 22), grid, bias=True), head((24, 28, 22), grid)
    inside = flat.array == 100
    before = sloped.array[inside].std() / sloped.array[inside].mean()
    corrected = optional.correct_bias(sloped).array[inside]
    assert corrected.std() / corrected.mean() < 0.5 * before


def test_pair_on_different_grids_can_be_registered(task, pair: tuple[Path, Path]) -> None:
    flair = nibabel.load(pair[1]).slicer[2:, 1:]
    result = task(pair[0], flair, register=True, shape=SMALL)
    assert result.batch.shape == (1, *SMALL, 2)
    assert np.asarray(result.provenance["t1_to_flair_ras_mm"]).shape == (4, 4)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command line in this process: exit code, and what it said on stderr."""

    def call(*arguments: object) -> tuple[int, str]:
        code = main(["run", "fcd-mobilenet", *map(str, arguments)])
        return code, capsys.readouterr().err

    return call


def test_command_line_writes_prediction_and_heat_map(
    run, pair: tuple[Path, Path], folder: Path, tmp_path: Path
) -> None:
    explain = ["--explain", "grad-cam"] if has_gradients else []
    weights = ["--weights", folder / "ckpt_model_key.pth", "--shape", *SMALL]
    code, said = run("--t1", pair[0], "--flair", pair[1], *weights, "-o", f"{tmp_path}/out/", *explain)
    assert code == 0, said
    names = {path.name.removeprefix("sub-01_T1w_") for path in (tmp_path / "out").iterdir()}
    pictures = {"heatmap.nii.gz", "heatmap_slices.png", "heatmap_head.png"} if explain else set()
    assert names == {"prediction.json", "table.csv", "provenance.json"} | pictures
    if explain:
        heat = nibabel.load(tmp_path / "out" / "sub-01_T1w_heatmap.nii.gz")
        scan = nibabel.load(pair[0])
        assert heat.shape == scan.shape
        np.testing.assert_allclose(heat.affine, scan.affine)
        assert heat.header["descrip"].item().decode() == RESEARCH_USE
        values = heat.get_fdata()
        assert 0 <= values.min() < values.max() <= 1


@pytest.mark.backend_free
def test_command_line_finds_the_pairs_of_folders(pair: tuple[Path, Path]) -> None:
    wanted = {"t1": pair[0], "flair": pair[1]}
    subject, data_set = pair[0].parent.parent, pair[0].parent.parent.parent
    assert collect_scans(FcdTask, (data_set, subject), {}) == [wanted, wanted]
    assert collect_scans(FcdTask, (pair[1],), {"role_t1": pair[0]}) == [wanted]
    assert collect_scans(FcdTask, (), {"role_flair": pair[1]}) == [{"flair": pair[1]}]


def test_command_line_says_in_one_sentence_what_is_wrong(
    run, pair: tuple[Path, Path], folder: Path, tmp_path: Path
) -> None:
    weights = ["--weights", folder / "ckpt_model_key.pth"]
    out = ["-o", f"{tmp_path}/out/"]
    cases = [
        ([pair[0], *weights, *out], 1, "FLAIR is missing"),
        ([*weights, *out], 2, "expected"),
        ([*pair, pair[0], *weights, *out], 2, "takes 2 images"),
        ([*pair, *out], 1, "weights=PATH"),
        ([folder / "t1.nii.gz", folder / "flair.nii.gz", *weights, *out], 1, "different grids"),
        ([*pair, *weights, *out, "--explain", "magic"], 2, "magic"),
    ]
    for arguments, code, message in cases:
        found, said = run(*arguments)
        assert found == code, (arguments, said)
        assert message in said
        assert "Traceback" not in said
        assert not (tmp_path / "out").exists()


@pytest.mark.backend_free
def test_missing_simpleitk_is_said_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(MissingDependency, match=r"kerasneuro\[itk\]"):
        optional.require_simpleitk()
