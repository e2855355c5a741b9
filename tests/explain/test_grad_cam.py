"""Grad-CAM against the reference (PyTorch 2.13, model card MobileNetV3-Small-3D-FCD), and its rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerasneuro.errors import InvalidOption
from kerasneuro.explain import GradCam, default_layer, grad_cam, grad_cam_parts, resize_map
from kerasneuro.explain.grad_cam import class_map, scale
from kerasneuro.explain.gradients import compute_features
from kerasneuro.explain.split import Split, split_model
from kerasneuro.inference import Engine
from kerasneuro.models.fcd import graph, weights
from kerasneuro.weights import assign, read, unwrap

pytestmark = pytest.mark.training

SHAPE = (96, 80, 112)
TOLERANCE, HALF_PRECISION = 1e-4, 2e-3
LAYERS = ("block4", "block7", "fusion", "conv_head")


def formula_input(shape: tuple[int, ...], channels: int = 2, phase: float = 0.0) -> np.ndarray:
    """Make the input of the reference."""
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    volumes = [
        0.5
        + 0.35 * np.sin(0.11 * (c + 1) * i + 0.3 + phase) * np.cos(0.07 * j - 0.2 * c + phase)
        + 0.15 * np.sin(0.05 * k * (1 + 0.5 * c) + 0.02 * i + phase)
        for c in range(channels)
    ]
    return np.stack(volumes, axis=-1)[np.newaxis].astype(np.float32)


@pytest.fixture(scope="module")
def reference(fixtures: Path) -> dict[str, np.ndarray]:
    with np.load(fixtures / "fcd" / "gradcam.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def network(fixtures: Path) -> Any:
    with read(fixtures / "fcd" / "ckpt_model_key.pth") as file:
        store = unwrap(file, weights.ANCHOR)
        model = graph.build(**weights.infer_config(store))
        assign(model, store, weights.table(store, model), ignore=weights.IGNORED)
    return model


@pytest.fixture(scope="module")
def features(fixtures: Path) -> dict[str, np.ndarray]:
    """Outputs of block4 and block7 for the reference input, computed once, under PyTorch.

    One unit behind block4 lies within rounding of a corner of its hard swish, where the derivative jumps:
    with features that differ by 2e-6 of their maximum, the gradient of class 0 differs by 2e-3 of its own.
    So gradients are compared from equal features, and the features themselves are compared apart.
    """
    with np.load(fixtures / "fcd" / "gradcam_features.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def chain(network: Any, features: dict[str, np.ndarray]) -> dict[str, tuple[Split, list[np.ndarray]]]:
    """The network cut behind one layer after the other: no stage is compiled twice."""
    found = {}
    rest, inputs = network, features["block4"]
    for layer in LAYERS:
        split = split_model(rest, layer)
        inputs = features[layer] if layer in features else compute_features(split, inputs)[0]
        found[layer] = split, [inputs]
        rest = split.tail
    return found


def near(found: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * float(np.abs(expected).max()))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("chosen", [0, 1])
def test_weights_and_maps_are_those_of_the_reference(
    chain: dict[str, tuple[Split, list[np.ndarray]]],
    reference: dict[str, np.ndarray],
    layer: str,
    chosen: int,
) -> None:
    found = class_map(*chain[layer], chosen, None)
    key = f"{layer}.class{chosen}"
    near(found.alpha[0], reference[f"{key}.alpha"])
    near(found.raw[0], reference[f"{key}.raw_signed"])
    np.testing.assert_allclose(found.scores, reference["logits"], atol=1e-4, rtol=1e-5)
    upsampled = resize_map(np.maximum(found.raw[0], 0), SHAPE)
    limit = TOLERANCE * float(np.abs(reference[f"{key}.raw_signed"]).max())
    assert abs(upsampled.max() - reference[f"{key}.upmax"]) <= limit
    if f"{key}.up_normalised_sub2_float16" in reference:
        near(scale(upsampled)[::2, ::2, ::2], reference[f"{key}.up_normalised_sub2_float16"], HALF_PRECISION)


def test_the_heat_map_of_a_whole_network_is_that_of_the_reference(
    network: Any, reference: dict[str, np.ndarray], features: dict[str, np.ndarray]
) -> None:
    found = grad_cam_parts(network, formula_input(SHAPE), 1, "block4")
    assert found.layer == "block4"
    assert found.heat.shape == (1, *SHAPE)
    assert found.heat.dtype == np.float32
    near(found.heat[0, ::2, ::2, ::2], reference["block4.class1.up_normalised_sub2_float16"], HALF_PRECISION)
    near(found.raw[0], reference["block4.class1.raw_signed"])
    near(compute_features(split_model(network, "block4"), formula_input(SHAPE))[0], features["block4"], 1e-5)
    assert default_layer(network) == "conv_head"


def test_every_sample_has_its_class_and_its_scale(classifier: Any, batch: np.ndarray) -> None:
    found = grad_cam_parts(classifier, batch)
    assert found.classes == tuple(Engine(classifier)(batch).argmax(axis=-1))
    together = grad_cam_parts(classifier, batch, (0, 2))
    for sample, chosen in enumerate((0, 2)):
        alone = grad_cam_parts(classifier, batch[sample : sample + 1], chosen)
        np.testing.assert_allclose(together.heat[sample], alone.heat[0], atol=1e-5)
        assert_scaled(alone)


def assert_scaled(found: GradCam) -> None:
    if (found.raw > 0).any():
        assert found.heat.min() == 0
        assert found.heat.max() == 1
    else:
        assert not found.heat.any()


def test_a_map_without_positive_places_is_zero(detector: Any, blob: np.ndarray) -> None:
    against = grad_cam_parts(detector, blob, 0)
    assert (against.raw <= 0).all()
    assert not against.heat.any()


def test_the_map_is_hot_where_the_network_finds_something(detector: Any, blob: np.ndarray) -> None:
    heat = grad_cam(detector, blob, 1)[0]
    assert heat[8:12, 5:9, 4:8].min() > 0
    outside = heat.copy()
    outside[7:13, 4:10, 3:9] = 0
    assert not outside.any()


def test_a_segmentation_is_explained_over_a_region(segmenter: Any) -> None:
    volume = np.random.default_rng(4).normal(size=(2, 8, 4, 6, 1)).astype(np.float32)
    labels = Engine(segmenter)(volume).argmax(axis=-1)
    chosen = [int(np.bincount(sample.ravel(), minlength=3)[1:].argmax()) + 1 for sample in labels]
    found = grad_cam_parts(segmenter, volume)
    assert list(found.classes) == chosen
    assert found.layer == "up"
    assert found.heat.shape == volume.shape[:4]
    region = labels == np.asarray(chosen)[:, None, None, None]
    np.testing.assert_array_equal(grad_cam(segmenter, volume, chosen, mask=region), found.heat)
    # Between the last feature map and the scores lies one matrix; the mean gradient is its column.
    kernel = segmenter.get_layer("scores").get_weights()[0].reshape(-1, 3)
    for sample, each in enumerate(chosen):
        np.testing.assert_allclose(found.alpha[sample] * region[sample].size, kernel[:, each], rtol=1e-4)
    with pytest.raises(InvalidOption, match="mask is empty"):
        grad_cam(segmenter, volume, 1, mask=np.zeros(volume.shape[:4]))
    with pytest.raises(InvalidOption, match="mask must have the shape"):
        grad_cam(segmenter, volume, 1, mask=np.ones((3, 3, 3)))
