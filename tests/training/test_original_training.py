"""Training as the original did it: three epochs of nobrainer's U-Net, from its first weights to its last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kerasneuro.models.nobrainer.graph import build
from kerasneuro.training.losses.overlap import Jaccard
from kerasneuro.training.metrics.overlap import soft_dice_score

pytestmark = pytest.mark.training

# The original: TensorFlow 2.15, its Adam of before Keras 2.11, batches of one, in order.
HISTORY = 1e-5
WEIGHTS = 5e-6
# The original's own weights give its predictions to 2.5e-5, since one voxel's logit is steep in them.
PROBABILITY = 5e-4
MEAN_PROBABILITY = 5e-6


@pytest.fixture(scope="module")
def trained(fixtures: Path) -> tuple[keras.Model, dict[str, list[float]], np.ndarray]:
    folder = fixtures / "nobrainer"
    images = np.load(folder / "unet_b1_io.npz")["x"]
    with np.load(folder / "unet_b1_trained_io.npz") as file:
        truth, rate = file["t"].astype(np.float32), float(file["lr"])
    model = build(filters=1, input_shape=(*images.shape[1:4], 1))
    model.load_weights(folder / "unet_b1_full.h5")
    model.compile(keras.optimizers.Adam(rate), loss=Jaccard(), metrics=[soft_dice_score])
    history = model.fit(images, truth, batch_size=1, epochs=3, shuffle=False, verbose=0).history
    return model, history, images


def test_loss_and_dice_of_every_epoch_are_those_of_the_original(trained: Any, fixtures: Path) -> None:
    with np.load(fixtures / "nobrainer" / "unet_b1_trained_io.npz") as expected:
        np.testing.assert_allclose(trained[1]["loss"], expected["loss"], rtol=HISTORY)
        np.testing.assert_allclose(trained[1]["soft_dice_score"], expected["dice"], rtol=HISTORY)
        assert expected["loss"][0] / expected["loss"][-1] > 1.04


def test_weights_and_predictions_are_those_of_the_original(trained: Any, fixtures: Path) -> None:
    model, _, images = trained
    found = model.get_weights()
    predicted = np.concatenate([keras.ops.convert_to_numpy(model(image[None])) for image in images])
    with np.load(fixtures / "nobrainer" / "unet_b1_trained_io.npz") as expected:
        difference = np.abs(predicted - expected["y"])
    assert difference.max() < PROBABILITY and difference.mean() < MEAN_PROBABILITY
    model.load_weights(fixtures / "nobrainer" / "unet_b1_full.h5")
    before = model.get_weights()
    model.load_weights(fixtures / "nobrainer" / "unet_b1_trained_legacyadam.h5")
    for ours, theirs in zip(found, model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=WEIGHTS)
    assert max(np.abs(a - b).max() for a, b in zip(before, found, strict=True)) > 100 * WEIGHTS
