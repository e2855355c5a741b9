"""Surface distances and volume errors against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.training.metrics.surface import hausdorff_95, surface, surface_distance, volume_error

pytestmark = pytest.mark.backend_free

ZOOMS = (1.0, 0.7, 2.5)


def by_definition(truth: np.ndarray, found: np.ndarray) -> tuple[float, float, float]:
    """Compute Hausdorff 95 and 100 and the average distance from all pairs of surface voxels."""
    points = [np.argwhere(surface(mask)) * ZOOMS for mask in (truth, found)]
    distances = cdist(*points)
    ways = distances.min(axis=1), distances.min(axis=0)
    tails = (max(np.percentile(way, share) for way in ways) for share in (95, 100))
    return *tails, np.concatenate(ways).mean()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.9))
def test_distances_are_those_of_all_pairs(seed: int, density: float) -> None:
    generator = np.random.default_rng(seed)
    truth, found = generator.random((2, 6, 8, 5)) < density
    truth[0, 3, 2] = found[4, 0, 0] = True
    tail, largest, mean = by_definition(truth, found)
    assert hausdorff_95(truth, found, ZOOMS) == pytest.approx(tail)
    assert hausdorff_95(truth, found, ZOOMS, percentile=100) == pytest.approx(largest)
    assert surface_distance(truth, found, ZOOMS) == pytest.approx(mean)
    assert surface_distance(found, truth, ZOOMS) == pytest.approx(mean)


def test_surface_is_what_touches_the_outside_or_the_border() -> None:
    cube = np.zeros((6, 6, 6), bool)
    cube[:4, 1:5, 1:5] = True
    inside = cube & ~surface(cube)
    assert inside.sum() == 2 * 2 * 2 and inside[1:3, 2:4, 2:4].all()


def test_a_shifted_box_is_off_by_its_shift() -> None:
    truth = np.zeros((30, 30, 30), np.uint8)
    truth[5:15, 5:15, 5:15] = 1
    assert hausdorff_95(truth, np.roll(truth, 4, axis=2), ZOOMS) == pytest.approx(10.0)
    assert (
        surface_distance(truth, truth, ZOOMS) == hausdorff_95(truth, truth) == volume_error(truth, truth) == 0
    )
    assert volume_error(truth, np.roll(truth, 4, axis=2)) == 0
    assert hausdorff_95(truth[5], np.roll(truth[5], 3, axis=0), 2.0) == pytest.approx(6.0)


def test_volume_error_has_a_sign() -> None:
    truth, half = np.ones((4, 4, 4)), np.ones((4, 4, 4))
    half[:2] = 0
    assert volume_error(truth, half) == -0.5 and volume_error(half, truth) == 1
    assert volume_error(truth, half, absolute=True) == 0.5


def test_empty_masks() -> None:
    empty, full = np.zeros((4, 4, 4)), np.ones((4, 4, 4))
    for score in (hausdorff_95, surface_distance, volume_error):
        assert score(empty, empty) == 0 and score(empty, full) == np.inf
    assert hausdorff_95(full, empty) == surface_distance(full, empty) == np.inf
    assert volume_error(full, empty) == -1


def test_what_does_not_fit_is_refused() -> None:
    mask = np.ones((4, 4, 4))
    with pytest.raises(InvalidImage, match="one grid"):
        hausdorff_95(mask, mask[:3])
    for sizes in ((1, 1), (1, 0, 1), (1, np.nan, 1)):
        with pytest.raises(InvalidOption, match="positive number of mm"):
            surface_distance(mask, mask, sizes)
    with pytest.raises(InvalidOption, match="percentile"):
        hausdorff_95(mask, mask, percentile=101)
