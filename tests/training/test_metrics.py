"""Overlap of predicted with true labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasneuro.training.metrics.class_overlap import class_overlap

pytestmark = pytest.mark.backend_free


def test_scores_of_a_small_case() -> None:
    found = class_overlap(np.array([0, 0, 1, 1, 1, 255]), np.array([0, 1, 1, 1, 2, 1]), 4)
    np.testing.assert_allclose(found.dice, [2 / 3, 2 / 3, 0, np.nan])
    np.testing.assert_allclose(found.jaccard, [1 / 2, 1 / 2, 0, np.nan])
    np.testing.assert_allclose(found.recall, [1 / 2, 2 / 3, np.nan, np.nan])
    np.testing.assert_allclose(found.precision, [1, 2 / 3, 0, np.nan])


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_parts_add_up_to_the_whole(seed: int, classes: int) -> None:
    labels, predicted = np.random.default_rng(seed).integers(0, classes, (2, 40))
    whole = class_overlap(labels, predicted, classes)
    parts = class_overlap(labels[:15], predicted[:15], classes) + class_overlap(
        labels[15:], predicted[15:], classes
    )
    np.testing.assert_array_equal(parts.dice, whole.dice)
    np.testing.assert_array_equal(class_overlap(predicted, labels, classes).dice, whole.dice)
    assert whole.truth.sum() == whole.predicted.sum() == 40
