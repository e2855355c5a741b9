"""Integrated gradients: complete, exact for a linear network, and honest where the steps are too few."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from kerasneuro.errors import InvalidOption
from kerasneuro.explain import integrated_gradients
from kerasneuro.inference import Engine

pytestmark = pytest.mark.training


def test_attributions_add_up_to_the_change_of_the_score(classifier: Any, batch: np.ndarray) -> None:
    baseline = np.full((7, 6, 5, 2), 0.3, np.float32)
    found = integrated_gradients(classifier, batch, (0, 2), baseline, steps=32)
    scores = Engine(classifier)(batch), Engine(classifier)(np.broadcast_to(baseline, batch.shape).copy())
    change = [scores[0][0, 0] - scores[1][0, 0], scores[0][1, 2] - scores[1][1, 2]]
    np.testing.assert_allclose(found.change, change, atol=1e-5)
    assert found.values.shape == batch.shape
    np.testing.assert_allclose(found.values.sum(axis=(1, 2, 3, 4)), change, rtol=2e-3)
    np.testing.assert_allclose(found.gap, found.values.sum(axis=(1, 2, 3, 4)) - change, atol=1e-5)
    assert found.warnings == ()


def test_a_linear_network_needs_one_step() -> None:
    image = keras.Input((3, 3, 3, 1))
    model = keras.Model(image, keras.layers.Dense(2, name="dense")(keras.layers.Flatten()(image)))
    kernel = np.random.default_rng(0).normal(size=(27, 2)).astype(np.float32)
    model.get_layer("dense").set_weights([kernel, np.ones(2, np.float32)])
    volume = np.random.default_rng(1).normal(size=(1, 3, 3, 3, 1)).astype(np.float32)
    found = integrated_gradients(model, volume, 1, steps=1)
    np.testing.assert_allclose(found.values.ravel(), volume.ravel() * kernel[:, 1], rtol=1e-6)
    np.testing.assert_allclose(found.gap, 0, atol=1e-5)


def test_too_few_steps_raise_a_doubt(detector: Any, blob: np.ndarray) -> None:
    # The path from 0 leaves the flat part of the ReLU only near its end, where the one midpoint is not.
    seen: list[tuple[int, int]] = []
    found = integrated_gradients(detector, 0.5 * blob, 1, steps=1, progress=lambda *now: seen.append(now))
    assert seen == [(0, 1), (1, 1)]
    assert len(found.warnings) == 1
    assert "take more than 1 steps" in found.warnings[0]


def test_the_attribution_lies_on_what_the_network_finds(detector: Any, blob: np.ndarray) -> None:
    found = integrated_gradients(detector, blob, 1)
    inside = np.zeros(blob.shape, bool)
    inside[:, 6:14, 3:11, 2:10] = True
    assert found.values[inside].sum() == pytest.approx(found.values.sum())
    assert found.values.sum() > 0


def test_wrong_arguments_are_refused(classifier: Any, batch: np.ndarray) -> None:
    with pytest.raises(InvalidOption, match="steps"):
        integrated_gradients(classifier, batch, 0, steps=0)
    with pytest.raises(InvalidOption, match="must fit the batch"):
        integrated_gradients(classifier, batch, 0, np.zeros((3, 3, 3, 2)))
    with pytest.raises(InvalidOption, match="baseline holds NaN"):
        integrated_gradients(classifier, batch, 0, np.nan)
