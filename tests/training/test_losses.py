"""Losses against the original's values, and what their options mean."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kerasneuro.training.losses.dice_cross_entropy import DiceCrossEntropy, PixelCrossEntropy, SoftDice

RELATIVE = 2e-6


@pytest.fixture(scope="module")
def case(fixtures: Path) -> dict[str, np.ndarray]:
    """Arrays of the fixture, channels last; labels int32."""
    with np.load(fixtures / "fastsurfer" / "training.npz") as file:
        found = {name: file[name] for name in file.files if name.startswith(("loss_", "dice_"))}
    for name in ("loss_logits", "loss_grad_logits"):
        found[name] = np.ascontiguousarray(found[name].transpose(0, 2, 3, 1))
    return {**found, "loss_target": found["loss_target"].astype(np.int32)}


def value(loss: keras.losses.Loss, case: dict[str, np.ndarray], weights: np.ndarray | None = None) -> float:
    found = loss(case["loss_target"], case["loss_logits"], weights)
    return float(ops.convert_to_numpy(found))


def test_loss_and_its_parts_have_the_values_of_the_original(case: dict[str, np.ndarray]) -> None:
    weights = case["loss_weight"]
    assert value(DiceCrossEntropy(), case, weights) == pytest.approx(float(case["loss_total"]), rel=RELATIVE)
    assert value(SoftDice(), case, weights) == pytest.approx(float(case["loss_dice"]), rel=RELATIVE)
    assert value(PixelCrossEntropy(), case, weights) == pytest.approx(float(case["loss_ce"]), rel=RELATIVE)


def test_dice_with_factors_and_an_ignored_class(case: dict[str, np.ndarray]) -> None:
    factors = case["dice_class_weights"].tolist()
    assert value(SoftDice(class_factors=factors), case) == pytest.approx(
        float(case["dice_weighted"]), rel=RELATIVE
    )
    assert value(SoftDice(ignore_index=0), case) == pytest.approx(float(case["dice_ignore0"]), rel=RELATIVE)


def test_ignored_positions_change_nothing(case: dict[str, np.ndarray]) -> None:
    ignored = case["loss_target"] == 2
    labels = np.where(ignored, 255, case["loss_target"])
    loss = DiceCrossEntropy(ignore_index=255)
    plain = {**case, "loss_target": labels}
    other = {
        **plain,
        "loss_logits": case["loss_logits"] + 7 * ignored[..., None] * np.arange(7, dtype=np.float32),
    }
    assert value(loss, plain, case["loss_weight"]) == pytest.approx(
        value(loss, other, case["loss_weight"]), rel=1e-6
    )
    assert value(loss, plain) < value(DiceCrossEntropy(ignore_index=254), plain | case)


def test_parts_are_weighted(case: dict[str, np.ndarray]) -> None:
    found = value(DiceCrossEntropy(dice_weight=0.5, cross_entropy_weight=3), case, case["loss_weight"])
    expected = 0.5 * float(case["loss_dice"]) + 3 * float(case["loss_ce"])
    assert found == pytest.approx(expected, rel=RELATIVE)


def test_volumes_have_a_loss_too() -> None:
    generator = np.random.default_rng(0)
    labels, logits = (
        generator.integers(0, 3, (2, 4, 5, 6)),
        generator.normal(size=(2, 4, 5, 6, 3)).astype(np.float32),
    )
    flat = DiceCrossEntropy()(labels.reshape(2, 20, 6), logits.reshape(2, 20, 6, 3))
    assert float(DiceCrossEntropy()(labels, logits)) == pytest.approx(float(flat), rel=1e-6)


def test_a_perfect_prediction_costs_almost_nothing() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (1, 32, 32))
    assert float(DiceCrossEntropy()(labels, 50 * np.eye(4, dtype=np.float32)[labels])) < 1e-5


@pytest.mark.parametrize(
    "loss",
    [
        SoftDice([1, 2, 3], ignore_index=0, smooth=0.5),
        PixelCrossEntropy(ignore_index=3),
        DiceCrossEntropy(0.5, 2.0, class_factors=[1, 2], ignore_index=1, name="mine"),
    ],
)
def test_losses_are_rebuilt_from_their_config(loss: keras.losses.Loss) -> None:
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss) and again.get_config() == loss.get_config()


class Table(keras.layers.Layer):
    """A layer whose output is its only weight, so that a step of training shows the loss's gradient."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.table = self.add_weight(shape=shape, initializer="zeros", name="table")

    def call(self, inputs: object) -> object:
        return self.table + 0 * ops.sum(inputs)


@pytest.mark.training
def test_gradient_is_that_of_the_original(case: dict[str, np.ndarray]) -> None:
    logits, rate = case["loss_logits"], 1e4
    layer = Table(logits.shape)
    model = keras.Sequential([keras.Input((1,)), layer])
    layer.table.assign(logits)
    model.compile(optimizer=keras.optimizers.SGD(rate), loss=DiceCrossEntropy())
    model.train_on_batch(np.zeros((3, 1), np.float32), case["loss_target"], case["loss_weight"])
    gradient = (logits - ops.convert_to_numpy(layer.table)) / rate
    np.testing.assert_allclose(gradient, case["loss_grad_logits"], rtol=0, atol=1e-8)
    assert np.abs(gradient).max() > 1e-4
