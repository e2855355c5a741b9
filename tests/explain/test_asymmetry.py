"""Asymmetry maps: the formula, both sides, every orientation, and a head off the middle."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.explain import asymmetry_map, find_midline
from kerasneuro.volume import save_image

pytestmark = pytest.mark.backend_free

RAS = axcodes2ornt("RAS")
AFFINE = np.array([[2.0, 0, 0, -20], [0, 3, 0, -10], [0, 0, 1.5, 5], [0, 0, 0, 1]])


def image(array: np.ndarray, affine: np.ndarray = AFFINE) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(array.astype(np.float32), affine)


def noise(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 2, shape)


@given(
    shape=st.tuples(*[st.integers(2, 7)] * 3),
    codes=st.sampled_from(["RAS", "LAS", "PIL", "ASR", "SPL"]),
    seed=st.integers(0, 99),
)
def test_the_map_is_the_formula_in_every_orientation(
    shape: tuple[int, int, int], codes: str, seed: int
) -> None:
    ras = noise(shape, seed)
    mirror = ras[::-1]
    expected = 2 * (ras - mirror) / (ras + mirror + 0.5)
    turn = ornt_transform(RAS, axcodes2ornt(codes))
    stored = nibabel.orientations.apply_orientation(ras, turn)
    found = asymmetry_map(image(stored, AFFINE @ inv_ornt_aff(turn, shape)), midline="centre", epsilon=0.5)
    assert nibabel.aff2axcodes(found.affine) == tuple(codes)
    back = nibabel.orientations.apply_orientation(found.get_fdata(), ornt_transform(axcodes2ornt(codes), RAS))
    np.testing.assert_allclose(back, expected, atol=1e-6)


@given(seed=st.integers(0, 99), midline=st.sampled_from(["centre", "head"]))
def test_mirroring_the_scan_or_the_map_changes_the_sign(seed: int, midline: str) -> None:
    scan = np.zeros((21, 6, 5))
    scan[3:16] = noise((13, 6, 5), seed)
    found = asymmetry_map(image(scan), midline=midline).get_fdata()
    mirrored = asymmetry_map(image(scan[::-1]), midline=midline).get_fdata()
    np.testing.assert_allclose(mirrored, found[::-1], atol=1e-6)
    if midline == "centre":
        np.testing.assert_allclose(found[::-1], -found, atol=1e-6)
        np.testing.assert_allclose(mirrored, -found, atol=1e-6)


def test_a_brighter_left_is_positive_on_the_left() -> None:
    scan = np.ones((10, 4, 4))
    scan[2, 1, 1] = 3.0  # RAS: small index is left
    found = asymmetry_map(image(scan), midline="centre", epsilon=1e-9).get_fdata()
    assert found[2, 1, 1] == pytest.approx(2 * (3 - 1) / (3 + 1))
    assert found[7, 1, 1] == pytest.approx(-1.0)
    assert np.count_nonzero(found) == 2


@pytest.mark.parametrize("shift", [-6, -1, 2, 3, 7])
@pytest.mark.parametrize("width", [12, 13])
def test_the_middle_of_the_head_is_found_wherever_it_lies(shift: int, width: int) -> None:
    half = noise((width // 2, 8, 8), 5)
    head = np.concatenate([half, noise((width % 2, 8, 8), 6), half[::-1]])
    scan = np.zeros((30, 8, 8))
    start = 9 + shift
    scan[start : start + width] = head
    assert find_midline(scan) == start + (width - 1) / 2
    assert not asymmetry_map(image(scan)).get_fdata().any()
    assert asymmetry_map(image(scan), midline="centre").get_fdata().any()


def test_the_map_keeps_the_header_and_the_range(tmp_path: Path) -> None:
    scan = np.random.default_rng(7).integers(-5, 100, (9, 8, 7)).astype(np.int16)
    source = nibabel.Nifti1Image(scan, AFFINE)
    source.set_sform(AFFINE, 4)
    found = asymmetry_map(source)
    assert found.get_data_dtype() == np.float32
    np.testing.assert_array_equal(found.affine, AFFINE)
    assert int(found.header["sform_code"]) == 4
    values = found.get_fdata()
    assert np.abs(values).max() <= 2
    path = save_image(found, tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(nibabel.load(path).get_fdata(), values)


def test_wrong_arguments_are_refused() -> None:
    scan = image(noise((6, 5, 4)))
    for wrong in ("middle", -1, 5.5, 1.3, None):
        with pytest.raises(InvalidOption, match="midline"):
            asymmetry_map(scan, midline=wrong)
    with pytest.raises(InvalidOption, match="epsilon"):
        asymmetry_map(scan, epsilon=0.0)
    with pytest.raises(InvalidImage):
        asymmetry_map(image(np.ones((4, 4, 4))))
