"""What a new network takes over from its parent, and which of its layers are trained."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import kerasneuro
from kerasneuro.errors import InvalidOption, WeightsMismatch
from kerasneuro.training.optimisers.layer_rates import LayerwiseAdamW, pull_to_start
from kerasneuro.training.segmentation.graph_parts import (
    check_stages,
    encoder_layers,
    first_layer,
    freeze_layers,
    head_layer,
)
from kerasneuro.training.transfer import copy_weights, inflate_input


def build(name: str, part: str = "", **config: Any) -> keras.Model:
    found = kerasneuro.build(name, **config)
    return found[part] if isinstance(found, dict) else found


def numbers(array: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(array))


def small(name: str, classes: int = 2, channels: int = 1) -> keras.Model:
    shape = (None, None, None, channels)
    return build(name, n_classes=classes, filters=2, input_shape=shape)


@pytest.mark.parametrize(
    ("name", "config", "part", "head", "first"),
    [
        ("nobrainer-unet", {"filters": 1}, "", "conv3d_14", "conv3d"),
        ("kwyk-bwn", {"filters": 1}, "", "logits_conv3d", "layer_1_conv3d"),
        ("deepbet", {"widths": (4, 4), "head_width": 2}, "brain", "tp_conv2", "init_0"),
        ("fastsurfer-cnn", {"filters": 2}, "axial", "classifier_conv", "encode1_bn0"),
    ],
)
def test_head_and_first_layer_are_read_off_the_graph(
    name: str, config: dict[str, Any], part: str, head: str, first: str
) -> None:
    model = build(name, part, **config)
    assert (head_layer(model), first_layer(model).name) == (head, first)


def test_encoder_ends_on_the_coarsest_grid() -> None:
    names = encoder_layers(small("nobrainer-unet"))
    assert "conv3d_7" in names and "conv3d_8" not in names and "conv3d_transpose" not in names
    names = encoder_layers(build("deepbet", "brain", widths=(4, 4), head_width=2))
    assert {"init_0", "down1_block2"} <= set(names) and "up1_conv2_0" not in names and "tp_conv2" not in names
    with pytest.raises(InvalidOption, match="has no encoder: all its layers work on one grid"):
        encoder_layers(small("kwyk-bwn"))


def test_freezing_leaves_what_it_says() -> None:
    model = small("nobrainer-unet")
    everything = len(model.trainable_variables)
    freeze_layers(model, "encoder")
    assert {variable.path.split("/")[0] for variable in model.trainable_variables} >= {
        "conv3d_8",
        "conv3d_14",
    }
    assert all("conv3d_3/" not in variable.path for variable in model.trainable_variables)
    fixed = freeze_layers(model, "all-but-head")
    assert [variable.path for variable in model.trainable_variables] == ["conv3d_14/kernel", "conv3d_14/bias"]
    assert "conv3d_14" not in fixed
    freeze_layers(model, lambda layer: layer.name == "conv3d")
    assert len(model.trainable_variables) == everything - 2
    assert freeze_layers(model, None) == [] and len(model.trainable_variables) == everything


def test_normalizations_are_kept_if_asked() -> None:
    model = build("nobrainer-unet", filters=1, batchnorm=True)
    fixed = freeze_layers(model, None, normalizations=True)
    assert len(fixed) == 14 and all(name.startswith("batch_normalization") for name in fixed)


def test_freezing_that_makes_no_sense_is_refused() -> None:
    model = small("nobrainer-unet")
    with pytest.raises(InvalidOption, match="freeze must be 'encoder' or 'all-but-head', None or a function"):
        freeze_layers(model, "decoder")
    with pytest.raises(InvalidOption, match="leaves nothing"):
        freeze_layers(model, lambda layer: True)
    assert check_stages("encoder") == {0: "encoder"}
    assert list(check_stages({4: None, 0: "encoder"})) == [0, 4]
    with pytest.raises(InvalidOption, match="from epoch 0 on"):
        check_stages({3: None})


@pytest.mark.parametrize("name", ["nobrainer-unet", "kwyk-bvwn-multi-prior"])
def test_wider_network_computes_the_same_on_equal_channels(name: str) -> None:
    parent, model = small(name), small(name, channels=3)
    for variable in parent.variables:
        if "seed" not in variable.path:
            variable.assign(numbers(variable) + 0.01)
    new = inflate_input(parent, model)
    copied = copy_weights(parent, model, new=(new,))
    assert copied and not any(path.startswith(f"{new}/") for path in copied)
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 16, 1)).astype(np.float32)
    expected = numbers(parent(image, training=False))
    found = numbers(model(np.concatenate([image] * 3, axis=-1), training=False))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_what_cannot_be_widened_is_refused() -> None:
    with pytest.raises(WeightsMismatch, match="takes 2 channels and cannot be widened to 3"):
        inflate_input(small("nobrainer-unet", channels=2), small("nobrainer-unet", channels=3))
    parent = build("fastsurfer-cnn", "axial", filters=2)
    with pytest.raises(WeightsMismatch, match="a convolution as the first layer"):
        inflate_input(parent, build("fastsurfer-cnn", "axial", filters=2, channels=14))


def test_every_other_difference_is_refused() -> None:
    with pytest.raises(WeightsMismatch, match="do not fit"):
        copy_weights(small("nobrainer-unet"), small("nobrainer-unet", classes=3))
    with pytest.raises(WeightsMismatch, match="do not fit"):
        copy_weights(small("nobrainer-unet"), small("kwyk-bwn"))


@pytest.mark.training
def test_layers_have_their_own_rates() -> None:
    weights = [keras.Variable(np.zeros(2, np.float32), name=name) for name in ("conv3d", "conv3d_1", "out")]
    optimizer = LayerwiseAdamW(learning_rate=0.1, factors={"conv": 0.5, "conv3d_1": 0.0})
    optimizer.build(weights)
    optimizer.apply([keras.ops.ones(2)] * 3, weights)
    np.testing.assert_allclose([numbers(weight)[0] for weight in weights], [-0.05, 0.0, -0.1], atol=1e-5)
    again = LayerwiseAdamW.from_config(optimizer.get_config())
    assert again.factors == {"conv": 0.5, "conv3d_1": 0.0}


@pytest.mark.training
def test_weights_are_pulled_to_their_start_but_not_those_of_the_head() -> None:
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, name="a"), keras.layers.Dense(1, name="b")]
    )
    pull_to_start(model, 0.5, "b")
    assert sum(float(numbers(loss)) for loss in model.losses) == 0
    for layer in model.layers:
        layer.kernel.assign(numbers(layer.kernel) + 2.0)
    (distance,) = [float(numbers(loss)) for loss in model.losses if float(numbers(loss))]
    assert distance == pytest.approx(0.5 * 0.5 * 4 * 4.0)
    pull_to_start(model, 0.0, None)
    assert model.losses == []
