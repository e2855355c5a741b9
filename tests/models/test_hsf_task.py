"""From a head to labels of both hippocampi: as the original writes them, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from kerasneuro import registry
from kerasneuro.cli import main
from kerasneuro.errors import InvalidImage, InvalidOption, WeightsMismatch
from kerasneuro.models.hsf.task import HsfTask
from kerasneuro.report import write_quality_page

NETWORKS = ("arunet_v4_dyn.onnx", "arunet_v3_dyn_opset13.onnx")
CROPS = ("hippocampus", "hippocampus_seg_crop", "hippocampus_unc_crop")
SIDES = ("right", "left")


@pytest.fixture(scope="module")
def reference() -> Path:
    """Folder of what the original wrote."""
    return Path(os.environ.get("KERASNEURO_FIXTURES") or Path(__file__).parents[1] / "data") / "hsf"


@pytest.fixture(scope="module")
def boxes(reference: Path) -> dict[str, list[int]]:
    return json.loads((reference / "e2e_bag2" / "info.json").read_text())["coords_lpi"]


@pytest.fixture(scope="module")
def run(reference: Path, boxes: dict[str, list[int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the command line on a real head with two small networks; the folder that it wrote."""
    folder = tmp_path_factory.mktemp("hsf")
    (folder / "boxes.json").write_text(json.dumps(boxes))
    weights = [word for name in NETWORKS for word in ("--weights", str(reference / name))]
    scan = reference / "e2e_bag2" / "sub-01_T1w.nii.gz"
    where = ["--boxes", str(folder / "boxes.json"), "-o", str(folder / "out")]
    assert main(["run", "hsf-bagging-fast", str(scan), *weights, *where]) == 0
    return folder / "out"


