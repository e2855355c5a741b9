"""Losses and metrics of segmentation: nobrainer's values, what was mended, what options mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.training.losses.adversarial import Wasserstein, gradient_penalty
from kerasneuro.training.losses.by_name import LOSSES, CombinedLoss, get_loss
from kerasneuro.training.losses.generalised_dice import GeneralisedDice, generalised_dice_score
from kerasneuro.training.losses.overlap import Dice, FocalTversky, Jaccard, Tversky
from kerasneuro.training.losses.voxel import (
    BoundaryWeighted,
    CrossEntropy,
    Elbo,
    border_weights,
    cross_entropy,
    elbo,
)
from kerasneuro.training.metrics.overlap import (
    DiceMetric,
    JaccardMetric,
    soft_dice_score,
    soft_jaccard_score,
)

ABSOLUTE = 1e-6


@pytest.fixture(scope="module")
def case(fixtures: Path) -> dict[str, np.ndarray]:
    with np.load(fixtures / "nobrainer" / "losses_metrics.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def binary(case: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return case["bin_true"], case["bin_pred"]


@pytest.fixture(scope="module")
def classes(case: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return case["mc_true"], case["mc_pred"]


Pair = tuple[np.ndarray, np.ndarray]


def number(value: Any) -> np.ndarray:
    return ops.convert_to_numpy(value)


def agree(found: Any, expected: np.ndarray) -> None:
    assert number(found).shape == expected.shape
    np.testing.assert_allclose(number(found), expected, rtol=0, atol=ABSOLUTE)


def test_overlaps_of_one_class_have_the_original_values(case: dict[str, np.ndarray], binary: Pair) -> None:
    agree(Dice(reduction=None)(*binary), case["dice_loss"])
    agree(Dice()(*binary), case["Dice_mean"])
    agree(Dice(reduction="sum")(*binary), case["Dice_sum"])
    agree(Jaccard(reduction=None)(*binary), case["jaccard_loss"])
    agree(Jaccard()(*binary), case["Jaccard_mean"])
    agree(Tversky(reduction=None)(*binary), case["tversky_bin"])
    agree(GeneralisedDice(original=True, reduction=None)(*binary), case["gdice_bin"])
    agree(soft_dice_score(*binary), case["m_dice"])
    agree(soft_jaccard_score(*binary), case["m_jaccard"])


def test_overlaps_of_classes_have_the_original_values(case: dict[str, np.ndarray], classes: Pair) -> None:
    agree(1 - Dice(per_class=True).index(*classes), case["dice_axis123"])
    agree(1 - Jaccard(per_class=True).index(*classes), case["jaccard_axis123"])
    agree(GeneralisedDice(original=True, reduction=None)(*classes), case["gdice_loss"])
    agree(GeneralisedDice(original=True)(*classes), case["GeneralizedDice_mean"])
    agree(generalised_dice_score(*classes, original=True), case["m_gdice"])
    agree(Tversky(reduction=None)(*classes), case["tversky_loss"])
    agree(Tversky()(*classes), case["Tversky_mean"])
    agree(Tversky(0.5, 0.5, reduction=None)(*classes), case["tversky_a5b5"])
    # The original's metric of that name is the sum over the classes.
    agree(ops.sum(Tversky().index(*classes), axis=-1), case["m_tversky"])


def test_adversarial_losses_have_the_original_values(case: dict[str, np.ndarray], binary: Pair) -> None:
    truth, answers = 2 * binary[0] - 1, binary[1]
    agree(Wasserstein(reduction=None)(truth, answers), case["wasserstein"])
    agree(Wasserstein()(truth, answers), case["Wasserstein"])
    original = number(gradient_penalty(case["gp_grad"], case["gp_real"], original=True))
    np.testing.assert_allclose(original, case["gp"], rtol=2e-6)
    np.testing.assert_allclose(original.mean(), case["GradientPenalty"], rtol=2e-6)
    for real in (case["gp_real"], case["gp_real"][:, 0]):
        mended = number(gradient_penalty(case["gp_grad"], real))
        np.testing.assert_allclose(mended, np.diag(case["gp"]), rtol=2e-6)


@pytest.mark.parametrize("name", [*LOSSES, "dice+cross_entropy"])
def test_class_indices_and_logits_are_the_same_as_one_hot_and_probabilities(name: str, classes: Pair) -> None:
    truth, probability = classes
    loss = get_loss(name)
    expected = float(loss(truth, probability))
    assert float(loss(truth.argmax(-1), probability)) == pytest.approx(expected, rel=1e-6)
    assert float(loss(truth.argmax(-1)[..., None], probability)) == pytest.approx(expected, rel=1e-6)
    logits = get_loss(name, from_logits=True)
    assert float(logits(truth, np.log(probability) + 3)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_one_channel_takes_masks_and_logits(name: str, binary: Pair) -> None:
    truth, probability = binary[0], np.clip(binary[1], 0.01, 0.99)
    loss = get_loss(name)
    expected = float(loss(truth, probability))
    assert float(loss(truth[..., 0], probability)) == pytest.approx(expected, rel=1e-6)
    logits = get_loss(name, from_logits=True)
    assert float(logits(truth, np.log(probability / (1 - probability)))) == pytest.approx(expected, rel=1e-5)


def test_each_class_counts_alike_and_the_background_is_left_out(classes: Pair) -> None:
    truth, probability = classes
    axis = (1, 2, 3)
    dice = (2 * (truth * probability).sum(axis) + 1) / ((truth + probability).sum(axis) + 1)
    agree(Dice(per_class=True, smooth=1, reduction=None)(truth, probability), 1 - dice.mean(-1))
    agree(
        Dice(True, background=False, smooth=1, reduction=None)(truth, probability), 1 - dice[:, 1:].mean(-1)
    )
    axis = (0, 1, 2, 3)
    whole = 1 - (2 * (truth * probability).sum(axis)) / (truth + probability).sum(axis)
    agree(Dice(per_class=True, batch=True)(truth, probability), whole.mean())


def test_generalised_dice_is_mended() -> None:
    truth = np.zeros((1, 8, 8, 8, 3), np.float32)
    truth[:, :4, ..., 0], truth[:, 4:, ..., 1] = 1, 1
    false = truth.copy()
    false[:, 2:4] = (0, 0, 1)  # a class that is not there
    assert float(GeneralisedDice(original=True)(truth, false)) < 0.16
    assert float(GeneralisedDice()(truth, false)) == pytest.approx(1 - 2 * 384 / 1024, rel=1e-5)
    mask = np.ones((1, 64, 64, 64, 1), np.float32)
    assert float(GeneralisedDice(original=True)(mask, 0 * mask)) < 0.98
    assert float(GeneralisedDice()(mask, 0 * mask)) > 0.9999
    assert float(GeneralisedDice()(0 * mask, 0 * mask)) == 0


def test_focal_tversky_is_a_power_of_each_class(classes: Pair) -> None:
    missed = 1 - number(Tversky(reduction=None).index(*classes))
    agree(FocalTversky(reduction=None)(*classes), (missed**0.75).mean(-1))
    assert float(FocalTversky()(classes[0], classes[0])) < 1e-4


def test_cross_entropy_is_weighed_by_class_and_focused(classes: Pair, binary: Pair) -> None:
    truth, probability = classes
    parts = -truth * np.log(probability)
    agree(CrossEntropy()(truth, probability), parts.sum(-1).mean())
    weights = np.array([0.5, 1, 2, 4], np.float32)
    agree(CrossEntropy(class_weights=weights.tolist())(truth, probability), (parts @ weights).mean())
    agree(CrossEntropy(focusing=2)(truth, probability), (parts * (1 - probability) ** 2).sum(-1).mean())
    truth, probability = binary[0], np.clip(binary[1], 1e-3, 1 - 1e-3)
    mean = np.where(truth == 1, -3 * np.log(probability), -np.log(1 - probability)).mean()
    assert float(CrossEntropy(class_weights=[1, 3])(truth, probability)) == pytest.approx(mean, rel=1e-5)


def test_logits_far_away_still_tell_how_far() -> None:
    assert float(CrossEntropy(from_logits=True)([[0]], [[[-200.0, 300.0]]])) == pytest.approx(500)
    assert float(CrossEntropy(from_logits=True)([[0.0]], [[[300.0]]])) == pytest.approx(300)


def test_weights_of_items_and_voxels(classes: Pair) -> None:
    truth, probability = classes
    voxels = number(ops.sum(cross_entropy(truth, probability), axis=-1))
    items = np.array([1.0, 3.0], np.float32)
    found = CrossEntropy()(truth, probability, items)
    assert float(found) == pytest.approx(np.mean(voxels * items[:, None, None, None]), rel=1e-6)
    weights = np.random.default_rng(0).random(voxels.shape).astype(np.float32)
    assert float(CrossEntropy()(truth, probability, weights)) == pytest.approx(
        np.mean(voxels * weights), rel=1e-6
    )
    dice = number(Dice(reduction=None)(truth, probability))
    assert float(Dice()(truth, probability, items)) == pytest.approx(np.mean(dice * items), rel=1e-6)
    both = get_loss({"dice": 2.0, "cross_entropy": 0.5})
    expected = 2 * dice.mean() + 0.5 * np.mean(voxels * weights)
    assert float(both(truth, probability, weights)) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InvalidOption, match="weighs items"):
        Dice()(truth, probability, weights)


def test_borders_weigh_more() -> None:
    labels = np.zeros((1, 12, 9, 9), np.int32)
    labels[:, :6] = 2
    weights = number(border_weights(labels, strength=4, width=2, reach=3))[0, :, 4, 4]
    expected = 1 + 4 * np.exp(-np.array([0, 1, 4]) / 8)
    np.testing.assert_allclose(weights, [1, 1, 1, *expected[::-1], *expected, 1, 1, 1], rtol=1e-6)
    truth = np.eye(3, dtype=np.float32)[labels]
    near, far = truth * 0.9 + 0.1 / 3, truth * 0.9 + 0.1 / 3
    near[:, 5:7], far[:, :2] = 1 / 3, 1 / 3
    plain, weighed = CrossEntropy(), BoundaryWeighted()
    assert float(plain(labels, near)) == pytest.approx(float(plain(labels, far)), rel=1e-4)
    assert float(weighed(labels, near)) > 2 * float(weighed(labels, far))


def test_elbo_adds_the_divergences(classes: Pair) -> None:
    truth, probability = classes
    likelihood = float(Elbo()(truth.argmax(-1), probability))
    found = elbo(truth.argmax(-1), probability, [ops.convert_to_tensor(3.0), 5.0], examples=4)
    assert float(found) == pytest.approx(likelihood + 2, rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        Dice(per_class=True, background=False, smooth=1.0, from_logits=True),
        Jaccard(batch=True),
        FocalTversky(0.4, 0.6, gamma=2, per_class=False),
        GeneralisedDice(original=True),
        BoundaryWeighted(3, 2, 2, class_weights=[1, 2], focusing=1.0),
        Elbo(from_logits=True),
        Wasserstein(),
        get_loss({"tversky": 0.5, "cross_entropy": 2}, alpha=0.2, from_logits=True),
        CombinedLoss(["mse", Dice()]),
    ],
)
def test_losses_are_rebuilt_from_their_config(loss: keras.losses.Loss) -> None:
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss) and again.get_config() == loss.get_config()


def test_losses_by_name() -> None:
    for name, kind in LOSSES.items():
        assert type(get_loss(name)) is kind and get_loss(name).name == name
    assert get_loss("generalized_dice").name == "generalised_dice"
    assert get_loss("dice_cross_entropy").name == "dice+cross_entropy"
    loss = get_loss("dice+cross_entropy", background=False, class_weights=[1, 2], from_logits=True)
    assert isinstance(loss, CombinedLoss)
    dice, entropy = loss.losses
    assert not dice.background and dice.from_logits and entropy.class_weights == [1, 2]
    assert get_loss(dice) is dice
    with pytest.raises(InvalidOption, match="nearest is jaccard"):
        get_loss("jacard")
    with pytest.raises(InvalidOption, match="no option gamma"):
        get_loss("dice+cross_entropy", gamma=2)
    with pytest.raises(InvalidOption, match="alpha and beta"):
        get_loss("tversky", alpha=-1)
    with pytest.raises(InvalidOption, match="class indices without"):
        Dice()(np.zeros((1, 4, 4)), np.zeros((1, 4, 4, 4, 2)))


@pytest.mark.parametrize("kind", [DiceMetric, JaccardMetric])
def test_metrics_count_all_batches_before_they_score(kind: type) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, (3, 5, 4, 6))
    probability = generator.random((3, 5, 4, 6, 4), np.float32)
    probability[..., 3] = 0  # occurs nowhere
    metric = kind(classes=4)
    assert np.isnan(float(metric.result()))
    metric.update_state(labels[:1], probability[:1])
    metric.update_state(np.eye(4, dtype=np.float32)[labels[1:]], probability[1:])
    found = probability.argmax(-1)
    common = np.array([np.sum((labels == c) & (found == c)) for c in range(3)])
    sizes = np.array([np.sum(labels == c) + np.sum(found == c) for c in range(3)])
    scores = 2 * common / sizes if kind is DiceMetric else common / (sizes - common)
    np.testing.assert_allclose(number(metric.class_scores()), [*scores, np.nan], rtol=1e-6)
    assert float(metric.result()) == pytest.approx(scores[1:].mean(), rel=1e-6)
    assert metric.overlap().common.tolist() == [*common, 0]
    metric.reset_state()
    assert np.isnan(float(metric.result()))
    again = kind.from_config(kind(classes=4, background=True).get_config())
    again.update_state(labels, probability)
    assert float(again.result()) == pytest.approx(scores.mean(), rel=1e-6)


def test_metric_of_one_channel_has_a_threshold_and_leaves_out_what_weighs_nothing(binary: Pair) -> None:
    truth, probability = binary
    probability = np.clip(probability, 1e-3, 1 - 1e-3)
    metric, logits = DiceMetric(threshold=0.3), DiceMetric(threshold=0.3, from_logits=True)
    metric.update_state(truth, probability)
    logits.update_state(truth[..., 0], np.log(probability / (1 - probability)))
    found = probability > 0.3
    expected = 2 * np.sum(found * truth) / (found.sum() + truth.sum())
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)
    assert float(logits.result()) == pytest.approx(expected, rel=1e-6)
    metric.reset_state()
    metric.update_state(truth, probability, np.array([0, 2, 0], np.float32))
    expected = 2 * np.sum((found * truth)[1]) / (found[1].sum() + truth[1].sum())
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InvalidOption, match="channels"):
        DiceMetric(classes=3).update_state(truth, probability)
