"""A U-Net computed slab by slab at its finest level gives what it gives at once."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from kerasneuro.inference import Engine
from kerasneuro.inference.slabs import SlabNetwork, cut_finest_level

SHAPE = (16, 8, 12)


def fill(model: keras.Model) -> keras.Model:
    """Give kernels and biases random values: with zero biases wrong padding would not be seen."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(rng.normal(0, 0.4, variable.shape).astype("float32"))
    return model


def convolve(x: Any, filters: int) -> Any:
    return layers.LeakyReLU(negative_slope=0.2)(layers.Conv3D(filters, 3, padding="same")(x))


def unet(skip_first: bool = False, finest: int = 1, channels: tuple[int, ...] = (6, 6)) -> keras.Model:
    x = inputs = keras.Input((None, None, None, 2))
    for _ in range(finest):
        x = convolve(x, 4)
    skip = x
    x = layers.MaxPooling3D(2)(x)
    x = layers.UpSampling3D(2)(convolve(x, 5))
    x = layers.Concatenate()([skip, x] if skip_first else [x, skip])
    for filters in channels:
        x = convolve(x, filters)
    return fill(keras.Model(inputs, layers.Conv3D(3, 3, padding="same")(x)))


def encoder() -> keras.Model:
    inputs = keras.Input((None, None, None, 1))
    x = convolve(layers.MaxPooling3D(2)(convolve(inputs, 4)), 5)
    return fill(keras.Model(inputs, layers.MaxPooling3D(2)(x)))


def image(model: keras.Model) -> np.ndarray:
    return np.random.default_rng(1).random((1, *SHAPE, model.input_shape[-1]), np.float32)


@pytest.mark.parametrize(("kind", "planes"), [("unet", 2), ("skip first", 8), ("encoder", 4)])
def test_slabs_give_what_the_whole_gives(kind: str, planes: int) -> None:
    model = encoder() if kind == "encoder" else unet(skip_first=kind == "skip first")
    batch = image(model)
    before = batch.copy()
    found = SlabNetwork(model, Engine, None).in_slabs(batch, planes)
    np.testing.assert_array_equal(batch, before)
    wanted = Engine(model)(batch)
    assert found.shape == wanted.shape and wanted.std() > 0.1
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_budget_chooses_the_slabs() -> None:
    model = unet()
    assert SlabNetwork(model, Engine, None).planes(SHAPE) is None
    assert SlabNetwork(model, Engine, 10**9).planes(SHAPE) is None
    assert SlabNetwork(model, Engine, 1).planes(SHAPE) == 2
    budgets = np.geomspace(1e6, 1e9, 40).astype(int).tolist()
    sizes = [SlabNetwork(model, Engine, budget).planes((96, 96, 96)) for budget in budgets]
    slabs = [size for size in sizes if size is not None]
    assert slabs == sorted(slabs) and len(set(slabs)) > 3  # more memory, larger slabs
    assert None not in sizes[: len(slabs)] and sizes[-1] is None
    assert all(96 % size == 0 and size % 2 == 0 for size in slabs)


def test_small_budget_computes_in_slabs() -> None:
    model = unet()
    made: list[str] = []

    def make(part: keras.Model) -> Engine:
        made.append(part.name)
        return Engine(part)

    batch, slabs = image(model), SlabNetwork(model, make, 1)
    before = slabs(batch)
    assert model.name not in made and len(made) == 6
    model.variables[0].assign(2 * model.variables[0])  # the parts share the weights
    found = slabs(batch)
    assert len(made) == 6 and np.abs(found - before).max() > 0.1
    np.testing.assert_allclose(found, Engine(model)(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["two convolutions", "no pooling", "planes", "strided"])
def test_other_networks_are_computed_at_once(kind: str) -> None:
    flat = keras.Input((None, None, 1))
    volume = keras.Input((None, None, None, 1))
    model = {
        "two convolutions": lambda: unet(finest=2),
        "no pooling": lambda: keras.Model(volume, convolve(volume, 2)),
        "planes": lambda: keras.Model(
            flat, layers.MaxPooling2D(2)(layers.Conv2D(2, 3, padding="same")(flat))
        ),
        "strided": lambda: keras.Model(
            volume, layers.MaxPooling3D(2)(layers.Conv3D(2, 3, strides=2, padding="same")(volume))
        ),
    }[kind]()
    assert cut_finest_level(model) is None
    shape = SHAPE[: len(model.input_shape) - 2]
    assert SlabNetwork(model, Engine, 1).planes(shape) is None
    with pytest.raises(ValueError, match="no slabs of 2 planes"):
        SlabNetwork(model, Engine, 1).in_slabs(np.zeros((1, *shape, 1), np.float32), 2)
