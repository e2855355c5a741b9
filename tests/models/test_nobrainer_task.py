"""The pipeline of nobrainer against files written by ``nobrainer predict`` 1.2.1."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from kerasneuro import registry, volume
from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.models.nobrainer.graph import build
from kerasneuro.models.nobrainer.task import TASK, NobrainerTask
from kerasneuro.models.nobrainer.weights import infer_config, table
from kerasneuro.tasks import Result
from kerasneuro.weights import assign, read

SMALL = {"resize": (64, 64, 64), "block_shape": (32, 32, 32)}


def make_task(path: Path, name: str = "nobrainer-brainy") -> NobrainerTask:
    with read(path) as store:
        model = build(**infer_config(store))
        assign(model, store, table(store, model))
    return NobrainerTask(registry.get(name), {"": model}, {"": {"path": str(path)}})


@pytest.fixture(scope="module")
def folder(fixtures: Path) -> Path:
    return fixtures / "nobrainer"


@pytest.fixture(scope="module")
def binary(folder: Path) -> NobrainerTask:
    return make_task(folder / "pipe_unet_b2.h5")


@pytest.fixture(scope="module")
def multi(folder: Path) -> NobrainerTask:
    return make_task(folder / "pipe_unet_b1_c6.h5", "nobrainer-unet")


@pytest.fixture(scope="module")
def default(folder: Path, binary: NobrainerTask) -> Result:
    return binary(folder / "pipe_t1.nii.gz", **SMALL)


def voxels(image) -> np.ndarray:
    return np.asanyarray(image.dataobj)


@pytest.mark.parametrize(
    ("name", "options", "allowed"),
    [
        ("default_t03", {}, 0),
        ("t05", {"threshold": 0.5}, 0),
        ("largest", {"largest_label": True}, 0),
        # The turn by 45 degrees puts many points on exact halves, where rounding decides.
        ("rotate", {"rotate_and_predict": True}, 0.001),
        (
            "rotate_largest_t05",
            {"rotate_and_predict": True, "largest_label": True, "threshold": 0.5},
            0.001,
        ),
    ],
)
def test_mask_is_that_of_the_original(
    folder: Path, binary: NobrainerTask, name: str, options: dict, allowed: float
) -> None:
    expected = voxels(nib.load(folder / f"pipe_out_{name}.nii.gz"))
    result = binary(folder / "pipe_t1.nii.gz", **SMALL, **options)
    found = voxels(result.mask)
    assert found.dtype == np.uint8
    assert np.count_nonzero(found != expected) <= allowed * expected.size
    if not allowed:
        report = json.loads((folder / "pipe_report.json").read_text())
        assert found.sum() == report[name]["n1"] == result.table[0]["voxels"]


def test_labels_are_those_of_the_original(folder: Path, multi: NobrainerTask) -> None:
    expected = voxels(nib.load(folder / "pipe_out_c6.nii.gz"))
    result = multi(folder / "pipe_t1.nii.gz", **SMALL)
    found = voxels(result.labels)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    assert [row["voxels"] for row in result.table] == [
        int((expected == label).sum()) for label in range(1, 6)
    ]
    assert (result.mask, result.probability, result.main_output) == (None, None, "labels")


def test_intermediate_steps_are_those_of_the_original(folder: Path, binary: NobrainerTask) -> None:
    arrays = np.load(folder / "pipe_intermediate.npz")
    scan = volume.load(folder / "pipe_t1.nii.gz")
    resized = volume.stretch_linear(scan.array, (64, 64, 64))
    np.testing.assert_allclose(resized[::8], arrays["resized_slices"], rtol=1e-6, atol=1e-4)
    standardised = volume.zscore(resized)
    np.testing.assert_allclose(standardised[::8], arrays["std_slices"], rtol=0, atol=5e-7)
    settings = binary.settings({"block_shape": (32, 32, 32)})
    probability = binary.predict_grid(standardised, settings)
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability[::4], arrays["prob_slices"], rtol=0, atol=1e-5)


def test_predict_follows_the_library_call(folder: Path, binary: NobrainerTask) -> None:
    report = json.loads((folder / "pipe_report.json").read_text())["api"]
    scan = volume.load(folder / "pipe_t1.nii.gz")
    array = volume.stretch_linear(scan.array, (64, 64, 64))
    found = binary.predict(array, block_shape=(32, 32, 32), normalizer=volume.zscore)
    assert found.dtype == np.uint8
    assert found.sum() == report["n1"]
    image = nib.Nifti1Image(volume.zscore(array), np.diag([2, 2, 2, 1]))
    as_image = binary.predict(image, block_shape=(32, 32, 32))
    np.testing.assert_array_equal(voxels(as_image), found)
    np.testing.assert_array_equal(as_image.affine, image.affine)


def test_one_block_is_the_whole_volume_by_default(multi: NobrainerTask) -> None:
    array = np.random.default_rng(0).standard_normal((16, 12, 24)).astype(np.float32)
    padded = np.pad(array, ((0, 0), (0, 4), (0, 0)), mode="edge")
    expected = multi.model.predict(padded[None, ..., None], verbose=0)[0, :, :12].argmax(-1)
    np.testing.assert_array_equal(multi.predict(array), expected)


def test_header_codes_and_units_of_the_input_are_kept(folder: Path, default: Result) -> None:
    given = nib.load(folder / "pipe_t1.nii.gz")
    for image, dtype in ((default.mask, np.uint8), (default.probability, np.float32)):
        np.testing.assert_array_equal(image.affine, given.affine)
        assert image.shape == given.shape
        assert image.get_data_dtype() == dtype
        for key in ("sform_code", "qform_code", "xyzt_units", "pixdim"):
            np.testing.assert_array_equal(image.header[key], given.header[key])


def test_mask_is_probability_above_threshold(folder: Path, binary: NobrainerTask) -> None:
    result = binary(folder / "pipe_t1.nii.gz", threshold=0.6, resize=(40, 48, 32))
    np.testing.assert_array_equal(voxels(result.mask), voxels(result.probability) > 0.6)


def test_grid_of_the_scan_may_be_kept_whatever_the_blocks(folder: Path, binary: NobrainerTask) -> None:
    result = binary(folder / "pipe_t1.nii.gz", resize=None, block_shape=(32, 40, 24))
    scan = volume.load(folder / "pipe_t1.nii.gz")
    ours = voxels(result.probability)
    corner = volume.zscore(scan.array)[:32, :40, :24]
    expected = binary.model.predict(corner[None, ..., None], verbose=0)[0, ..., 0]
    np.testing.assert_allclose(ours[:32, :40, :24], expected, rtol=0, atol=1e-5)
    assert 1000 < result.table[0]["volume_mm3"] / 1000 < 2200


def test_conform_takes_every_orientation_to_one_result(folder: Path, binary: NobrainerTask) -> None:
    given = nib.load(folder / "pipe_t1.nii.gz")
    options = {"resize": (64, 64, 64), "block_shape": (64, 64, 64), "conform": True}
    first = binary(given, **options)
    np.testing.assert_array_equal(first.mask.affine, given.affine)
    turned = nib.as_closest_canonical(given)
    second = binary(turned, **options)
    again = voxels(nib.as_closest_canonical(first.mask))
    assert 0.1 < again.mean() < 0.9
    np.testing.assert_array_equal(again, voxels(second.mask))


def test_flips_and_overlap_reach_the_prediction(folder: Path, binary: NobrainerTask) -> None:
    options = {"resize": (32, 32, 32), "block_shape": (16, 32, 32)}
    plain = voxels(binary(folder / "pipe_t1.nii.gz", **options).probability)
    for change in ({"flips": (0,)}, {"overlap": 0.5, "merge": "gaussian"}):
        changed = voxels(binary(folder / "pipe_t1.nii.gz", **options, **change).probability)
        assert 0 < np.abs(changed - plain).mean() < 0.2


def constant_task(value: float, name: str = "nobrainer-brainy") -> NobrainerTask:
    """Make a network whose probability is the same everywhere."""
    model = build(filters=1)
    model.get_layer("conv3d_14").set_weights(
        [np.zeros((1, 1, 1, 2, 1), np.float32), np.full(1, np.log(value / (1 - value)), np.float32)]
    )
    return NobrainerTask(registry.get(name), {"": model})


def noise(shape: tuple[int, int, int] = (12, 10, 9), zoom: float = 1) -> nib.Nifti1Image:
    array = np.random.default_rng(1).normal(100, 10, shape).astype(np.float32)
    return nib.Nifti1Image(array, np.diag([zoom, zoom, zoom, 1]))


@pytest.mark.parametrize("largest_label", [False, True])
def test_empty_mask_is_a_result_with_a_warning(largest_label: bool) -> None:
    result = constant_task(0.1)(
        noise(), resize=(16, 16, 16), block_shape=(16, 16, 16), largest_label=largest_label
    )
    assert voxels(result.mask).sum() == 0
    assert result.table == ({"label": 1, "voxels": 0, "volume_mm3": 0.0},)
    assert len(result.warnings) == 1
    assert "empty" in result.warnings[0]


@pytest.mark.parametrize(("name", "doubts"), [("nobrainer-brainy", 2), ("nobrainer-ams", 1)])
def test_doubts_are_told(name: str, doubts: int) -> None:
    result = constant_task(0.9, name)(noise(zoom=2), resize=None, block_shape=(8, 8, 8))
    assert result.table == ({"label": 1, "voxels": 1080, "volume_mm3": 8640.0},)
    assert len(result.warnings) == doubts
    assert any("border" in warning for warning in result.warnings)


def test_largest_piece_counts_corners_as_neighbours(
    folder: Path, binary: NobrainerTask, default: Result
) -> None:
    whole = voxels(default.mask)
    labels, _ = ndimage.label(whole, np.ones((3, 3, 3)))
    expected = labels == np.bincount(labels[labels > 0]).argmax()
    found = voxels(binary(folder / "pipe_t1.nii.gz", largest_label=True, **SMALL).mask)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 1.5, float("nan")])
def test_threshold_is_checked_before_the_scan_is_read(binary: NobrainerTask, threshold: float) -> None:
    with pytest.raises(InvalidOption, match="threshold"):
        binary("does_not_exist.nii.gz", threshold=threshold)


@pytest.mark.parametrize(
    "options",
    [
        {"block_shape": (36, 32, 32)},
        {"block_shape": (32, 32)},
        {"block_shape": (4, 8, 8)},
        {"resize": (0, 64, 64)},
        {"resize": (64, 64)},
        {"overlap": 1.0},
        {"no_such_option": 1},
    ],
)
def test_impossible_options_are_refused_before_the_scan_is_read(binary: NobrainerTask, options: dict) -> None:
    with pytest.raises(InvalidOption):
        binary("does_not_exist.nii.gz", **options)


@pytest.mark.parametrize("option", ["largest_label", "rotate_and_predict"])
def test_options_of_one_class_are_refused_for_more(multi: NobrainerTask, option: str) -> None:
    with pytest.raises(InvalidOption, match=option):
        multi("does_not_exist.nii.gz", **{option: True})


def test_unusable_scans_are_refused(binary: NobrainerTask, tmp_path: Path) -> None:
    with pytest.raises(InvalidImage):
        binary(tmp_path / "does_not_exist.nii.gz")
    constant = nib.Nifti1Image(np.ones((16, 16, 16), np.float32), np.eye(4))
    with pytest.raises(InvalidImage):
        binary(constant, **SMALL)
    frames = nib.Nifti1Image(np.random.default_rng(0).random((16, 16, 16, 3), np.float32), np.eye(4))
    with pytest.raises(InvalidImage):
        binary(frames, **SMALL)


def test_scan_with_one_frame_and_integers_with_a_slope(binary: NobrainerTask) -> None:
    image = noise((16, 16, 16))
    stored = nib.Nifti1Image(np.rint(image.get_fdata()).astype(np.int16)[..., None], image.affine)
    scaled = nib.Nifti1Image(2 * np.rint(image.get_fdata()).astype(np.float32), image.affine)
    options = {"resize": None, "block_shape": (16, 16, 16)}
    np.testing.assert_allclose(
        voxels(binary(stored, **options).probability).squeeze(),
        voxels(binary(scaled, **options).probability),
        atol=1e-5,
    )


def test_result_is_saved_and_described(
    folder: Path, default: Result, multi: NobrainerTask, tmp_path: Path
) -> None:
    written = default.save(tmp_path / "binary")
    assert sorted(written) == ["mask", "probability", "provenance", "table"]
    assert written["mask"].name == "pipe_t1_mask.nii.gz"
    np.testing.assert_array_equal(nib.load(written["mask"]).get_fdata(), voxels(default.mask))
    provenance = json.loads(written["provenance"].read_text())
    assert provenance["model"] == "nobrainer-brainy"
    assert provenance["options"]["resize"] == [64, 64, 64]
    assert provenance["options"]["threshold"] == 0.3
    small = {"resize": (32, 32, 32), "block_shape": (32, 32, 32)}
    labels = multi(folder / "pipe_t1.nii.gz", **small).save(tmp_path / "labels.nii.gz")
    assert list(labels) == ["labels"]
    assert set(NobrainerTask.outputs) == {"mask", "labels", "probability", "table", "provenance"}
    assert TASK is NobrainerTask
