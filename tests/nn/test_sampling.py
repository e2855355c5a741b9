"""Sampling against the original's numbers and against its definition in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.nn.resize import resize
from kerasneuro.nn.sampling import sample, sample_axes

ATOL = 1e-5
# Each new shape is compiled anew on all backends but PyTorch.
FEW = settings(max_examples=6 if keras.backend.backend() == "torch" else 2, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
FILLS = {"None": None, "0": 0.0, "3.5": 3.5}


def numpy(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))


def load(fixtures: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(fixtures / "synthmorph" / f"op_{name}.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def interpn(fixtures: Path) -> Mapping[str, np.ndarray]:
    return load(fixtures, "interpn")


@pytest.fixture(scope="module")
def surfa(fixtures: Path) -> Mapping[str, np.ndarray]:
    return load(fixtures, "surfa_resample")


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_places_in_a_volume(interpn: Mapping[str, np.ndarray], method: str, fill: str) -> None:
    found = numpy(sample(interpn["vol"][None], interpn["loc"][None], method, FILLS[fill]))[0]
    tolerance = ATOL if method == "linear" else 0
    np.testing.assert_allclose(found, interpn[f"{method}_fill_{fill}"], rtol=0, atol=tolerance)


def test_places_in_a_plane(interpn: Mapping[str, np.ndarray]) -> None:
    plane, places = interpn["vol2d"][None], interpn["loc2d"][None]
    found = numpy(sample(plane, places, fill_value=0.0))[0]
    np.testing.assert_allclose(found, interpn["linear2d_fill_0"], rtol=0, atol=ATOL)
    found = numpy(sample(plane, places, "nearest"))[0]
    np.testing.assert_array_equal(found, interpn["nearest2d_fill_None"])


@pytest.mark.parametrize("fill", ["0", "-5"])
@pytest.mark.parametrize("method", ["linear", "nearest"])
@pytest.mark.parametrize("kind", ["affine", "disp"])
def test_resampling_of_images(surfa: Mapping[str, np.ndarray], kind: str, method: str, fill: str) -> None:
    grid = np.stack(np.indices(surfa["target_shape"]), axis=-1).astype(np.float32)
    matrix = surfa["affine"].astype(np.float32)
    places = grid @ matrix[:3, :3].T + matrix[:3, 3] if kind == "affine" else grid + surfa["disp"]
    found = numpy(sample(surfa["src"][None], places[None], method, float(fill), "voxels"))[0]
    tolerance = 1e-6 * surfa["src"].max() if method == "linear" else 0
    np.testing.assert_allclose(found, surfa[f"{kind}_{method}_fill_{fill}"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_edges_of_images(surfa: Mapping[str, np.ndarray], method: str) -> None:
    count = len(surfa["probe_pos"])
    grid = np.stack(np.indices((count, 1, 1)), axis=-1).astype(np.float32)
    places = (grid + surfa["probe_disp"])[None]
    found = numpy(sample(surfa["src"][None], places, method, -5.0, "voxels"))[0]
    tolerance = 1e-6 * surfa["src"].max() if method == "linear" else 0
    np.testing.assert_allclose(found, surfa[f"probe_{method}_fill_-5"], rtol=0, atol=tolerance)


def test_nearest_keeps_the_type(surfa: Mapping[str, np.ndarray]) -> None:
    grid = np.stack(np.indices(surfa["target_shape"]), axis=-1).astype(np.float32)
    matrix = surfa["affine"].astype(np.float32)
    places = (grid @ matrix[:3, :3].T + matrix[:3, 3])[None]
    found = numpy(sample(surfa["src_i16"][None], places, "nearest", 0.0, "voxels"))[0]
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, surfa["affine_nearest_i16"])


def reference(volume: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Sum over the corners of a voxel, as the original writes it, in float64; (..., C) and (M, N)."""
    last = np.array(volume.shape[:-1]) - 1
    low = np.clip(np.floor(places), 0, last).astype(int)
    high = np.clip(low + 1, 0, last)
    weight = high - np.clip(places.astype(np.float64), 0, last)
    total = np.zeros((len(places), volume.shape[-1]))
    for corner in product((0, 1), repeat=places.shape[-1]):
        index = np.where(corner, high, low)
        share = np.where(corner, 1 - weight, weight).prod(axis=-1)
        total += share[:, None] * volume[tuple(index.T)]
    return total


