"""Reading: voxels as nibabel scales them, the affine by rule, contradictions told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from kerasneuro.volume import Volume, load

OBLIQUE = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.2, 0.3, -0.1) @ np.diag([1.1, 0.9, 1.3]), [-30, -20, 10]
)


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(3).integers(-900, 3000, (7, 8, 9)).astype(np.int16)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
@pytest.mark.parametrize("image_class", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_scaled_values_equal_nibabel(
    tmp_path: Path, array: np.ndarray, suffix: str, image_class: Any, order: str
) -> None:
    if suffix == ".img":
        image_class = nibabel.Nifti1Pair
    header = image_class.header_class(endianness=order)
    header.set_data_dtype(np.dtype(np.int16).newbyteorder(order))
    image = image_class(array, OBLIQUE, header)
    image.header.set_slope_inter(0.35, -120)
    path = tmp_path / f"scan{suffix}"
    nibabel.save(image, path)
    volume = load(path)
    expected = nibabel.load(path).get_fdata(dtype=np.float32)
    assert volume.array.dtype == np.float32 and volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, expected)
    assert not np.array_equal(volume.array, array)
    assert volume.scaling == pytest.approx((0.35, -120))
    assert volume.path == path
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)


def test_first_volume_equals_nibabel(tmp_path: Path) -> None:
    series = np.random.default_rng(0).integers(0, 3000, (5, 6, 7, 4)).astype(np.int16)
    image = nibabel.Nifti1Image(series, OBLIQUE)
    image.header.set_slope_inter(0.35, -120)
    path = tmp_path / "bold.nii.gz"
    nibabel.save(image, path)
    expected = nibabel.load(path).get_fdata(dtype=np.float32)[..., 0]
    for source in (path, nibabel.load(path)):
        np.testing.assert_array_equal(load(source, frames="first").array, expected)
    in_memory = nibabel.Nifti1Image(series, OBLIQUE)
    np.testing.assert_array_equal(load(in_memory, frames="first").array, series[..., 0])


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
def test_mgh(tmp_path: Path, array: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"orig{suffix}"
    nibabel.save(nibabel.MGHImage(array, OBLIQUE), path)
    volume = load(path)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-4)


def test_single_volume_with_a_fourth_axis(array: np.ndarray) -> None:
    volume = load(nibabel.Nifti1Image(array[..., np.newaxis], OBLIQUE))
    assert volume.shape == (7, 8, 9)
    np.testing.assert_array_equal(volume.array, array)


def test_type_of_the_file_can_be_kept(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "labels.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, OBLIQUE), path)
    assert load(path, dtype=None).array.dtype == np.int16


def test_volume_passes_unchanged(array: np.ndarray) -> None:
    volume = Volume(array.astype(np.float32), OBLIQUE, warnings=("noted",))
    again = load(volume)
    assert np.shares_memory(again.array, volume.array) and again.warnings == ("noted",)
    assert load(volume, dtype=np.int16).array.dtype == np.int16


def test_voxels_outlive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.eye(4)), path)
    volume = load(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    np.testing.assert_array_equal(volume.array.ravel(), np.arange(24))


def test_volume_never_changes(array: np.ndarray) -> None:
    volume = Volume(array, OBLIQUE)
    with pytest.raises(ValueError, match="read-only"):
        volume.array[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        volume.path = Path("x")  # type: ignore[misc]
    array[0, 0, 0] = 5  # the caller's own array stays writeable, and is not copied
    assert volume.array[0, 0, 0] == 5
    assert volume.replace(affine=np.eye(4)).zooms == (1, 1, 1)


def test_geometry_is_read_from_the_affine() -> None:
    volume = Volume(np.zeros((2, 3, 4)), [[0, 0, -3, 1], [2, 0, 0, 1], [0, -4, 0, 1], [0, 0, 0, 1]])
    assert volume.axcodes == ("A", "I", "L")
    assert volume.zooms == (2, 4, 3)
    assert volume.shape == (2, 3, 4)


def with_forms(sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int]) -> nibabel.Nifti1Image:
    image = nibabel.Nifti1Image(np.arange(504, dtype=np.int16).reshape(7, 8, 9), None)
    image.header.set_qform(qform, codes[1])
    image.header.set_sform(sform, codes[0])
    return nibabel.Nifti1Image(image.dataobj, image.header.get_best_affine(), image.header)


S, Q = np.diag([2.0, 2, 2, 1]), np.diag([1.0, 1, 1.5, 1])


@pytest.mark.parametrize(
    ("codes", "rule", "expected", "warns"),
    [
        ((1, 1), "best", S, "up to 10.0 mm apart; the sform is used"),
        ((1, 1), "sform", S, "the sform is used"),
        ((1, 1), "qform", Q, "the qform is used"),
        ((0, 1), "best", Q, None),
        ((0, 1), "sform", Q, "no sform"),
        ((1, 0), "best", S, None),
        ((1, 0), "qform", S, "no qform"),
    ],
)
def test_affine_by_rule(codes: tuple[int, int], rule: Any, expected: np.ndarray, warns: str | None) -> None:
    volume = load(with_forms(S, Q, codes), affine_rule=rule)
    np.testing.assert_allclose(volume.affine, expected)
    if warns is None:
        assert volume.warnings == ()
    else:
        assert len(volume.warnings) == 1 and warns in volume.warnings[0]


def test_disagreement_names_both_voxel_sizes() -> None:
    (warning,) = load(with_forms(S, Q, (1, 1))).warnings
    assert "2x2x2 mm" in warning and "1x1x1.5 mm" in warning


def test_disagreement_below_a_tenth_is_silent() -> None:
    near = S.copy()
    near[0, 3] = 0.09
    assert load(with_forms(S, near, (1, 1))).warnings == ()
    near[0, 3] = 0.11
    assert len(load(with_forms(S, near, (1, 1))).warnings) == 1
