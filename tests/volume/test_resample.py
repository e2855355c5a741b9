"""Stretching and warping by the rules of the originals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasneuro.errors import InvalidOption
from kerasneuro.volume import (
    load,
    nearest_float32,
    nearest_float32_axis_index,
    rotation_matrix,
    stretch_linear,
    stretch_nearest,
    warp_affine,
    zscore,
)

lengths = st.integers(1, 9)
shapes = st.tuples(lengths, lengths, lengths)


def random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(st.integers(1, 600), st.integers(1, 600))
def test_nearest_index_is_the_float32_formula(n: int, m: int) -> None:
    scale = np.float32(np.float32(n) / np.float32(m))
    expected = [
        min(int(np.floor(np.float32(np.float32(o) + np.float32(0.5)) * scale)), n - 1) for o in range(m)
    ]
    assert nearest_float32_axis_index(n, m).tolist() == expected


def test_nearest_index_in_float32_differs_from_exact_arithmetic() -> None:
    exact = {
        (n, m): [min((2 * o + 1) * n // (2 * m), n - 1) for o in range(m)]
        for m in (128, 256)
        for n in range(20, 513)
    }
    exact |= {(m, n): [min((2 * o + 1) * m // (2 * n), m - 1) for o in range(n)] for n, m in list(exact)}
    different = [key for key, index in exact.items() if nearest_float32_axis_index(*key).tolist() != index]
    assert 0 < len(different) < len(exact) / 10


@given(shapes, shapes, st.booleans())
def test_nearest_equals_a_loop(
    shape: tuple[int, int, int], target: tuple[int, int, int], fortran: bool
) -> None:
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    array = np.asfortranarray(array) if fortran else array
    index = [nearest_float32_axis_index(n, m) for n, m in zip(shape, target, strict=True)]
    found = nearest_float32(array, target)
    assert found.shape == target and found.dtype == array.dtype
    for x, y, z in np.ndindex(target):
        assert found[x, y, z] == array[index[0][x], index[1][y], index[2][z]]
    channels = np.stack([array, -array], axis=-1)
    np.testing.assert_array_equal(nearest_float32(channels, target)[..., 1], -found)


def linear_loop(array: np.ndarray, target: tuple[int, int, int]) -> np.ndarray:
    """Evaluate the rule voxel by voxel in float64, zeros outside."""
    padded = np.pad(array.astype(np.float64), 1)
    result = np.zeros(target)
    for index in np.ndindex(target):
        c = [(i + 0.5) * n / m - 0.5 + 1 for i, n, m in zip(index, array.shape, target, strict=True)]
        for corner in np.ndindex(2, 2, 2):
            at = [int(np.floor(v)) + k for v, k in zip(c, corner, strict=True)]
            weight = np.prod([1 - abs(v - a) for v, a in zip(c, at, strict=True)])
            if weight:
                result[index] += weight * padded[tuple(at)]
    return np.clip(result, array.min(), array.max())


@given(shapes, shapes)
def test_stretch_linear_equals_a_loop(shape: tuple[int, int, int], target: tuple[int, int, int]) -> None:
    array = random(shape)
    found = stretch_linear(array, target)
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, linear_loop(array, target), rtol=0, atol=6e-8 * max(1, np.abs(array).max())
    )


@given(shapes, shapes)
def test_stretch_nearest_equals_a_loop(shape: tuple[int, int, int], target: tuple[int, int, int]) -> None:
    array = random(shape)
    found = stretch_nearest(array, target)
    for index in np.ndindex(target):
        at = tuple(
            int(np.floor((i + 0.5) * n / m - 0.5 + 0.5)) for i, n, m in zip(index, shape, target, strict=True)
        )
        assert found[index] == array[at]


@given(shapes)
def test_stretch_to_the_same_shape_changes_nothing(shape: tuple[int, int, int]) -> None:
    array = random(shape)
    np.testing.assert_array_equal(stretch_linear(array, shape), array)
    np.testing.assert_array_equal(stretch_nearest(array, shape), array)
    np.testing.assert_array_equal(nearest_float32(array, shape), array)


def test_stretch_linear_darkens_the_border_and_clips() -> None:
    stretched = stretch_linear(np.ones((4, 4, 4), np.float32) * 5, (8, 8, 8))
    np.testing.assert_array_equal(stretched, 5)  # clipped to the range of the input, which is one value
    array = np.ones((4, 4, 4), np.float32) * 5
    array[1, 1, 1] = 0
    assert stretch_linear(array, (8, 8, 8))[0, 4, 4] == pytest.approx(5 * 0.75)


def test_stretch_linear_takes_integers() -> None:
    array = np.array([[[0, 10]]], np.int16)
    np.testing.assert_allclose(stretch_linear(array, (1, 1, 4))[0, 0], [0, 2.5, 7.5, 7.5])


def test_stretch_equals_the_original_pipeline(fixtures: Path) -> None:
    stored = np.load(fixtures / "nobrainer" / "pipe_intermediate.npz")
    scan = load(fixtures / "nobrainer" / "pipe_t1.nii.gz")
    resized = stretch_linear(scan.array, (64, 64, 64))
    np.testing.assert_allclose(
        resized[::8], stored["resized_slices"], rtol=0, atol=6e-8 * float(resized.max())
    )
    np.testing.assert_allclose(zscore(resized)[::8], stored["std_slices"], rtol=0, atol=5e-7)


def test_rotation_equals_the_original(fixtures: Path) -> None:
    stored = np.load(fixtures / "nobrainer" / "transform.npz")
    shape = stored["x"].shape
    matrix = rotation_matrix(shape, stored["rot"], stored["tr"])
    np.testing.assert_allclose(matrix, stored["affine"], rtol=0, atol=5e-7)
    np.testing.assert_allclose(
        rotation_matrix(shape, (np.pi / 4, np.pi / 4, 0)), stored["affine_tta"], rtol=0, atol=5e-7
    )


def test_warp_equals_the_original(fixtures: Path) -> None:
    stored = np.load(fixtures / "nobrainer" / "transform.npz")
    for matrix, expected in ((stored["affine"], "warp1"), (stored["affine_tta"], "warp_tta")):
        np.testing.assert_allclose(warp_affine(stored["x"], matrix), stored[expected], rtol=0, atol=1.7e-5)
    np.testing.assert_array_equal(warp_affine(stored["x"], stored["affine"], "nearest"), stored["warp0"])
    np.testing.assert_array_equal(
        warp_affine(stored["warp_tta"], stored["affine_tta_inv"], "nearest"), stored["unwarp_tta"]
    )


def test_warp_by_whole_voxels() -> None:
    array = random((5, 6, 7))
    shift = rotation_matrix(array.shape, (0, 0, 0), (1, 0, -2))
    linear, nearest = (warp_affine(array, shift, order) for order in ("linear", "nearest"))
    np.testing.assert_allclose(linear[:-1, :, 2:], array[1:, :, :-2], atol=1e-6)
    np.testing.assert_allclose(linear[-1, :, 2:], array[-1, :, :-2], atol=1e-6)  # the border is repeated
    np.testing.assert_array_equal(nearest[:-1, :, 2:], array[1:, :, :-2])
    np.testing.assert_array_equal(nearest[:, :, :2], 0)


@given(shapes, st.tuples(*[st.floats(-3.2, 3.2)] * 3), st.tuples(*[st.floats(-3, 3)] * 3))
def test_warp_linear_equals_scipy(
    shape: tuple[int, int, int], angles: tuple[float, ...], shift: tuple[float, ...]
) -> None:
    from scipy import ndimage

    array, matrix = random(shape), rotation_matrix(shape, angles, shift)
    expected = ndimage.affine_transform(array, matrix.astype(np.float64), order=1, mode="nearest")
    np.testing.assert_allclose(warp_affine(array, matrix), expected, atol=2e-6)


def test_unknown_order() -> None:
    with pytest.raises(InvalidOption, match="'cubic'"):
        warp_affine(random((3, 3, 3)), np.eye(4), "cubic")  # type: ignore[arg-type]
