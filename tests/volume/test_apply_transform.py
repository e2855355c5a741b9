"""Images moved by transforms, against ``mri_synthmorph apply``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasneuro.errors import InvalidImage, InvalidOption, InvalidTransform
from kerasneuro.volume import Affine, Geometry, Volume, Warp, apply_transform, compose_transforms
from kerasneuro.volume.transform_io import load_transform


@pytest.fixture(scope="module")
def e2e(fixtures: Path) -> Path:
    return fixtures / "synthmorph" / "e2e"


def voxels(image: Any) -> np.ndarray:
    return np.asanyarray(image.dataobj)


def assert_equal_images(found: Any, path: Path, tolerance: float = 0) -> None:
    expected = nibabel.load(path)
    np.testing.assert_allclose(voxels(found), voxels(expected), rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.affine, expected.affine, rtol=0, atol=1e-5)
    for key in ("qform_code", "sform_code", "xyzt_units"):
        assert found.header[key] == expected.header[key]


def test_labels_by_a_matrix(e2e: Path) -> None:
    transform = load_transform(e2e / "affine.trans.lta")
    moved = apply_transform(transform, e2e / "labels.nii.gz", method="nearest", dtype="uint8")
    assert moved.get_data_dtype() == np.uint8
    assert_equal_images(moved, e2e / "apply_affine_labels.nii.gz")


def test_fill_outside(e2e: Path) -> None:
    transform = load_transform(e2e / "affine.trans.lta")
    moved = apply_transform(transform, e2e / "moving.nii.gz", fill=-7)
    assert moved.get_data_dtype() == np.float32
    assert np.count_nonzero(voxels(moved) == -7) > 100
    assert_equal_images(moved, e2e / "apply_affine_linear_fill.nii.gz")


def test_labels_by_a_warp(e2e: Path) -> None:
    transform = load_transform(e2e / "joint.trans.nii.gz")
    moved = apply_transform(transform, e2e / "labels.nii.gz", method="nearest")
    assert moved.get_data_dtype() == np.int16
    assert_equal_images(moved, e2e / "apply_joint_labels.nii.gz")


def test_header_alone(e2e: Path) -> None:
    transform = load_transform(e2e / "rigid.trans.lta")
    moved = apply_transform(transform, e2e / "moving.nii.gz", header_only=True)
    assert_equal_images(moved, e2e / "apply_rigid_header.nii.gz")
    np.testing.assert_array_equal(voxels(moved), voxels(nibabel.load(e2e / "moving.nii.gz")))


@pytest.mark.parametrize("name", ["affine", "rigid"])
def test_moved_images_of_the_original(e2e: Path, name: str) -> None:
    moved = apply_transform(load_transform(e2e / f"{name}.trans.lta"), e2e / "moving.nii.gz")
    assert_equal_images(moved, e2e / f"{name}.moved.nii.gz")


@pytest.mark.parametrize(
    ("warp", "image", "result"), [("trans", "moving", "moved"), ("inverse", "fixed", "fixed_moved")]
)
def test_warped_images_of_the_original(e2e: Path, warp: str, image: str, result: str) -> None:
    moved = apply_transform(load_transform(e2e / f"joint.{warp}.nii.gz"), e2e / f"{image}.nii.gz")
    # The original sampled with its field in voxels; the file holds it in mm and float32.
    assert_equal_images(moved, e2e / f"joint.{result}.nii.gz", tolerance=2e-3)


@pytest.mark.parametrize("name", ["affine.trans.lta", "joint.trans.nii.gz"])
def test_series_moves_frame_by_frame(e2e: Path, name: str) -> None:
    transform = load_transform(e2e / name)
    image = nibabel.load(e2e / "moving.nii.gz")
    frames = [voxels(image), voxels(image)[::-1], voxels(image) // 2]
    series = nibabel.Nifti1Image(np.stack(frames, axis=-1), image.affine)
    series.header.set_zooms((*series.header.get_zooms()[:3], 2.5))
    series.header.set_xyzt_units("mm", "sec")
    moved = apply_transform(transform, series)
    assert moved.header.get_zooms()[3] == 2.5
    assert moved.header.get_xyzt_units() == ("mm", "sec")
    for index, frame in enumerate(frames):
        single = apply_transform(transform, nibabel.Nifti1Image(frame, image.affine))
        np.testing.assert_array_equal(voxels(moved)[..., index], voxels(single))


def test_matrix_keeps_the_place_in_the_world(e2e: Path) -> None:
    """A finer copy of the image, turned and cropped, is moved to the same place."""
    transform = load_transform(e2e / "affine.trans.lta")
    image = nibabel.load(e2e / "moving.nii.gz")
    turned = image.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    moved = apply_transform(transform, turned)
    expected = nibabel.load(e2e / "affine.moved.nii.gz")
    # Turned axes have their half voxel beyond the last centre on the other side.
    differs = ~np.isclose(voxels(moved), voxels(expected), atol=1e-2)
    assert np.count_nonzero(differs) < 0.03 * differs.size
    assert np.count_nonzero(voxels(expected)) > 5000


@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_chain_equals_its_matrix(e2e: Path, method: Any) -> None:
    there = load_transform(e2e / "affine.trans.lta")
    back = load_transform(e2e / "affine.inverse.lta")
    joined = compose_transforms([there, back, there])
    assert isinstance(joined, Affine) and isinstance(there, Affine) and isinstance(back, Affine)
    np.testing.assert_allclose(joined.matrix, there.matrix @ back.matrix @ there.matrix, atol=1e-12)
    moved = apply_transform(joined, e2e / "moving.nii.gz", method=method)
    once = apply_transform(there, e2e / "moving.nii.gz", method=method)
    close = np.isclose(voxels(moved), voxels(once), atol=2)
    assert np.count_nonzero(close) > 0.97 * close.size


def test_chain_ends_on_the_last_grid(e2e: Path) -> None:
    warp, back = load_transform(e2e / "joint.trans.nii.gz"), load_transform(e2e / "affine.inverse.lta")
    moved = apply_transform(compose_transforms([warp, back]), e2e / "moving.nii.gz")
    source = nibabel.load(e2e / "moving.nii.gz")
    assert Geometry.of(moved) == Geometry.of(source)
    assert np.corrcoef(voxels(moved).ravel(), voxels(source).ravel())[0, 1] > 0.8


def test_grid_of_another_image(e2e: Path) -> None:
    finer = Geometry.of_parts((40, 50, 45), (3, 3, 3), np.eye(3), (0, 0, 0))
    for name in ("affine.trans.lta", "joint.trans.nii.gz"):
        moved = apply_transform(load_transform(e2e / name), e2e / "moving.nii.gz", target=finer)
        assert Geometry.of(moved) == finer
        assert np.count_nonzero(voxels(moved)) > 10000


@given(st.integers(0, 1000))
def test_nearest_invents_no_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = Geometry((5, 6, 7), np.eye(4))
    labels = rng.choice([0, 3, 1007], grid.shape).astype(np.int32)
    warp = Warp(rng.normal(0, 1, (*grid.shape, 3)), grid, grid)
    moved = apply_transform(warp, Volume(labels, np.eye(4)), method="nearest")
    assert set(np.unique(voxels(moved))) <= {0, 3, 1007}
    assert moved.get_data_dtype() == np.int32


def test_formats_of_the_header(e2e: Path) -> None:
    transform = load_transform(e2e / "affine.trans.lta")
    array = voxels(nibabel.load(e2e / "moving.nii.gz"))
    affine = nibabel.load(e2e / "moving.nii.gz").affine
    moved = apply_transform(transform, nibabel.MGHImage(array, affine))
    assert isinstance(moved, nibabel.MGHImage)
    expected = nibabel.load(e2e / "affine.moved.nii.gz")
    np.testing.assert_allclose(voxels(moved), voxels(expected), atol=1e-2)
    unsigned = apply_transform(transform, nibabel.MGHImage(array, affine), dtype="uint16")
    assert isinstance(unsigned, nibabel.Nifti1Image)
    second = nibabel.Nifti2Image(array, affine)
    second.header["descrip"] = b"from the scanner"
    moved = apply_transform(transform, second)
    assert isinstance(moved, nibabel.Nifti2Image)
    assert moved.header["descrip"].item() == b"from the scanner"
    assert (moved.header["sform_code"], moved.header["qform_code"]) == (2, 0)


def test_sheared_grid_has_no_qform() -> None:
    grid = Geometry.of_parts((4, 5, 6), (1, 2, 3), np.eye(3), (0, 0, 0), (0.2, 0, 0))
    image = apply_transform(Affine(np.eye(4), grid, grid), Volume(np.ones(grid.shape), grid.vox2world))
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 0)
    np.testing.assert_allclose(image.affine, grid.vox2world, atol=1e-6)


def test_masks_are_moved_as_numbers() -> None:
    grid = Geometry((3, 3, 3), np.eye(4))
    mask = Volume(np.ones(grid.shape, bool), np.eye(4))
    moved = apply_transform(Affine(np.eye(4), grid, grid), mask, method="nearest")
    assert moved.get_data_dtype() == np.uint8
    assert voxels(moved).sum() == 27


def test_reals_are_cut_off() -> None:
    grid = Geometry((2, 1, 1), np.eye(4))
    image = Volume(np.array([-1.7, 2.9]).reshape(2, 1, 1), np.eye(4))
    identity = Affine(np.eye(4), grid, grid)
    assert voxels(apply_transform(identity, image, dtype="int16")).ravel().tolist() == [-1, 2]
    for name, dtype in (("uint8", np.uint8), ("int16", np.int16)):
        high = Volume(np.array([-1.0, 40000.0]).reshape(2, 1, 1), np.eye(4))
        with pytest.raises(InvalidOption, match=rf"values from -1 to 40000 do not fit the type {name}"):
            apply_transform(identity, high, dtype=dtype)
    with pytest.raises(InvalidOption, match="nan"):
        apply_transform(
            identity, image, fill=float("nan"), target=Geometry((9, 9, 9), np.eye(4)), dtype="int16"
        )


def test_image_of_another_grid_is_refused(e2e: Path) -> None:
    warp = load_transform(e2e / "joint.trans.nii.gz")
    with pytest.raises(
        InvalidTransform, match=r"fixed\.nii\.gz: the warp moves images of 26x30x34[^\n]*28x36x26"
    ):
        apply_transform(warp, e2e / "fixed.nii.gz")
    image = nibabel.load(e2e / "moving.nii.gz")
    shifted = image.affine.copy()
    shifted[0, 3] += 0.01
    with pytest.raises(InvalidTransform, match="resample the image to that grid"):
        apply_transform(warp, nibabel.Nifti1Image(voxels(image), shifted))


def test_options_of_apply(e2e: Path) -> None:
    warp, image = load_transform(e2e / "joint.trans.nii.gz"), e2e / "moving.nii.gz"
    with pytest.raises(InvalidOption, match="for matrices alone"):
        apply_transform(warp, image, header_only=True)
    with pytest.raises(InvalidOption, match="'cubic'"):
        apply_transform(warp, image, method="cubic")  # type: ignore[arg-type]
    with pytest.raises(InvalidTransform, match="no target grid"):
        apply_transform(Affine(np.eye(4), None, None, "world"), image)
    with pytest.raises(InvalidOption, match="does not fit voxels of the type int16"):
        apply_transform(warp, image, method="nearest", fill=0.5)


def test_images_that_cannot_be_read(e2e: Path, tmp_path: Path) -> None:
    warp = load_transform(e2e / "joint.trans.nii.gz")
    with pytest.raises(InvalidImage, match="no such file"):
        apply_transform(warp, tmp_path / "none.nii.gz")
    whole = nibabel.Nifti1Image(np.zeros((9, 9, 9, 3), np.float32), np.eye(4)).to_bytes()
    (tmp_path / "cut.nii").write_bytes(whole[:-100])
    with pytest.raises(InvalidImage, match="the header promises"):
        apply_transform(warp, tmp_path / "cut.nii")
    with pytest.raises(InvalidImage, match="found 5-D"):
        apply_transform(warp, nibabel.Nifti1Image(np.zeros((2, 2, 2, 2, 2), np.float32), np.eye(4)))
