"""Small networks to explain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def classifier() -> Any:
    """Three classes of volumes with two channels; smooth, with a connection that skips ``middle``."""
    import keras
    from keras import layers

    from kerasneuro.nn.initializers import HostGlorotUniform

    options = {"activation": "tanh", "kernel_initializer": HostGlorotUniform(3)}
    image = keras.Input((None, None, None, 2), name="image")
    first = layers.Conv3D(4, 3, padding="same", name="first", **options)(image)
    middle = layers.Conv3D(4, 3, padding="same", name="middle", **options)(first)
    both = layers.Add(name="sum")([first, middle])
    last = layers.Conv3D(5, 3, strides=2, name="last", **options)(both)
    pooled = layers.GlobalAveragePooling3D(name="pool")(last)
    scores = layers.Dense(3, name="scores", kernel_initializer=HostGlorotUniform(4))(pooled)
    return keras.Model(image, scores)


@pytest.fixture(scope="session")
def segmenter() -> Any:
    """A small U-Net of three classes that ends in a softmax."""
    import keras
    from keras import layers

    from kerasneuro.nn.initializers import HostGlorotUniform

    options = {"padding": "same", "activation": "tanh", "kernel_initializer": HostGlorotUniform(5)}
    image = keras.Input((None, None, None, 1))
    skip = layers.Conv3D(3, 3, name="down", **options)(image)
    small = layers.MaxPooling3D(2)(skip)
    small = layers.Conv3D(4, 3, name="bottom", **options)(small)
    joined = layers.Concatenate()([skip, layers.UpSampling3D(2)(small)])
    last = layers.Conv3D(3, 3, name="up", **options)(joined)
    scores = layers.Conv3D(3, 1, name="scores", kernel_initializer=HostGlorotUniform(6))(last)
    return keras.Model(image, layers.Softmax()(scores))


@pytest.fixture(scope="session")
def detector() -> Any:
    """Score 1 grows with what is bright after smoothing, score 0 is its negative."""
    import keras

    image = keras.Input((16, 14, 12, 1))
    found = keras.layers.Conv3D(1, 3, padding="same", activation="relu", name="found")(image)
    pooled = keras.layers.GlobalAveragePooling3D()(found)
    model = keras.Model(image, keras.layers.Dense(2, name="scores")(pooled))
    kernel = np.full((3, 3, 3, 1, 1), 1 / 27, np.float32)
    model.get_layer("found").set_weights([kernel, np.full(1, -0.5, np.float32)])
    model.get_layer("scores").set_weights([np.array([[-100.0, 100.0]], np.float32), np.zeros(2, np.float32)])
    return model


@pytest.fixture
def batch() -> np.ndarray:
    """Two samples for `classifier`, ``(2, 7, 6, 5, 2)``."""
    return np.random.default_rng(0).normal(size=(2, 7, 6, 5, 2)).astype(np.float32)


@pytest.fixture
def blob() -> np.ndarray:
    """A dim volume for `detector` with a bright cube at 8..12, 5..9, 4..8."""
    volume = np.full((1, 16, 14, 12, 1), 0.1, np.float32)
    volume[0, 8:12, 5:9, 4:8] = 1.5
    return volume