def compare(found: Path, expected: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read two images of one name on one grid."""
    ours, theirs = nibabel.load(found / expected.name), nibabel.load(expected)
    assert ours.shape == theirs.shape and ours.get_data_dtype() == theirs.get_data_dtype()
    np.testing.assert_allclose(ours.affine, theirs.affine, rtol=0, atol=1e-5)
    return np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj)


@pytest.mark.parametrize("side", SIDES)
def test_files_are_those_of_the_original(run: Path, reference: Path, side: str):
    theirs = reference / "e2e_bag2"
    found, expected = compare(run, theirs / "hsf_outputs" / f"sub-01_T1w_{side}_hippocampus.nii.gz")
    np.testing.assert_array_equal(found, expected)
    for path in (
        theirs / f"sub-01_T1w_{side}_hippocampus_seg.nii.gz",
        theirs / "hsf_outputs" / f"sub-01_T1w_{side}_hippocampus_seg_crop.nii.gz",
    ):
        found, expected = compare(run, path)
        assert (found == expected).mean() >= 0.999
    found, expected = compare(run, theirs / "hsf_outputs" / f"sub-01_T1w_{side}_hippocampus_unc_crop.nii.gz")
    # Each probability may differ by 5e-5 from that of ONNX Runtime, and the logarithm enlarges this.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_both_sides_are_in_one_image_with_volumes_and_colours(run: Path):
    labels = np.asanyarray(nibabel.load(run / "sub-01_T1w_labels.nii.gz").dataobj)
    for side, code in zip(SIDES, (100, 200), strict=True):
        alone = np.asanyarray(nibabel.load(run / f"sub-01_T1w_{side}_hippocampus_seg.nii.gz").dataobj)
        ours = (labels // 100 == code // 100) * (labels % 100)
        np.testing.assert_array_equal(ours[ours != 0], alone[ours != 0])
        lines = (run / "sub-01_T1w_table.csv").read_text().splitlines()[1:]
        rows = [line.split(",") for line in lines if line.startswith(side)]
        assert [row[2] for row in rows] == ["DG", "CA1", "CA2", "CA3", "SUB"]
        assert [int(row[3]) for row in rows] == np.bincount(alone.ravel(), minlength=6)[1:].tolist()
        assert all(float(row[4]) == int(row[3]) for row in rows)  # voxels of 1 mm3
    assert "101  Right-DG" in (run / "sub-01_T1w_colours.txt").read_text()


def test_the_provenance_says_how_it_was_made(run: Path, boxes: dict[str, list[int]]):
    record = json.loads((run / "sub-01_T1w_provenance.json").read_text())
    assert record["boxes"] == boxes
    assert record["predictions"] == {"right": 2, "left": 2}
    assert record["copies"] == {"right": {}, "left": {}}
    assert len(record["weights"]) == 2
    assert record["options"]["ca_mode"] == "1/2/3" and record["seed"] == 0


@pytest.mark.optional
@pytest.mark.backend_free
def test_with_the_runtime_of_the_original_the_uncertainty_is_its_own(
    reference: Path, boxes: dict[str, list[int]]
):
    runtime = pytest.importorskip("onnxruntime")

    def network(name: str) -> Any:
        session = runtime.InferenceSession(reference / name)
        entry = session.get_inputs()[0].name
        return lambda batch: np.moveaxis(session.run(None, {entry: np.moveaxis(batch, -1, 1)})[0], 1, -1)

    result = stand_in([network(name) for name in NETWORKS])(
        reference / "e2e_bag2" / "sub-01_T1w.nii.gz", boxes=boxes
    )
    for side in SIDES:
        for name in CROPS:
            path = reference / "e2e_bag2" / "hsf_outputs" / f"sub-01_T1w_{side}_{name}.nii.gz"
            found, expected = result.images[f"{side}_{name}"].dataobj, nibabel.load(path).get_fdata()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


# What follows needs no network of Keras: an arithmetic one stands in for it.


def arithmetic(classes: int = 6) -> Any:
    """Make a network whose probabilities rise and fall with the intensity."""

    def network(batch: np.ndarray) -> np.ndarray:
        scores = np.cos(batch * np.arange(1, classes + 1))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return (scores / scores.sum(axis=-1, keepdims=True)).astype(np.float32)

    return network


def stand_in(networks: list[Any], *, classes: int = 6, name: str = "hsf-bagging-fast") -> HsfTask:
    """Make a task whose engines are functions."""
    models = {
        f"bag{index}": SimpleNamespace(output_shape=(None, None, None, None, classes))
        for index in range(len(networks))
    }
    task = HsfTask(registry.get(name), models)  # type: ignore[arg-type]
    functions = dict(zip(models, networks, strict=True))
    task.engine = lambda part, settings: functions[part]  # type: ignore[method-assign, assignment]
    return task


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small head of noise in PIR orientation with voxels of 1 x 1 x 2 mm."""
    folder = tmp_path_factory.mktemp("head")
    array = np.random.default_rng(0).normal(100, 20, (20, 24, 40)).astype(np.float32)
    affine = np.array([[0, 0, 1, -20], [-1, 0, 0, 10], [0, -2, 0, 20], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(array, affine), folder / "sub-1_T1w.nii.gz")
    return folder / "sub-1_T1w.nii.gz"


SMALL = {"right": [22, 3, 4, 36, 15, 14], "left": [4, 3, 4, 18, 15, 14]}


@pytest.mark.backend_free
def test_accurate_models_augment_and_fast_ones_do_not(head: Path):
    fast = stand_in([arithmetic()])(head, boxes=SMALL)
    assert fast.provenance["predictions"] == {"right": 1, "left": 1}
    assert fast.uncertainty is None and "uncertainty" not in fast.outputs
    assert "right_hippocampus_unc_crop" not in fast.outputs
    accurate = stand_in([arithmetic(), arithmetic()], name="hsf-bagging-accurate")
    first, again, other = (accurate(head, boxes=SMALL, seed=seed) for seed in (1, 1, 2))
    assert first.provenance["predictions"] == {"right": 42, "left": 42}
    assert len(first.provenance["copies"]["right"]) == 20
    maps = [np.asanyarray(result.uncertainty.dataobj) for result in (first, again, other)]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[0], maps[2])


@pytest.mark.backend_free
def test_one_side_does_not_depend_on_the_other(head: Path):
    task = stand_in([arithmetic()])
    both, left = (task(head, boxes=given, num_aug=3) for given in (SMALL, {"left": SMALL["left"]}))
    np.testing.assert_array_equal(
        both.images["left_hippocampus_unc_crop"].dataobj, left.images["left_hippocampus_unc_crop"].dataobj
    )
    assert not any(name.startswith("right") for name in left.outputs)


@pytest.mark.backend_free
@pytest.mark.parametrize(("mode", "labels"), [("1/23", 4), ("123", 3), ("", 1)])
def test_the_mode_names_the_labels(head: Path, mode: str, labels: int):
    result = stand_in([arithmetic()])(head, boxes=SMALL, ca_mode=mode)
    names = [row["name"] for row in result.table if row["side"] == "right"]
    assert len(names) == labels and names[-1] in ("SUB", "hippocampus")


@pytest.mark.backend_free
def test_labels_lie_where_the_crop_was(head: Path):
    result = stand_in([arithmetic()])(head, boxes=SMALL)
    crop, whole = result.images["right_hippocampus_seg_crop"], result.images["right_hippocampus_seg"]
    places = np.argwhere(np.asanyarray(crop.dataobj) == 2)
    world = nibabel.affines.apply_affine(crop.affine, places)
    voxels = np.rint(nibabel.affines.apply_affine(np.linalg.inv(whole.affine), world)).astype(int)
    native = np.asanyarray(whole.dataobj)
    assert (native[tuple(voxels.T)] == 2).all()
    assert (native == 2).sum() == len(places) > 0


@pytest.mark.backend_free
def test_a_second_contrast_votes_as_well(head: Path, tmp_path: Path):
    folder = tmp_path / "anat"
    folder.mkdir()
    shutil.copy(head, folder / "sub-1_T1w.nii.gz")
    image = nibabel.load(head)
    second = nibabel.Nifti1Image(200 - image.get_fdata(dtype=np.float32), image.affine)
    nibabel.save(second, folder / "sub-1_T2w.nii.gz")
    task = stand_in([arithmetic(), arithmetic()])
    result = task(folder / "sub-1_T1w.nii.gz", boxes=SMALL, second="*_T2w.nii.gz")
    assert result.provenance["predictions"] == {"right": 4, "left": 4}
    assert result.provenance["inputs"]["second"]["path"].endswith("sub-1_T2w.nii.gz")
    crops = [result.images[f"{start}right_hippocampus"].get_fdata() for start in ("", "second-contrast_")]
    np.testing.assert_allclose(crops[0], 200 - crops[1], atol=1e-4)
    shutil.copy(head, folder / "sub-2_T2w.nii.gz")
    with pytest.raises(
        InvalidOption, match=r"second: expected one file .* found 2 \(sub-1_T2w.nii.gz, sub-2"
    ):
        task(folder / "sub-1_T1w.nii.gz", boxes=SMALL, second="*_T2w.nii.gz")
    with pytest.raises(InvalidOption, match=r"second: expected one file .* found 0"):
        task(folder / "sub-1_T1w.nii.gz", boxes=SMALL, second="*_PD.nii.gz")
    other = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32)[:-1], image.affine)
    with pytest.raises(InvalidImage, match="second: expected an image on the grid of the scan"):
        task(folder / "sub-1_T1w.nii.gz", boxes=SMALL, second=other)


