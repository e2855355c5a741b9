"""Gradients against finite differences and closed forms, on every training backend."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import keras
import numpy as np
import pytest

from kerasneuro.errors import InvalidOption
from kerasneuro.explain import default_layer, feature_layers, grad_cam, gradients, integrated_gradients
from kerasneuro.explain.result import check_method
from kerasneuro.explain.split import _SPLITS, split_model
from kerasneuro.inference import Engine

STEP = 0.3


def one_hot(classes: tuple[int, ...], count: int) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[list(classes)]


@pytest.mark.training
@pytest.mark.parametrize("layer", [None, "middle", "last"])
def test_a_gradient_is_the_slope_of_the_score(classifier: Any, batch: np.ndarray, layer: str | None) -> None:
    weights = one_hot((0, 2), 3)
    found = gradients(classifier, batch, weights, layer)
    split = split_model(classifier, layer)
    others = []
    if split.bypasses:
        others = [keras.ops.convert_to_numpy(t) for t in split.head(batch, training=False)][1:]

    def score(features: np.ndarray) -> float:
        tensors = [features, *others] if others else features
        values = keras.ops.convert_to_numpy(split.tail(tensors, training=False)).astype(np.float64)
        return float((values * weights).sum())

    rng = np.random.default_rng(1)
    for _ in range(3):
        direction = rng.normal(size=found.features.shape).astype(np.float32)
        direction /= np.linalg.norm(direction)
        slope = (score(found.features + STEP * direction) - score(found.features - STEP * direction)) / (
            2 * STEP
        )
        expected = float((found.gradient * direction).sum())
        # Rounding of the scores over the step, and the square of the step, stay below 1 % of a usual slope.
        usual = np.linalg.norm(found.gradient) / np.sqrt(found.gradient.size)
        assert abs(slope - expected) < 1e-2 * usual


@pytest.mark.training
def test_a_linear_network_has_the_gradient_of_its_weights() -> None:
    image = keras.Input((4, 3, 2, 1))
    flat = keras.layers.Flatten()(image)
    model = keras.Model(image, keras.layers.Dense(2, name="dense")(flat))
    kernel = np.arange(48, dtype=np.float32).reshape(24, 2)
    model.get_layer("dense").set_weights([kernel, np.zeros(2, np.float32)])
    volume = np.random.default_rng(2).normal(size=(1, 4, 3, 2, 1)).astype(np.float32)
    for chosen in (0, 1):
        found = gradients(model, volume, one_hot((chosen,), 2))
        np.testing.assert_array_equal(found.gradient.ravel(), kernel[:, chosen])
        np.testing.assert_array_equal(found.features, volume)


@pytest.mark.training
def test_new_weights_of_the_network_count_at_once(batch: np.ndarray) -> None:
    image = keras.Input((None, None, None, 2))
    found = keras.layers.Conv3D(2, 1, name="only")(image)
    model = keras.Model(image, keras.layers.GlobalAveragePooling3D()(found))
    weights = one_hot((0, 1), 2)
    before = gradients(model, batch, weights)
    model.set_weights([2 * array for array in model.get_weights()])
    after = gradients(model, batch, weights)
    np.testing.assert_allclose(after.gradient, 2 * before.gradient, rtol=1e-6)
    np.testing.assert_allclose(after.scores, 2 * before.scores, rtol=1e-5)


@pytest.mark.training
def test_both_halves_of_a_split_make_the_whole(segmenter: Any) -> None:
    volume = np.random.default_rng(3).normal(size=(1, 4, 8, 6, 1)).astype(np.float32)
    whole = Engine(split_model(segmenter, None).tail)(volume)
    assert split_model(segmenter, "bottom").bypasses == 1
    found = gradients(segmenter, volume, np.zeros_like(whole), "bottom")
    np.testing.assert_allclose(found.scores, whole, atol=1e-5)
    assert not found.gradient.any()


@pytest.mark.training
@pytest.mark.parametrize("ending", ["layer", "activation", "none"])
def test_the_score_before_a_final_softmax_is_explained(
    classifier: Any, batch: np.ndarray, ending: str
) -> None:
    endings = {"layer": keras.layers.Softmax(), "activation": keras.layers.Activation("softmax")}
    scores = classifier.outputs[0]
    model = keras.Model(classifier.inputs[0], endings[ending](scores) if ending in endings else scores)
    found = gradients(model, batch, one_hot((1, 1), 3))
    np.testing.assert_allclose(found.scores, Engine(classifier)(batch), atol=1e-6)


@pytest.mark.training
def test_nothing_of_a_network_is_kept_when_it_is_gone(batch: np.ndarray) -> None:
    image = keras.Input((None, None, None, 2))
    model = keras.Model(image, keras.layers.GlobalAveragePooling3D()(keras.layers.Conv3D(2, 1)(image)))
    gradients(model, batch, one_hot((0, 1), 2))
    assert model in _SPLITS
    traces = [weakref.ref(model), weakref.ref(model.layers[1]), weakref.ref(split_model(model, None))]
    del model, image
    gc.collect()
    gc.collect()  # what the first pass let go held cycles of its own
    assert [trace() for trace in traces] == [None] * 3


def test_default_layers_come_before_pooling_and_before_the_last_weights(
    classifier: Any, segmenter: Any
) -> None:
    assert default_layer(classifier) == "last"
    assert default_layer(segmenter) == "up"
    assert feature_layers(classifier) == ["first", "middle", "sum", "last"]


@pytest.mark.parametrize("explain", [grad_cam, integrated_gradients])
def test_a_backend_without_gradients_is_refused(
    explain: Any, classifier: Any, batch: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "openvino")
    with pytest.raises(InvalidOption, match="tensorflow, jax or torch, and this is openvino"):
        explain(classifier, batch)
    with pytest.raises(InvalidOption, match="tensorflow, jax or torch, and this is openvino"):
        check_method("grad-cam")
    check_method("occlusion")


@pytest.mark.training
@pytest.mark.parametrize(
    ("shape", "words"),
    [((2, 7, 6, 5, 3), "takes a batch"), ((7, 6, 5, 2), "takes a batch"), ((0, 7, 6, 5, 2), "takes a batch")],
)
def test_a_batch_that_does_not_fit_is_refused(classifier: Any, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        grad_cam(classifier, np.zeros(shape, np.float32))


@pytest.mark.training
def test_wrong_arguments_are_refused(classifier: Any, batch: np.ndarray) -> None:
    with pytest.raises(InvalidOption, match="NaN"):
        grad_cam(classifier, np.full_like(batch, np.nan))
    with pytest.raises(InvalidOption, match=r"no layer 'fisrt'.*'first'"):
        grad_cam(classifier, batch, 0, "fisrt")
    with pytest.raises(InvalidOption, match="no layer 'pool'"):
        grad_cam(classifier, batch, 0, "pool")
    for wrong in (3, -1, (0, 1, 2), 1.5):
        with pytest.raises(InvalidOption, match="class_index"):
            grad_cam(classifier, batch, wrong)
    with pytest.raises(InvalidOption, match="mask"):
        grad_cam(classifier, batch, 0, mask=np.ones((7, 6, 5)))
    with pytest.raises(InvalidOption, match=r"task\.model"):
        grad_cam(object(), batch)


@pytest.mark.training
def test_a_model_of_slices_is_refused() -> None:
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    with pytest.raises(InvalidOption, match="model of volumes"):
        grad_cam(model, np.zeros((1, 8, 8, 1)))