@FEW
@given(SEEDS, st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(1, 3), st.integers(1, 2))
def test_linear_is_the_weighted_sum_of_corners(
    seed: int, shape: list[int], channels: int, batch: int
) -> None:
    rng = np.random.default_rng(seed)
    volume = rng.normal(size=(2, *shape, channels)).astype(np.float32)
    places = rng.uniform(-2, np.array(shape) + 1, size=(batch, 9, len(shape))).astype(np.float32)
    places[:, :3] = np.round(places[:, :3])
    found = numpy(sample(volume, places))
    for item in range(2):
        expected = reference(volume[item], places[item % batch])
        np.testing.assert_allclose(found[item], expected, rtol=0, atol=ATOL)


def test_voxel_centres_give_the_voxels() -> None:
    volume = np.random.default_rng(0).normal(size=(1, 5, 4, 6, 2)).astype(np.float32)
    grid = np.stack(np.indices(volume.shape[1:-1]), axis=-1)[None].astype(np.float32)
    for method, fill in product(("linear", "nearest"), (None, 9.0)):
        found = numpy(sample(volume, grid, method, fill))
        np.testing.assert_allclose(found, volume, rtol=0, atol=ATOL if method == "linear" else 0)


def test_nearest_ties_and_edges() -> None:
    line = np.arange(5, dtype=np.float32).reshape(1, 5, 1)
    places = np.array([-0.5, -1e-6, 0.5, 1.5, 2.5, 4.0, 4.4, 4.6], np.float32).reshape(1, -1, 1)
    found = numpy(sample(line, places, "nearest", 9.0))[0, :, 0]
    np.testing.assert_array_equal(found, [9, 9, 0, 2, 2, 4, 9, 9])
    found = numpy(sample(line, places, "nearest", 9.0, "voxels"))[0, :, 0]
    np.testing.assert_array_equal(found, [9, 9, 1, 2, 3, 4, 4, 4])


def test_a_constant_axis_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    plane = rng.normal(size=(2, 6, 7, 3)).astype(np.float32)
    places = [rng.uniform(-1, 7, (2, 11)).astype(np.float32) for _ in range(2)]
    expected = numpy(sample_axes(plane, places))
    slab = np.repeat(plane[:, :, None], 4, axis=2)
    middle = rng.uniform(-1, 4, (2, 11)).astype(np.float32)
    found = numpy(sample_axes(slab, [places[0], middle, places[1]]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("method", ["linear", "nearest"])
@pytest.mark.parametrize("factor", ["0.5", "2", "2.0", "1.5", "0.75", "0.3"])
def test_resize(fixtures: Path, factor: str, method: str) -> None:
    arrays = load(fixtures, "vecint_rescale")
    expected = arrays[f"resize_{factor}" if method == "linear" else f"resize_nearest_{factor}"]
    found = numpy(resize(arrays["vel"][None], float(factor), method))[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL if method == "linear" else 0)


@FEW
@given(SEEDS, st.sampled_from([(2.0, 1.0), (0.5, 3.0), (1.7, 0.4)]))
def test_resize_samples_between_the_first_and_last_centres(seed: int, factors: tuple[float, float]) -> None:
    volume = np.random.default_rng(seed).normal(size=(1, 7, 5, 2)).astype(np.float32)
    axes = [np.linspace(0, n - 1, int(n * zoom)) for n, zoom in zip((7, 5), factors, strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    found = numpy(resize(volume, factors))[0]
    np.testing.assert_allclose(found.reshape(-1, 2), reference(volume[0], places), rtol=0, atol=ATOL)


def test_unknown_methods_are_refused() -> None:
    volume, places = np.zeros((1, 3, 3, 1), np.float32), np.zeros((1, 4, 2), np.float32)
    with pytest.raises(InvalidOption, match="found 'cubic'"):
        sample(volume, places, "cubic")
    with pytest.raises(InvalidOption, match="found 'cubic'"):
        resize(volume, 2, "cubic")
    with pytest.raises(InvalidOption, match="found 'edges'"):
        sample(volume, places, domain="edges")


@pytest.mark.training
@pytest.mark.parametrize("fill", [None, 0.0])
def test_gradients(check_gradient: Callable[..., None], fill: float | None) -> None:
    rng = np.random.default_rng(7)
    volume = rng.normal(size=(2, 4, 5, 3, 2)).astype(np.float32)
    # Away from the grid planes, where the derivative jumps.
    places = np.floor(rng.uniform(-1, 5, (2, 8, 3))).astype(np.float32) + 0.5
    check_gradient(lambda x: sample(x, places, "linear", fill), volume)
    check_gradient(lambda x: sample(volume, x, "linear", fill), places)
    check_gradient(lambda x: resize(x, 1.5), volume)