@pytest.mark.backend_free
def test_a_second_contrast_elsewhere_is_registered_first(head: Path, monkeypatch: pytest.MonkeyPatch):
    from kerasneuro.models.hsf import multispectral

    monkeypatch.setattr(multispectral, "register_second", lambda first, second: first)
    image = nibabel.load(head)
    other = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32)[:-1], image.affine)
    result = stand_in([arithmetic()])(head, boxes=SMALL, second=other, same_space=False)
    assert result.outputs["second-contrast_registered"] == ".nii.gz"
    assert result.provenance["predictions"] == {"right": 2, "left": 2}


@pytest.mark.backend_free
def test_masks_give_the_boxes(head: Path):
    image = nibabel.load(head)
    mask = np.zeros(image.shape, np.uint8)
    mask[5:15, 8:16, 24:36] = 1
    given = nibabel.Nifti1Image(mask, image.affine)
    result = stand_in([arithmetic()])(head, right_mask=given, margin=(2, 2, 2))
    assert list(result.provenance["boxes"]) == ["right"]
    with pytest.raises(InvalidOption, match="not both"):
        stand_in([arithmetic()])(head, masks={"right": given}, left_mask=given)
    with pytest.raises(InvalidImage, match="expected voxels of the left hippocampus, found none"):
        stand_in([arithmetic()])(head, left_mask=nibabel.Nifti1Image(mask * 0, image.affine))


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"boxes": {"right": [0, 0, 0, 9, 9]}}, "the right box: expected six numbers"),
        ({"boxes": {"right": [9, 0, 0, 9, 9, 9]}}, "expected x0 < x1"),
        ({"boxes": {"left": [0, 0, 0, 41, 9, 9]}}, "expected voxels inside the image"),
        ({"boxes": {"middle": [0, 0, 0, 9, 9, 9]}}, "expected the sides 'right' and 'left'"),
        ({"boxes": SMALL, "ca_mode": "12/3"}, "ca_mode must be one of"),
        ({"boxes": SMALL, "num_aug": -1}, "num_aug must be a whole number of at least 0, found -1"),
        ({"boxes": SMALL, "seed": 0.5}, "seed must be a whole number"),
        ({"boxes": SMALL, "block_shape": (8, 8, 8)}, "no option 'block_shape'"),
        ({"boxes": SMALL, "degrees": -5.0}, "degrees must be 0 or more"),
        ({"boxes": SMALL, "roi": "guess"}, "roi must be one of"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(head: Path, given: dict[str, Any], reason: str):
    with pytest.raises(InvalidOption, match=reason) as caught:
        stand_in([arithmetic()])(head, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.backend_free
def test_damaged_boxes_are_refused(head: Path, tmp_path: Path):
    path = tmp_path / "boxes.json"
    path.write_text('{"right": [1, 2')
    with pytest.raises(InvalidOption, match="expected a JSON file of boxes"):
        stand_in([arithmetic()])(head, boxes=path)


@pytest.mark.backend_free
def test_a_useless_crop_is_told_before_anything_is_computed(head: Path):
    def forbidden(batch: np.ndarray) -> np.ndarray:
        raise AssertionError("computed")

    tiny = {"right": SMALL["right"], "left": [0, 0, 0, 8, 8, 8]}
    with pytest.raises(InvalidImage, match=r"the left crop has \(8, 8, 8\) voxels, expected more than 8"):
        stand_in([forbidden])(head, boxes=tiny)
    image = nibabel.load(head)
    flat = image.get_fdata(dtype=np.float32).copy()
    flat[:, :, 20:] = 3
    with pytest.raises(InvalidImage, match="the right crop has the value 3 in all its voxels"):
        stand_in([forbidden])(nibabel.Nifti1Image(flat, image.affine), boxes=SMALL)


@pytest.mark.backend_free
def test_a_box_at_the_border_and_labels_at_its_border_raise_doubts(head: Path):
    border = {**SMALL, "left": [0, 3, 4, 18, 15, 14]}
    warnings = stand_in([arithmetic()])(head, boxes=border).warnings
    assert any("the left box [0, 3, 4, 18, 15, 14] ends at the border" in text for text in warnings)
    assert any("labels of the right side reach the border of their crop" in text for text in warnings)
    shared = {"right": [10, 3, 4, 30, 15, 14], "left": [8, 3, 4, 28, 15, 14]}
    assert any(
        "a label of both sides" in text for text in stand_in([arithmetic()])(head, boxes=shared).warnings
    )


@pytest.mark.backend_free
def test_networks_that_vote_have_the_same_classes():
    models = {f"bag{n}": SimpleNamespace(output_shape=(None, n)) for n in (6, 8)}
    with pytest.raises(WeightsMismatch, match="found bag6 6, bag8 8"):
        HsfTask(registry.get("hsf-bagging-fast"), models)  # type: ignore[arg-type]


@pytest.mark.backend_free
def test_no_mask_that_fits_is_told(head: Path):
    result = stand_in([arithmetic()])(head, boxes=SMALL, mask="*mask.nii.gz")
    assert "No file fits *mask.nii.gz: no brain mask is used." in result.warnings


@pytest.mark.backend_free
@pytest.mark.parametrize("copies", [0, 2])
def test_the_page_shows_each_hippocampus_enlarged(head: Path, tmp_path: Path, copies: int):
    result = stand_in([arithmetic()])(head, boxes={"left": SMALL["left"]}, num_aug=copies)
    page, picture = write_quality_page(result, tmp_path / "page.html")
    text = page.read_text()
    assert "Slices of each crop" in text and "Left-CA1" in text
    assert ("nats in both crops" in text) == bool(copies)
    height = int.from_bytes(picture.read_bytes()[20:24], "big")  # of a PNG file
    assert height > (900 if copies else 450)
