"""The conformed grid of FastSurfer, against the original's output (Deep-MI/FastSurfer@070647d)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from kerasneuro.errors import InvalidImage
from kerasneuro.volume import Volume, conform_mgh, load, save_image, to_image
from kerasneuro.volume.conform_mgh import (
    CONFORMED_SHAPE,
    ROTATION,
    intensity_scale,
    is_conformed,
    qform_wins,
    stored_as_uint8,
)

CASES = (
    "int16",
    "int16_order0",
    "int16_order3",
    "uint8",
    "qform_differs",
    "slope_4d",
    "mgz",
    "float32_oblique",
)
FLOAT_CASE = "float32_oblique"


def read(path: Path) -> Volume:
    scan = load(path, dtype=None)
    return load(path, dtype=None, affine_rule="qform") if qform_wins(scan) else scan


def conformed_image(dtype: type = np.uint8) -> nibabel.Nifti1Image:
    """Make an image on a conformed grid, away from the origin."""
    array = np.zeros(CONFORMED_SHAPE, dtype)
    array[100:120, 110:130, 90:140] = 50
    array[105:110, 115:120, 100:120] = 100
    affine = np.eye(4)
    affine[:3, :3] = ROTATION
    affine[:3, 3] = 130.0, -120.5, 127.25
    return nibabel.Nifti1Image(array, affine)


@pytest.mark.parametrize("case", CASES)
def test_conformed_volume_of_the_original(case: str, fixtures: Path) -> None:
    folder = fixtures / "fastsurfer"
    wanted = np.load(folder / f"conform_{case}.npz")
    meta = json.loads(str(wanted["meta"]))
    scan = read(folder / meta["input"])
    found, _ = conform_mgh(scan, order=meta["order"])
    assert found.array.dtype == np.uint8 and found.shape == CONFORMED_SHAPE
    np.testing.assert_array_equal(found.affine, meta["affine"])
    box = tuple(slice(*edge) for edge in zip(meta["crop_lo"], meta["crop_hi"], strict=True))
    expected = np.zeros(CONFORMED_SHAPE, np.uint8)
    expected[box] = wanted["crop"]
    if case != FLOAT_CASE:
        assert hashlib.sha256(found.array.tobytes()).hexdigest() == meta["sha256"]
    difference = np.abs(found.array.astype(int) - expected)
    # Newer NumPy bins float32 voxels otherwise at the edge of a bin: one level in a few voxels.
    assert difference.max() <= (case == FLOAT_CASE) and np.count_nonzero(difference) <= 10 * (
        case == FLOAT_CASE
    )
    if case == "int16":
        low, scale = intensity_scale(scan.array)
        assert (low, scale) == (18.0, pytest.approx(0.8242424242424242, abs=0))


def test_which_images_are_conformed_already(fixtures: Path) -> None:
    answers = json.loads((fixtures / "fastsurfer" / "is_conform_cases.json").read_text())
    plain = conformed_image()
    moved, turned, mirrored = (plain.affine.copy() for _ in range(3))
    moved[:3, 3] += 7.5
    turned[0, 1] = 2e-6
    mirrored[:3, :3] = np.eye(3)
    images = {
        "256^3 LIA uint8": plain,
        "256^3 LIA uint8, other centre": nibabel.Nifti1Image(plain.dataobj, moved),
        "off-diagonal 2e-6 in affine": nibabel.Nifti1Image(plain.dataobj, turned),
        "256^3 LIA int16": conformed_image(np.int16),
        "RAS": nibabel.Nifti1Image(plain.dataobj, mirrored),
    }
    assert {name: is_conformed(load(image, dtype=None)) for name, image in images.items()} == answers


def test_conformed_image_is_kept_as_it_is() -> None:
    scan = load(conformed_image(), dtype=None)
    found, back = conform_mgh(scan)
    assert found is scan and back(scan.array) is scan.array


def test_conformed_grid_with_another_type_is_scaled_and_told() -> None:
    found, _ = conform_mgh(load(conformed_image(np.int16), dtype=None))
    assert found.array.dtype == np.uint8 and found.array.max() == 255
    assert len(found.warnings) == 1 and "int16 instead of uint8" in found.warnings[0]


def test_saved_image_has_the_same_affine_again(tmp_path: Path, fixtures: Path) -> None:
    found, _ = conform_mgh(read(fixtures / "fastsurfer" / "conform_float32_oblique.nii.gz"))
    again = nibabel.load(save_image(to_image(found.array, found, dtype=np.uint8), tmp_path / "orig.mgz"))
    np.testing.assert_array_equal(again.affine, found.affine)
    assert again.get_data_dtype() == np.uint8
    assert is_conformed(load(tmp_path / "orig.mgz", dtype=None))


def test_labels_come_back_to_the_grid_of_the_scan() -> None:
    """A block of labels lands where the block of the scan was: a left-handed, oblique-free grid of 2 mm."""
    array = np.zeros((60, 70, 80), np.int16)
    array[20:30, 25:40, 30:50] = 100
    affine = np.array([[0.0, 2, 0, -70], [-2, 0, 0, 50], [0, 0, 2, -80], [0, 0, 0, 1]])
    scan = load(nibabel.Nifti1Image(array, affine), dtype=None)
    found, back = conform_mgh(scan)
    labels = np.where(found.array > 127, 1035, 0).astype(np.int16)
    native = back(labels)
    assert native.shape == scan.shape and native.dtype == np.int16
    np.testing.assert_array_equal(native > 0, array > 0)


def test_negative_intensities_are_refused() -> None:
    array = np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10) - 1
    with pytest.raises(InvalidImage, match="at least 0, found -1"):
        conform_mgh(load(nibabel.Nifti1Image(array, np.eye(4)), dtype=None))


def test_voxel_sizes_that_contradict_the_affine_are_refused(tmp_path: Path) -> None:
    array = np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10)
    image = nibabel.Nifti1Image(array, np.diag([2.0, 2, 2, 1]))
    image.set_qform(None, 0)
    image.header.set_zooms((2.0, 2.0, 3.0))
    image.header["srow_z"] = 0, 0, 2, 0
    path = tmp_path / "odd.nii"
    image.to_filename(path)
    scan = load(path, dtype=None)
    with pytest.raises(InvalidImage, match="2 x 2 x 3 mm in the header"):
        conform_mgh(scan)


def test_uint8_with_a_slope_is_scaled_like_other_numbers(tmp_path: Path) -> None:
    array = np.full((20, 20, 20), 40, np.uint8)
    array[4:16, 4:16, 4:16] = 200
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    # Values that do not fit are stored with a slope.
    nibabel.Nifti1Image(2.0 * array, np.eye(4), header).to_filename(tmp_path / "sloped.nii")
    scan = load(tmp_path / "sloped.nii", dtype=None)
    assert scan.header.get_data_dtype() == np.uint8 and scan.scaling != (1.0, 0.0)
    assert scan.array.max() > 255 and not stored_as_uint8(scan)
    found, _ = conform_mgh(scan)
    assert found.array.max() == 255
