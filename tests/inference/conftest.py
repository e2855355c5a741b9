"""Small networks on which block-wise prediction can be checked exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


def pointwise(rank: int = 3, classes: int = 3, channels: int = 1) -> Any:
    """Build a network with a receptive field of one voxel."""
    import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    convolve = layers.Conv3D if rank == 3 else layers.Conv2D
    inputs = keras.Input((None,) * rank + (channels,))
    # Biases keep the classes from tying at 0.
    options = {
        "kernel_initializer": keras.initializers.RandomNormal(0, 1, seed=1),
        "bias_initializer": keras.initializers.RandomNormal(0, 1, seed=2),
    }
    hidden = convolve(4, 1, activation="tanh", **options)(inputs)
    outputs = convolve(classes, 1, activation="softmax" if classes > 1 else "sigmoid", **options)(hidden)
    return keras.Model(inputs, outputs)


def unet(classes: int = 3, normalise: bool = True) -> Any:
    """Build a two-level encoder-decoder with every layer that the fast graphs treat specially."""
    import keras

    keras.utils.set_random_seed(2)
    layers = keras.layers
    inputs = keras.Input((None, None, None, 1))
    skip = layers.Conv3D(4, 3, padding="same", activation="relu")(inputs)
    hidden = layers.MaxPooling3D(2)(skip)
    hidden = layers.Conv3D(6, (3, 1, 3), padding="same", dilation_rate=(2, 1, 1), use_bias=False)(hidden)
    hidden = layers.BatchNormalization()(hidden) if normalise else hidden
    hidden = layers.Activation("relu")(hidden)
    hidden = layers.Conv3D(8, 3, strides=2, padding="same")(hidden)
    hidden = layers.LeakyReLU()(hidden)
    hidden = layers.Conv3DTranspose(6, 3, strides=2, padding="same")(hidden)
    hidden = layers.ReLU()(hidden)
    hidden = layers.Conv3D(6, 3, padding="same", groups=2)(hidden)
    hidden = layers.Conv3DTranspose(5, 2, strides=2, padding="same", activation="relu")(hidden)
    hidden = layers.Concatenate()([skip, hidden])
    hidden = layers.Add()([layers.Conv3D(9, 3, padding="same")(hidden), hidden])
    hidden = layers.Dropout(0.5)(hidden)
    outputs = layers.Conv3D(classes, 1, activation="softmax")(hidden)
    return keras.Model(inputs, outputs)


@pytest.fixture(scope="session")
def build_pointwise() -> Callable[..., Any]:
    return pointwise


@pytest.fixture(scope="session")
def point_model() -> Any:
    return pointwise()


@pytest.fixture(scope="session")
def unet_model() -> Any:
    return unet()


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(21, 17, 26)).astype(np.float32)
