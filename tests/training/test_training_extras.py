"""What Keras adds to training, as our runs use it: accumulated gradients, averages, half precision."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kerasneuro.models.nobrainer.graph import build
from kerasneuro.training.checkpoint import restore_checkpoint, save_checkpoint
from kerasneuro.training.losses.by_name import get_loss
from kerasneuro.training.optimisers.adam_l2 import per_batch_momentum

pytestmark = pytest.mark.training

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.normal(size=(4, 6, 6, 1)).astype(np.float32)
TRUTH = (IMAGES > 0.2).astype(np.float32)
MOMENTUM, STEPS = 0.8, 2


def network(optimizer: keras.optimizers.Optimizer) -> keras.Model:
    """Compile one convolution whose weights are always the same."""
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(1, 3, padding="same", activation="sigmoid")]
    )
    model.set_weights([np.linspace(-0.5, 0.5, 9).reshape(3, 3, 1, 1), np.zeros(1)])
    model.compile(optimizer, loss=get_loss("dice"), jit_compile=False)
    return model


def train(model: keras.Model, batch: int, epochs: int = 2) -> np.ndarray:
    """Train over all items, and return the kernel."""
    model.fit(IMAGES, TRUTH, batch_size=batch, epochs=epochs, shuffle=False, verbose=0)
    return ops.convert_to_numpy(model.weights[0]).ravel()


def averages(model: keras.Model) -> np.ndarray:
    """Return the averaged kernel."""
    return ops.convert_to_numpy(model.optimizer._model_variables_moving_average[0]).ravel()


def test_accumulated_gradients_of_small_batches_are_the_gradient_of_the_whole() -> None:
    whole = train(network(keras.optimizers.Adam(0.1)), 4)
    parts = train(network(keras.optimizers.Adam(0.1, gradient_accumulation_steps=4)), 1)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-6)
    assert np.abs(whole - np.linspace(-0.5, 0.5, 9)).min() > 0.01


def test_averages_of_accumulated_steps_decay_by_step_not_by_batch() -> None:
    plain = network(keras.optimizers.SGD(0.5))
    kernels = [train(plain, 4, epochs=1) for _ in range(3)]
    momentum = per_batch_momentum(MOMENTUM, 4)
    options = {"use_ema": True, "ema_momentum": momentum, "gradient_accumulation_steps": 4}
    model = network(keras.optimizers.SGD(0.5, **options))
    # Up to the batch before the fourth step: three steps have had all their batches.
    for item in [0, 1, 2, 3] * 3 + [0, 1, 2]:
        model.train_on_batch(IMAGES[item : item + 1], TRUTH[item : item + 1])
    np.testing.assert_allclose(ops.convert_to_numpy(model.weights[0]).ravel(), kernels[-1], rtol=0, atol=1e-6)
    expected = kernels[0]  # The average begins with the first step.
    for kernel in kernels[1:]:
        expected = MOMENTUM * expected + (1 - MOMENTUM) * kernel
    np.testing.assert_allclose(averages(model), expected, rtol=0, atol=1e-6)


def test_training_with_averages_resumes_exactly(tmp_path: Path) -> None:
    options = {"use_ema": True, "ema_momentum": MOMENTUM}
    straight = network(keras.optimizers.Adam(0.1, **options))
    train(straight, 2, epochs=1)
    save_checkpoint(tmp_path / "checkpoint.h5", straight, {"epoch": 1}, np.zeros((1, 1)))
    train(straight, 2, epochs=1)
    resumed = network(keras.optimizers.Adam(0.1, **options))
    restore_checkpoint(tmp_path / "checkpoint.h5", resumed)
    train(resumed, 2, epochs=1)
    np.testing.assert_array_equal(averages(resumed), averages(straight))
    np.testing.assert_array_equal(*(ops.convert_to_numpy(model.weights[0]) for model in (resumed, straight)))


def test_half_precision_keeps_weights_and_probabilities_whole() -> None:
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build(filters=1, input_shape=(8, 8, 8, 1))
    finally:
        keras.config.set_dtype_policy(former)
    convolution = model.get_layer("conv3d")
    assert (convolution.compute_dtype, convolution.variable_dtype) == ("bfloat16", "float32")
    assert model.layers[-1].compute_dtype == "float32"
    assert model.outputs[0].dtype == "float32"
    loss = get_loss("dice")(np.ones((1, 8, 8, 1)), ops.full((1, 8, 8, 1), 0.5, dtype="bfloat16"))
    assert ops.convert_to_numpy(loss) == pytest.approx(1 / 3, rel=1e-6)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
