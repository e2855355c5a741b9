"""Every way to compute gives what the layers give one by one."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from kerasneuro.errors import InvalidOption
from kerasneuro.inference import Engine, predict_blocks


def backend():
    import keras

    return keras.backend.backend()


@pytest.fixture
def batch():
    return np.random.default_rng(10).normal(size=(2, 12, 8, 16, 1)).astype(np.float32)


@pytest.mark.parametrize("name", ["auto", "compiled", "xla"])
def test_engines_agree_with_the_plain_layers(unet_model, batch, name):
    if name == "xla" and backend() not in ("tensorflow", "jax"):
        with pytest.raises(InvalidOption, match="xla"):
            Engine(unet_model, engine=name)
        return
    expected = Engine(unet_model, engine="eager")(batch)
    found = Engine(unet_model, engine=name)(batch)
    assert found.dtype == np.float32 and found.shape == (*batch.shape[:-1], 3)
    assert expected.std() > 1e-2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_odd_sizes_and_nested_models(batch):
    import keras

    keras.utils.set_random_seed(3)
    layers = keras.layers
    inputs = keras.Input((None, None, None, 4))
    inner = keras.Model(inputs, layers.Conv3D(4, 2, padding="same", activation="elu")(inputs))
    entry = keras.Input((None, None, None, 1))
    hidden = layers.Conv3D(4, 3, padding="valid")(entry)
    hidden = layers.Activation("relu")(hidden)
    shared = layers.Conv3D(4, 3, padding="same")
    hidden = layers.Add()([shared(hidden), shared(inner(hidden))])
    hidden = layers.MaxPooling3D(3, strides=2, padding="same")(hidden)
    model = keras.Model(entry, layers.Conv3DTranspose(2, (2, 3, 1), strides=(2, 3, 1))(hidden))
    array = batch[:, :11, :7, :13]
    expected = Engine(model, engine="eager")(array)
    np.testing.assert_allclose(Engine(model)(array), expected, rtol=0, atol=1e-5)


def test_a_tensor_read_twice_is_not_overwritten(batch):
    import keras

    layers = keras.layers
    entry = keras.Input((None, None, None, 1))
    hidden = layers.Conv3D(3, 1)(entry)
    same = layers.Dropout(0.5)(hidden)
    model = keras.Model(entry, layers.Subtract()([layers.ReLU()(same), hidden]))
    copy = batch.copy()
    expected = Engine(model, engine="eager")(batch)
    np.testing.assert_allclose(Engine(model)(batch), expected, rtol=0, atol=1e-6)
    first = keras.Model(entry, layers.ReLU()(entry))
    np.testing.assert_array_equal(Engine(first)(batch), np.maximum(copy, 0))
    np.testing.assert_array_equal(batch, copy)


@pytest.mark.parametrize("rank", [2, 3])
def test_normalisation_after_a_convolution_that_is_read_once_or_twice(batch, rank):
    import keras

    keras.utils.set_random_seed(4)
    layers, rng = keras.layers, np.random.default_rng(4)
    convolve = layers.Conv2D if rank == 2 else layers.Conv3D
    entry = keras.Input((None,) * rank + (1,))
    once = layers.BatchNormalization()(convolve(3, 3, padding="same", use_bias=False)(entry))
    bent = layers.BatchNormalization(scale=False)(convolve(3, 1, activation="elu")(once))
    twice = convolve(3, 3, padding="same")(bent)
    fixed = keras.Input((8,) * rank + (3,))
    rows = keras.Model(fixed, layers.BatchNormalization(axis=1)(convolve(3, 1)(fixed)))
    joined = layers.Add()([layers.BatchNormalization(center=False)(twice), twice])
    model = keras.Model(entry, joined)
    for each in (model, rows):
        for variable in each.variables:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    array = np.ascontiguousarray(batch if rank == 3 else batch[:, 0])
    expected = Engine(model, engine="eager")(array)
    np.testing.assert_allclose(Engine(model)(array), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    array = rng.normal(size=(1, *(8,) * rank, 3)).astype(np.float32)
    expected = Engine(rows, engine="eager")(array)
    np.testing.assert_allclose(Engine(rows)(array), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_changed_weights_are_used(batch):
    import keras

    model = keras.Sequential([keras.Input((None, None, None, 1)), keras.layers.Conv3D(2, 1)])
    engine = Engine(model)
    first = engine(batch)
    kernel, bias = model.variables
    kernel.assign(keras.ops.convert_to_numpy(kernel.value) * 2)
    bias.assign(keras.ops.convert_to_numpy(bias.value) + 1)
    np.testing.assert_allclose(engine(batch), first * 2 + 1, rtol=0, atol=1e-5)


def test_an_engine_is_accepted_in_place_of_a_model(point_model, volume):
    engine = Engine(point_model, engine="eager")
    found = predict_blocks(engine, volume, block_shape=(16, 16, 16))
    np.testing.assert_allclose(found, engine(volume[None, ..., None])[0], rtol=0, atol=2e-6)


def test_compiled_functions_do_not_keep_a_model_alive(build_pointwise, volume):
    model = build_pointwise()
    predict_blocks(model, volume, block_shape=(16, 16, 16))
    watched = weakref.ref(model)
    del model
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_is_computed_or_refused(unet_model, batch, precision):
    if backend() in ("tensorflow", "jax"):
        with pytest.raises(InvalidOption, match="mixed-precision"):
            Engine(unet_model, precision=precision)
        return
    found = Engine(unet_model, precision=precision)(batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, Engine(unet_model)(batch), rtol=0, atol=5e-2)


def test_names_are_checked(unet_model):
    with pytest.raises(InvalidOption, match="engine"):
        Engine(unet_model, engine="warp")
    with pytest.raises(InvalidOption, match="precision"):
        Engine(unet_model, precision="int8")
