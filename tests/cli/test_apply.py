"""``kerasneuro apply`` against ``mri_synthmorph apply``, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import nibabel
import numpy as np
import pytest

from kerasneuro.cli.abbreviated import Abbreviated
from kerasneuro.volume import Affine, Geometry
from kerasneuro.volume.transform_io import load_transform, save_transform

Call = Callable[..., Any]

pytestmark = pytest.mark.backend_free


@pytest.fixture
def e2e(fixtures: Path) -> Path:
    return fixtures / "synthmorph" / "e2e"


def same_image(one: Path, two: Path, tolerance: float = 0) -> None:
    found, expected = nibabel.load(one), nibabel.load(two)
    assert found.get_data_dtype().kind == expected.get_data_dtype().kind
    np.testing.assert_allclose(
        np.asarray(found.dataobj), np.asarray(expected.dataobj), rtol=0, atol=tolerance
    )
    np.testing.assert_allclose(found.affine, expected.affine, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "transform", "image", "expected"),
    [
        (("-m", "nearest", "-t", "uint8"), "affine.trans.lta", "labels", "apply_affine_labels"),
        (("-mn", "-tuint8"), "affine.trans.lta", "labels", "apply_affine_labels"),
        (("-f", "-7"), "affine.trans.lta", "moving", "apply_affine_linear_fill"),
        (("--fill", "-7", "-m", "li"), "affine.trans.lta", "moving", "apply_affine_linear_fill"),
        (("--method", "n", "--dtype", "int16"), "joint.trans.nii.gz", "labels", "apply_joint_labels"),
        (("-Ht", "int16"), "rigid.trans.lta", "moving", "apply_rigid_header"),
        (("--header-only", "--dtype", "int16"), "rigid.trans.lta", "moving", "apply_rigid_header"),
    ],
)
def test_equals_the_original(
    call: Call,
    e2e: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    transform: str,
    image: str,
    expected: str,
) -> None:
    out = tmp_path / "out.nii.gz"
    answer = call("apply", *options, e2e / transform, e2e / f"{image}.nii.gz", out)
    assert (answer.code, answer.errors, answer.out) == (0, [], f"{out}\n")
    same_image(out, e2e / f"{expected}.nii.gz")


def test_several_images_and_json(call: Call, e2e: Path, tmp_path: Path) -> None:
    pairs = [
        e2e / "moving.nii.gz",
        tmp_path / "new" / "a.mgz",
        e2e / "labels.nii.gz",
        tmp_path / "new" / "b.nii",
    ]
    answer = call("apply", "--json", e2e / "affine.trans.lta", *pairs)
    assert answer.code == 0
    assert answer.json["transforms"] == [str(e2e / "affine.trans.lta")]
    assert [row["output"] for row in answer.json["outputs"]] == [str(pairs[1]), str(pairs[3])]
    assert answer.json["outputs"][0]["shape"] == [28, 36, 26]
    moved = nibabel.load(pairs[1])
    np.testing.assert_allclose(
        moved.get_fdata(), nibabel.load(e2e / "affine.moved.nii.gz").get_fdata(), atol=1e-6
    )


def test_series(call: Call, e2e: Path, tmp_path: Path) -> None:
    image = nibabel.load(e2e / "moving.nii.gz")
    series = np.stack([np.asarray(image.dataobj)] * 2, axis=-1)
    nibabel.save(nibabel.Nifti1Image(series, image.affine), tmp_path / "series.nii.gz")
    out = tmp_path / "out.nii.gz"
    assert call("apply", e2e / "affine.trans.lta", tmp_path / "series.nii.gz", out).code == 0
    expected = nibabel.load(e2e / "affine.moved.nii.gz").get_fdata()
    np.testing.assert_array_equal(nibabel.load(out).get_fdata(), np.stack([expected] * 2, axis=-1))


def test_chain_is_interpolated_once(call: Call, e2e: Path, tmp_path: Path) -> None:
    """A matrix, a half turn and its undoing leave the image as the matrix alone does."""
    affine = load_transform(e2e / "affine.trans.lta")
    assert isinstance(affine, Affine) and affine.target is not None
    turn = np.diag([-1.0, -1, 1, 1])
    save_transform(Affine(turn, affine.target, affine.target, "world"), tmp_path / "turn.lta")
    save_transform(Affine(turn, None, None, "world"), tmp_path / "turn.txt")
    chain = [e2e / "affine.trans.lta", "--also", tmp_path / "turn.txt", "--also", tmp_path / "turn.lta"]
    out = tmp_path / "out.nii.gz"
    assert call("apply", *chain, e2e / "moving.nii.gz", out).code == 0
    same_image(out, e2e / "affine.moved.nii.gz", tolerance=0.02)


def test_grid_is_named(call: Call, e2e: Path, tmp_path: Path) -> None:
    """Matrices of ITK and FSL hold no grid; with that of the fixed image they move as the LTA does."""
    affine = load_transform(e2e / "affine.trans.lta")
    for name in ("matrix.txt", "matrix.h5", "matrix.mat"):
        save_transform(affine, tmp_path / name)
        out = tmp_path / f"{name}.nii.gz"
        answer = call("apply", tmp_path / name, e2e / "moving.nii.gz", out)
        assert answer.code == 1
        assert not out.exists()
        assert "--like" in answer.errors[0] or "grids of both" in answer.errors[0]
        like = ("--like", e2e / "fixed.nii.gz")
        assert call("apply", tmp_path / name, e2e / "moving.nii.gz", out, *like).code == 0
        differs = np.abs(
            nibabel.load(out).get_fdata() - nibabel.load(e2e / "affine.moved.nii.gz").get_fdata()
        )
        # The last bit of the matrix decides about places on the border of the image.
        assert np.count_nonzero(differs > 0.02) < 20
        assert Geometry.of(nibabel.load(out)) == Geometry.of(nibabel.load(e2e / "fixed.nii.gz"))


def test_itk_field(call: Call, e2e: Path, tmp_path: Path) -> None:
    save_transform(load_transform(e2e / "joint.trans.nii.gz"), tmp_path / "field.nii.gz", format="itk")
    out = tmp_path / "out.nii.gz"
    assert call("apply", tmp_path / "field.nii.gz", e2e / "moving.nii.gz", out).code == 0
    same_image(out, e2e / "joint.moved.nii.gz", tolerance=2e-3)


def test_finer_grid_of_a_warp(call: Call, e2e: Path, tmp_path: Path) -> None:
    like = nibabel.Nifti1Image(np.zeros((60, 60, 60), np.uint8), np.diag([-3.0, 3, 3, 1]))
    like.affine[:3, 3] = 90, -90, -90
    nibabel.save(like, tmp_path / "like.nii.gz")
    options = ("--like", tmp_path / "like.nii.gz", "-m", "nearest", "-t", "uint8")
    out = tmp_path / "out.nii.gz"
    assert call("apply", *options, e2e / "joint.trans.nii.gz", e2e / "labels.nii.gz", out).code == 0
    moved = nibabel.load(out)
    assert moved.shape == (60, 60, 60)
    assert np.count_nonzero(moved.dataobj) > 5000


def test_misuse(call: Call, e2e: Path, tmp_path: Path) -> None:
    transform, image = e2e / "affine.trans.lta", e2e / "moving.nii.gz"
    out, other = tmp_path / "out.nii.gz", tmp_path / "other.nii.gz"
    cases = {
        (transform, image): "found 1 files after TRANS",
        (transform, image, out, image): "found 3 files after TRANS",
        ("-m", "cubic", transform, image, out): "'cubic' is none of linear, nearest",
        ("-m", "", transform, image, out): "is none of linear, nearest",
        ("-t", "float16", transform, image, out): "float16",
        ("-f", "black", transform, image, out): "black",
        ("-H", "--like", image, transform, image, out): "leave out --like",
    }
    for arguments, message in cases.items():
        answer = call("apply", *arguments)
        assert answer.code == 2
        assert message in answer.errors[0]
    assert not out.exists() and not other.exists()


def test_outputs_are_planned_first(call: Call, e2e: Path, tmp_path: Path) -> None:
    transform, image, out = e2e / "affine.trans.lta", tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz"
    image.write_bytes((e2e / "moving.nii.gz").read_bytes())
    (tmp_path / "there.nii.gz").write_bytes(b"mine")
    cases = {
        (image, tmp_path / "there.nii.gz"): "exists already",
        (image, out, image, tmp_path / "there.nii.gz"): "exists already",
        (image, out, image, out): "would both be written to",
        (image, image): "is an input of this run",
        (image, tmp_path / "out.png"): "expected a name that ends with",
        (image, tmp_path / "no" / "such" / "out.nii"): "does not exist",
        (tmp_path / "none.nii.gz", out): "no such file",
        (image, out, tmp_path / "none.nii.gz", tmp_path / "b.nii.gz"): "no such file",
    }
    for paths, message in cases.items():
        answer = call("apply", transform, *paths)
        assert answer.code == 1
        assert len(answer.errors) == 1
        assert message in answer.errors[0]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["scan.nii.gz", "there.nii.gz"]
    assert call("apply", transform, image, tmp_path / "there.nii.gz", "--overwrite").code == 0
    same_image(tmp_path / "there.nii.gz", e2e / "affine.moved.nii.gz")


def test_transform_of_other_images_is_refused(call: Call, e2e: Path, tmp_path: Path) -> None:
    """The second image does not fit, so the first is not written either, nor a new folder left."""
    folder = tmp_path / "new"
    pairs = [e2e / "moving.nii.gz", folder / "a.nii.gz", e2e / "fixed.nii.gz", folder / "b.nii.gz"]
    answer = call("apply", e2e / "joint.trans.nii.gz", *pairs)
    assert answer.code == 1
    assert "fixed.nii.gz: the warp moves images of 26x30x34" in answer.errors[0]
    header_only = call("apply", "-H", e2e / "joint.trans.nii.gz", *pairs[:2])
    assert "header-only is for matrices alone" in header_only.errors[0]
    (tmp_path / "broken.lta").write_text("type = 1\nnxforms = 1\n")
    assert "expected four rows" in call("apply", tmp_path / "broken.lta", *pairs[:2]).errors[0]
    assert "no such file" in call("apply", tmp_path / "none.lta", *pairs[:2]).errors[0]
    assert (
        "fit the type uint8"
        in call("apply", "-f", "999", "-t", "uint8", e2e / "affine.trans.lta", *pairs[:2]).errors[0]
    )
    assert not folder.exists()


def test_names_cut_short() -> None:
    names = Abbreviated(("joint", "deform", "de"))
    found = [names.convert(value, None, None) for value in ("j", "joint", "def", "de")]
    assert found == ["joint", "joint", "deform", "de"]
    with pytest.raises(click.BadParameter, match="'d' may mean several of joint, deform, de"):
        names.convert("d", None, None)
