"""Occlusion finds what was planted, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kerasneuro.errors import InvalidOption
from kerasneuro.explain import occlusion_sensitivity
from kerasneuro.explain.occlusion import place_windows
from kerasneuro.inference import Engine


def test_hiding_the_blob_costs_most(detector: Any, blob: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    falls = occlusion_sensitivity(
        detector, blob, 1, window=4, stride=2, value=0.1, progress=lambda *now: seen.append(now)
    )
    assert falls.shape == blob.shape[:4]
    assert falls.dtype == np.float32
    peak = np.unravel_index(falls[0].argmax(), falls[0].shape)
    assert all(low <= at < high for at, low, high in zip(peak, (8, 5, 4), (12, 9, 8), strict=True))
    places = np.stack(np.meshgrid(*map(np.arange, falls.shape[1:]), indexing="ij"), axis=-1)
    middle = (places * falls[0][..., None]).sum(axis=(0, 1, 2)) / falls.sum()
    np.testing.assert_allclose(middle, (9.5, 6.5, 5.5), atol=0.2)
    assert falls.min() >= -1e-5
    assert seen[-1][0] == seen[-1][1]
    against = occlusion_sensitivity(detector, blob, 0, window=4, stride=2, value=0.1)
    np.testing.assert_allclose(against, -falls, atol=1e-4)


def test_one_window_is_the_fall_of_the_whole(detector: Any, blob: np.ndarray) -> None:
    falls = occlusion_sensitivity(detector, blob, 1, window=64, stride=64, value=0.25)
    scores = Engine(detector)(np.concatenate([blob, np.full_like(blob, 0.25)]))[:, 1]
    np.testing.assert_allclose(falls, scores[0] - scores[1], rtol=1e-5)


def test_the_batch_size_changes_nothing(classifier: Any, batch: np.ndarray) -> None:
    maps = [
        occlusion_sensitivity(classifier, batch, (0, 1), window=(3, 4, 2), stride=2, batch_size=size)
        for size in (1, 5)
    ]
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-5)


def test_windows_cover_every_voxel() -> None:
    count = np.zeros((11, 7, 5), int)
    for place in place_windows(count.shape, (4, 3, 9), (3, 2, 9)):
        assert count[place].shape == (4, 3, 5)
        count[place] += 1
    assert count.min() == 1


def test_wrong_arguments_are_refused(classifier: Any, batch: np.ndarray) -> None:
    for wrong in ({"window": 0}, {"stride": 0}, {"window": (2, 2)}, {"batch_size": 0}, {"window": 2.5}):
        with pytest.raises(InvalidOption):
            occlusion_sensitivity(classifier, batch, 0, **wrong)
    with pytest.raises(InvalidOption, match="leaves gaps"):
        occlusion_sensitivity(classifier, batch, 0, window=2, stride=3)
