"""Intensity scales and mask cleaning by the rules of the originals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.volume import (
    cut,
    dilate,
    fill_holes,
    finite_float32,
    largest_component,
    load,
    nearest_float32,
    normalise_between,
    quantile_limits,
    to_axcodes,
    zscore,
)

masks = st.tuples(*[st.integers(1, 6)] * 3).flatmap(lambda shape: arrays(bool, shape))
ELEMENTS = {6: 1, 18: 2, 26: 3}


def test_zscore_equals_the_original(fixtures: Path) -> None:
    stored = np.load(fixtures / "nobrainer" / "volume_utils.npz")
    for name in ("", "64", "i"):
        found = zscore(stored[f"std_in{name}"])
        np.testing.assert_array_equal(found, stored[f"std_np{name}"])
        assert found.dtype == stored[f"std_np{name}"].dtype


@pytest.mark.parametrize("value", [0.0, 3.5, np.nan])
def test_zscore_of_a_constant(value: float) -> None:
    with pytest.raises(InvalidImage, match=r"^expected[^\n]*found mean"):
        zscore(np.full((3, 4, 5), value, np.float32))


@given(arrays(np.float32, st.integers(2, 400), elements=st.integers(-9999, 9999)))
def test_quantiles_equal_numpy(values: np.ndarray) -> None:
    expected = np.quantile(values.astype(np.float64), (0.005, 0.995))
    span = float(np.ptp(values.astype(np.float64)))
    error = 4 * float(np.finfo(np.float32).eps) * (values.size * span + np.abs(values).max())  # of the rank
    assume(expected[1] - expected[0] > 4 * error)
    np.testing.assert_allclose(quantile_limits(values), expected, rtol=0, atol=error)


def test_rank_of_a_quantile_is_float32() -> None:
    values = np.random.default_rng(0).permutation(128**3).astype(np.float32)
    low, high = quantile_limits(values)
    assert high == 2086665.25  # 2086665.245 in exact arithmetic
    assert low == pytest.approx(10485.755, abs=1e-3)


def test_quantile_of_a_constant() -> None:
    with pytest.raises(InvalidImage, match=r"found 4 for both the 0\.5% and the 99\.5% quantile"):
        quantile_limits(np.full((20, 20, 20), 4, np.float32))


def test_normalise_is_the_formula() -> None:
    array = np.asfortranarray(np.random.default_rng(0).normal(50, 20, (9, 10, 11)).astype(np.float32))
    found = normalise_between(array, 20, 90)
    scaled = np.clip((array.astype(np.float64) - 20) / 70, 0, 1)
    np.testing.assert_allclose(
        found, (scaled - scaled.mean()) / scaled.std(ddof=1) * 0.226 + 0.449, atol=1e-6
    )
    assert found.dtype == np.float32 and found.flags.c_contiguous


def test_normalise_refuses_a_clipped_constant() -> None:
    with pytest.raises(InvalidImage, match="between 20 and 90"):
        normalise_between(np.full((3, 4, 5), 200, np.float32), 20, 90)


def test_not_finite_becomes_finite() -> None:
    limit = float(np.finfo(np.float32).max)
    found = finite_float32(np.array([np.nan, np.inf, -np.inf, 1e300, 2]))
    np.testing.assert_array_equal(found, np.array([0, limit, -limit, limit, 2], np.float32))
    clean = np.ones((2, 3), np.float32)
    assert finite_float32(clean) is clean


@pytest.mark.parametrize("name", ["head_2mm_RAS", "head_aniso_PIL_int16"])
def test_deepbet_inputs_equal_the_original(fixtures: Path, name: str) -> None:
    folder = fixtures / "deepbet"
    stages = np.load(folder / f"{name}_stages.npz")
    box = json.loads((folder / "end_to_end_small.json").read_text())[name]["bbox_ras"]
    scan, _ = to_axcodes(load(folder / f"{name}.nii.gz"), "RAS")
    first = nearest_float32(scan.array, (128, 128, 128))
    limits = quantile_limits(first)
    np.testing.assert_allclose(
        normalise_between(first, *limits)[1::8, 2::8, 3::8], stages["bbox_input_sub8"], rtol=0, atol=2e-6
    )
    second = nearest_float32(cut(scan.array, box), (256, 256, 256))
    np.testing.assert_allclose(
        normalise_between(second, *limits)[1::16, 2::16, 3::16], stages["main_input_sub16"], rtol=0, atol=2e-6
    )


@given(masks, st.sampled_from([6, 18, 26]), st.sampled_from(["first", "last"]), st.booleans())
def test_largest_component_equals_scipy(mask: np.ndarray, connectivity: int, tie: str, fortran: bool) -> None:
    labels, count = ndimage.label(mask, ndimage.generate_binary_structure(3, ELEMENTS[connectivity]))
    sizes = [int((labels == label).sum()) for label in range(1, count + 1)]
    expected = np.zeros(mask.shape, bool)
    if sizes:
        best = [label for label, size in enumerate(sizes, 1) if size == max(sizes)]
        expected = labels == (best[0] if tie == "first" else best[-1])
    given_mask = np.asfortranarray(mask) if fortran else mask
    np.testing.assert_array_equal(largest_component(given_mask, connectivity, tie), expected)  # type: ignore[arg-type]


def test_ties() -> None:
    mask = np.zeros((5, 5, 5), np.uint8)
    mask[0, 0, 4] = mask[4, 0, 0] = mask[2, 2, 2] = 1
    assert np.argwhere(largest_component(mask)).tolist() == [[0, 0, 4]]
    assert np.argwhere(largest_component(mask, tie="last")).tolist() == [[4, 0, 0]]


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5, 5), (3, 1, 7), (8, 7, 1)])
def test_single_voxels_in_a_thin_array(shape: tuple[int, int, int]) -> None:
    mask = (np.indices(shape) % 2 == 0).all(axis=0)
    assert np.argwhere(largest_component(mask)).tolist() == [[0, 0, 0]]


def test_unknown_connectivity() -> None:
    with pytest.raises(InvalidOption, match="found 8 and 'first'"):
        largest_component(np.ones((2, 2, 2), bool), connectivity=8)  # type: ignore[arg-type]


@given(masks)
def test_fill_holes_equals_scipy(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


def test_hole_open_to_a_face_stays() -> None:
    mask = np.ones((7, 7, 7), np.uint8)
    mask[3, 3, 3] = 0
    assert fill_holes(mask).all()
    mask[3, 3, :4] = 0
    np.testing.assert_array_equal(fill_holes(mask), mask.astype(bool))


@given(masks, st.integers(-4, 4))
def test_dilate_equals_scipy(mask: np.ndarray, n: int) -> None:
    expected = mask
    if n > 0:
        expected = ndimage.binary_dilation(mask, iterations=n)
    elif n < 0:
        expected = ndimage.binary_erosion(mask, iterations=-n, border_value=1)
    before = mask.copy()
    np.testing.assert_array_equal(dilate(mask, n), expected)
    np.testing.assert_array_equal(mask, before)
