from __future__ import annotations

import numpy as np
import pytest

from kerasneuro.tasks.sanity import touches_border, volume_warnings


def cube(low: int, high: int, size: int = 20) -> np.ndarray:
    mask = np.zeros((size, size, size), np.uint8)
    mask[low:high, low:high, low:high] = 1
    return mask


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 5, True), (15, 20, True), (1, 19, False), (5, 5, False)]
)
def test_border(low: int, high: int, expected: bool) -> None:
    assert touches_border(cube(low, high)) is expected


def test_border_ignores_an_axis_of_one_plane() -> None:
    mask = np.zeros((9, 9, 1))
    mask[4, 4, 0] = 1
    assert not touches_border(mask)


def test_empty_mask_is_doubted_once() -> None:
    (sentence,) = volume_warnings(cube(3, 3), (1, 1, 1), (1.0, 2.0), name="brain mask")
    assert "brain mask is empty" in sentence


def test_volume_outside_the_plausible_range_is_told_in_cm3() -> None:
    (sentence,) = volume_warnings(cube(5, 15), (1.0, 2.0, 0.5), (1.5, 4.0))
    assert "1.0 cm3" in sentence and "1.5 to 4 cm3" in sentence


@pytest.mark.parametrize("limits", [None, (0.9, 1.1)])
def test_good_mask_raises_no_doubt(limits: tuple[float, float] | None) -> None:
    assert volume_warnings(cube(5, 15), (1, 1, 1), limits) == ()
