"""Maps on other grids: half-pixel and corner-aligned resizing, the way to the scan and back."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.explain import resize_map, to_native
from kerasneuro.volume import save_image

pytestmark = pytest.mark.backend_free

SHAPES = st.tuples(*[st.integers(1, 9)] * 3)
AFFINE = np.array([[0.0, 0, 1.2, -20], [-0.9, 0, 0, 30], [0, 1.1, 0, 5], [0, 0, 0, 1]])


def ramp(shape: tuple[int, ...]) -> np.ndarray:
    """A function that is linear from corner to corner: 0..1 along each axis, with different slopes."""
    axes = [np.linspace(0, 1, size) if size > 1 else np.zeros(1) for size in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return x + 2 * y - 3 * z


@given(old=SHAPES, new=SHAPES, seed=st.integers(0, 99))
def test_half_pixel_resizing_is_that_of_scipy(
    old: tuple[int, int, int], new: tuple[int, int, int], seed: int
) -> None:
    array = np.random.default_rng(seed).normal(size=old)
    zooms = [m / n for n, m in zip(old, new, strict=True)]
    expected = ndimage.zoom(array, zooms, order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(resize_map(array, new), expected, atol=1e-12)


@given(old=SHAPES, new=SHAPES, seed=st.integers(0, 99))
def test_corner_resizing_is_that_of_scipy(
    old: tuple[int, int, int], new: tuple[int, int, int], seed: int
) -> None:
    array = np.random.default_rng(seed).normal(size=old)
    zooms = [m / n for n, m in zip(old, new, strict=True)]
    expected = ndimage.zoom(array, zooms, order=1, mode="nearest")
    np.testing.assert_allclose(resize_map(array, new, "corner"), expected, atol=1e-12)


@given(native=st.tuples(*[st.integers(2, 9)] * 3), network=st.tuples(*[st.integers(2, 9)] * 3))
def test_the_way_to_the_network_and_back_keeps_places(
    native: tuple[int, int, int], network: tuple[int, int, int]
) -> None:
    scan = ramp(native)
    seen = resize_map(scan, network, "corner")
    np.testing.assert_allclose(seen, ramp(network), atol=1e-12)
    found = to_native(seen, nibabel.Nifti1Image(scan.astype(np.float32), AFFINE))
    np.testing.assert_allclose(found.get_fdata(), scan, atol=1e-6)


def test_a_peak_goes_home_with_the_header_of_the_scan(tmp_path: Path) -> None:
    scan = nibabel.Nifti1Image(np.arange(37 * 51 * 43, dtype=np.int16).reshape(37, 51, 43), AFFINE)
    scan.set_qform(AFFINE, 2)
    path = save_image(scan, tmp_path / "scan.nii.gz")
    heat = np.zeros((128, 128, 128), np.float32)
    place = (12, 40, 30)
    heat[tuple(round(at * 127 / (size - 1)) for at, size in zip(place, scan.shape, strict=True))] = 1
    wide = ndimage.gaussian_filter(heat, 3.0)
    found = to_native(wide, path)
    assert np.unravel_index(found.get_fdata().argmax(), scan.shape) == place
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-5)
    assert int(found.header["qform_code"]) == 2
    assert found.get_data_dtype() == np.float32


def test_the_centre_grid_keeps_constant_maps_up_to_the_border() -> None:
    scan = nibabel.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4))
    for grid in ("corner", "centre"):
        found = to_native(np.full((2, 2, 2), 0.5), scan, grid)
        np.testing.assert_array_equal(found.get_fdata(), 0.5)


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    scan = nibabel.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4))
    with pytest.raises(InvalidOption, match="grid must be one of corner, centre"):
        to_native(np.ones((2, 2, 2)), scan, "middle")
    with pytest.raises(InvalidOption, match="three axes"):
        to_native(np.ones((1, 2, 2, 2)), scan)
    with pytest.raises(InvalidOption, match="NaN"):
        to_native(np.full((2, 2, 2), np.nan), scan)
    with pytest.raises(InvalidImage):
        to_native(np.ones((2, 2, 2)), tmp_path / "missing.nii.gz")
