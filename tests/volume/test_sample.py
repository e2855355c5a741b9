"""The sampler of moved images, against the original's and against a voxel-by-voxel reading of its rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasneuro.errors import InvalidOption
from kerasneuro.volume import sample
from kerasneuro.volume.sample import Method, Source, sample_grid, sample_places

METHODS: tuple[Method, ...] = ("linear", "nearest")


@pytest.fixture(scope="module")
def stored(fixtures: Path) -> Any:
    return np.load(fixtures / "synthmorph" / "op_surfa_resample.npz")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("fill", [0, -5])
@pytest.mark.parametrize("method", METHODS)
def test_no_bit_differs_from_the_original(stored: Any, method: Method, fill: int, order: Any) -> None:
    frames, shape = np.asarray(stored["src"], order=order), stored["target_shape"]
    found = sample_grid(frames, shape, matrix=stored["affine"], method=method, fill=fill)
    np.testing.assert_array_equal(found, stored[f"affine_{method}_fill_{fill}"])
    field = np.asarray(stored["disp"], order=order)
    found = sample_grid(frames, shape, displacement=field, method=method, fill=fill)
    np.testing.assert_array_equal(found, stored[f"disp_{method}_fill_{fill}"])


@pytest.mark.parametrize("method", METHODS)
def test_border_and_halves_equal_the_original(stored: Any, method: Method) -> None:
    field = stored["probe_disp"]
    found = sample_grid(stored["src"], field.shape[:3], displacement=field, method=method, fill=-5)
    np.testing.assert_array_equal(found, stored[f"probe_{method}_fill_-5"])


@pytest.mark.parametrize("method", METHODS)
def test_integers_equal_the_original(stored: Any, method: Method) -> None:
    found = sample_grid(stored["src_i16"], stored["target_shape"], matrix=stored["affine"], method=method)
    np.testing.assert_array_equal(found, stored[f"affine_{method}_i16"])
    assert found.dtype == (np.float32 if method == "linear" else np.int16)


def by_rule(volume: np.ndarray, place: np.ndarray, method: Method, fill: float) -> float:
    """Sample one place as the rules say."""
    shape = np.array(volume.shape)
    if not np.all((place >= 0) & (place < shape)):
        return fill
    if method == "nearest":
        return float(
            volume[tuple(np.minimum(np.floor(place.astype(np.float64) + 0.5), shape - 1).astype(int))]
        )
    low = np.floor(place).astype(int)
    high, part = np.minimum(low + 1, shape - 1), place - low
    value = 0.0
    for corner in np.ndindex(2, 2, 2):
        side = np.array(corner)
        weight = np.prod(np.where(side, part, 1 - part))
        value += float(weight * volume[tuple(np.where(side, high, low))])
    return value


@given(st.integers(0, 2**31), st.sampled_from(METHODS), st.booleans(), st.sampled_from(["C", "F"]))
def test_rules(seed: int, method: Method, thin: bool, order: Any) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 3 if thin else 6, 3))
    frames = np.asarray(rng.normal(size=(*shape, 2)), np.float32, order=order)
    places = rng.choice([-0.01, 0, 0.25, 0.5, 0.75, 0.999, 1], (3, 4, 3, 2)) + rng.integers(
        -1, 7, (3, 4, 3, 2)
    )
    places = places.astype(np.float32)
    field = np.moveaxis(places - np.indices((4, 3, 2), dtype=np.float32), 0, -1)
    found = sample_grid(frames, (4, 3, 2), displacement=field, method=method, fill=9)
    reached = np.moveaxis(np.indices((4, 3, 2), dtype=np.float32), 0, -1) + field
    for index in np.ndindex(4, 3, 2):
        for frame in range(2):
            expected = by_rule(frames[..., frame], reached[index], method, 9)
            assert found[(*index, frame)] == pytest.approx(expected, abs=1e-6)


def test_many_blocks_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(30, 31, 32, 1)).astype(np.float32)
    matrix = np.eye(4) + rng.normal(0, 0.05, (4, 4)) * [[1], [1], [1], [0]]
    whole = sample_grid(frames, (40, 41, 42), matrix=matrix)
    monkeypatch.setattr(sample, "BLOCK", (7, 9, 11))
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        np.testing.assert_array_equal(sample_grid(frames, (40, 41, 42), matrix=matrix), whole)
    assert np.count_nonzero(whole) > 10000


def test_border_repeats_without_fill() -> None:
    volume = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
    places = [np.array([-3, 0.5, 2.75, 99, np.nan], np.float32), np.zeros(5, np.float32)]
    out = np.empty((1, 5), np.float32)
    sample_places(Source.of(volume), [*places, places[1] + 0.3], out, fill=None)
    np.testing.assert_array_equal(out[0], [0, 0.5, 2.75, 3, 0])


@pytest.mark.parametrize("method", METHODS)
def test_places_that_are_no_numbers_are_outside(method: Method) -> None:
    field = np.zeros((2, 2, 2, 3), np.float32)
    field[0, 0, 0, 1], field[1, 0, 0, 2], field[0, 1, 0, 0] = np.nan, np.inf, -np.inf
    found = sample_grid(
        np.ones((2, 2, 2, 1), np.float32), (2, 2, 2), displacement=field, method=method, fill=7
    )
    assert np.argwhere(found[..., 0] == 7).tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert np.count_nonzero(found == 1) == 5


def test_number_below_a_half_is_not_rounded_up() -> None:
    frames = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    field = np.zeros((1, 1, 1, 3), np.float32)
    field[..., 0] = np.nextafter(np.float32(0.5), np.float32(0))
    assert sample_grid(frames, (1, 1, 1), displacement=field, method="nearest").item() == 0


@pytest.mark.parametrize("fill", [-1, 300, 0.5])
def test_fill_that_labels_cannot_hold(fill: float) -> None:
    with pytest.raises(InvalidOption, match="does not fit voxels of the type uint8"):
        sample_grid(
            np.zeros((2, 2, 2, 1), np.uint8), (2, 2, 2), matrix=np.eye(4), method="nearest", fill=fill
        )


def test_options_of_the_sampler() -> None:
    frames = np.zeros((2, 2, 2, 1), np.float32)
    with pytest.raises(InvalidOption, match="'cubic'"):
        sample_grid(frames, (2, 2, 2), matrix=np.eye(4), method="cubic")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="either a matrix or a displacement"):
        sample_grid(frames, (2, 2, 2))
