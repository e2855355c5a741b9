"""Convolutions rewritten for training under JAX: the same steps, and the network as it was afterwards."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from kerasneuro.training import quick_convolutions as module
from kerasneuro.training.quick_convolutions import quick_convolutions

pytestmark = pytest.mark.training

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.normal(size=(2, 8, 6, 10, 1)).astype(np.float32)
TRUTH = (IMAGES > 0.2).astype(np.float32)


def network(single_step: dict[str, bool]) -> keras.Model:
    """Build a network of convolutions: dilated, strided, transposed, in a graph of their own."""
    x = entry = keras.Input((8, 6, 10, 1))
    x = skip = layers.Conv3D(4, 3, padding="same", activation="relu")(x)
    x = layers.Conv3D(4, 3, padding="same", dilation_rate=2, activation="elu")(x)
    x = layers.Conv3D(4, 3, padding="same", strides=2)(x)
    x = layers.Conv3DTranspose(3, 2, strides=2)(x)
    inner = keras.Sequential([keras.Input((8, 6, 10, 7)), layers.Conv3D(1, 3, padding="same")])
    model = keras.Model(entry, layers.Activation("sigmoid")(inner(layers.concatenate([x, skip]))))
    generator = np.random.default_rng(1)
    for variable in model.variables:
        variable.assign(generator.normal(0, 0.2, variable.shape))
    model.compile(keras.optimizers.SGD(0.5), loss="mse", **single_step)
    return model


def trained(model: keras.Model) -> list[np.ndarray]:
    """Train for two steps, and return the loss of the second and the weights."""
    losses = [np.asarray(model.train_on_batch(IMAGES, TRUTH)) for _ in range(2)]
    return [losses[1], *model.get_weights()]


def changed(model: keras.Model) -> int:
    """Count the layers whose call is not that of their class."""
    return sum("call" in vars(layer) for layer in model._flatten_layers())


@pytest.mark.parametrize(("least", "nested"), [(0, False), (10**9, False), (0, True)])
def test_steps_are_those_of_plain_convolutions(
    least: int, nested: bool, single_step: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_PRODUCTS", least)
    expected, model = trained(network(single_step)), network(single_step)
    with quick_convolutions(model):
        rewritten = 4 if keras.backend.backend() == "jax" else 0  # All but the one with strides.
        assert changed(model) == rewritten
        if nested:
            with quick_convolutions(model):  # A trainer within a trainer.
                pass
            assert changed(model) == rewritten
        found = trained(model)
    assert not changed(model)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_an_error_leaves_the_network_as_it_was(single_step: dict[str, bool]) -> None:
    model = network(single_step)
    with pytest.raises(ValueError, match="mine"), quick_convolutions(model):
        raise ValueError("mine")
    assert not changed(model)
