"""The nobrainer U-Net against outputs of the original (TensorFlow 2.15, nobrainer 1.2.1)."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from kerasneuro.errors import InvalidOption
from kerasneuro.inference import Engine
from kerasneuro.models.nobrainer.graph import build

# File -> reference arrays, tolerance.
FILES = {
    "unet_b2_full.h5": ("unet_b2_io.npz", 5e-6),
    "unet_b2_weights.h5": ("unet_b2_io.npz", 5e-6),
    "unet_b2_2019full.h5": ("unet_b2_io.npz", 5e-6),
    "unet_b2_2019suffix.h5": ("unet_b2_io.npz", 5e-6),
    "unet_b2_2019weights_scoped.h5": ("unet_b2_io.npz", 5e-6),
    "unet_b2_bn_full.h5": ("unet_b2_bn_io.npz", 1e-5),
    "unet_b2_bn_weights.h5": ("unet_b2_bn_io.npz", 1e-5),
    "unet_b1_c6_full.h5": ("unet_b1_c6_io.npz", 5e-6),
    "unet_b1_full.h5": ("unet_b1_io.npz", 1e-5),
    "unet_b1_2019adam.h5": ("unet_b1_io.npz", 1e-5),
    # Trained on noise, so ill-conditioned: the original itself is 2.1e-5 away from a float64 computation.
    "unet_b1_trained_legacyadam.h5": ("unet_b1_trained_io.npz", 3e-5),
}


def config_of(file: str) -> dict:
    return {
        "filters": 1 if "_b1" in file else 2,
        "n_classes": 6 if "_c6" in file else 1,
        "batchnorm": "_bn" in file,
    }


def reference(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, slice]:
    """Return input, expected output, and the planes of the first spatial axis that are stored."""
    arrays = np.load(folder / name)
    x = arrays["x"] if "x" in arrays else np.load(folder / "unet_b1_io.npz")["x"]
    if "y" in arrays:
        return x, arrays["y"], slice(None)
    return x, arrays["y_every_second_plane_of_axis1"], slice(None, None, 2)


def rule_weights(shapes: list[tuple[int, ...]], seed: int) -> list[np.ndarray]:
    """Fill a network by a hash, as its reference output was made."""
    weights = []
    for index, shape in enumerate(shapes):
        size = int(np.prod(shape))
        h = np.arange(size, dtype=np.uint32) * np.uint32(2654435761)
        h += np.uint32((seed * 1000003 + index * 7919) % 2**32)
        h ^= h >> np.uint32(16)
        h *= np.uint32(2246822519)
        h ^= h >> np.uint32(13)
        h *= np.uint32(3266489917)
        h ^= h >> np.uint32(16)
        if len(shape) == 1:
            scale = 0.2
        else:
            scale = np.sqrt(24 / (shape[-1] if shape[:3] == (2, 2, 2) else np.prod(shape[:4])))
        weights.append(((h / 2**32 - 0.5) * scale).astype(np.float32).reshape(shape))
    return weights


@pytest.mark.parametrize("file", FILES)
def test_stock_load_weights_gives_the_original_output(fixtures: Path, file: str) -> None:
    folder = fixtures / "nobrainer"
    name, tolerance = FILES[file]
    x, expected, planes = reference(folder, name)
    model = build(**config_of(file))
    model.load_weights(folder / file)
    engine = Engine(model)
    found = np.concatenate([engine(x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(found[:, planes], expected, rtol=0, atol=tolerance)


def test_full_size_network_gives_the_original_output(fixtures: Path) -> None:
    folder = fixtures / "nobrainer"
    arrays = np.load(folder / "unet_full_rule_io.npz")
    seed = json.loads((folder / "unet_meta.json").read_text())["unet_full_rule"]["seed"]
    model = build()
    weights = rule_weights([tuple(variable.shape) for variable in model.variables], seed)
    np.testing.assert_allclose([w.sum(dtype=np.float64) for w in weights], arrays["sums"], atol=1e-6)
    model.set_weights(weights)
    found = model.predict(arrays["x"], verbose=0)
    np.testing.assert_allclose(found, arrays["y"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("batchnorm", "entry", "parameters", "layers"),
    [(False, "unet_1class_128", 4_768_289, 40), (True, "unet_1class_128_batchnorm", 4_772_961, 54)],
)
def test_names_order_and_shapes_are_those_of_the_original(
    fixtures: Path, batchnorm: bool, entry: str, parameters: int, layers: int
) -> None:
    manifest = json.loads((fixtures / "nobrainer" / "unet_full_manifest.json").read_text())[entry]["layers"]
    model = build(batchnorm=batchnorm, input_shape=(128, 128, 128, 1))
    assert model.count_params() == parameters
    assert len(model.layers) == len(manifest) == layers
    # The manifest with batch normalisation was written late in a session, so its counters start above 0.
    if not batchnorm:
        assert [layer.name for layer in model.layers] == [row["layer"] for row in manifest]
    for layer, row in zip(model.layers, manifest, strict=True):
        assert layer.name.rstrip("0123456789_") == row["layer"].rstrip("0123456789_")
        assert [list(v.shape) for v in layer.variables] == [w["shape"] for w in row["weights"]]
        assert [v.name for v in layer.variables] == [
            w["name"].split("/")[-1].removesuffix(":0") for w in row["weights"]
        ]


@pytest.mark.parametrize("config", [{}, {"n_classes": 3, "batchnorm": True, "activation": "elu"}])
def test_saved_model_comes_back_in_safe_mode(tmp_path: Path, config: dict) -> None:
    model = build(filters=1, **config)
    model.save(tmp_path / "unet.keras")
    again = keras.saving.load_model(tmp_path / "unet.keras", safe_mode=True)
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    x = np.random.default_rng(0).standard_normal((1, 8, 16, 24, 1)).astype(np.float32)
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.training
def test_one_step_of_training_changes_every_weight() -> None:
    keras.utils.set_random_seed(0)
    model = build(filters=2, n_classes=1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 16, 16, 16, 1)).astype(np.float32)
    y = (x > 0).astype(np.float32)
    before = [np.array(w) for w in model.get_weights()]
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="binary_crossentropy")
    history = model.fit(x, y, batch_size=2, epochs=6, verbose=0).history["loss"]
    assert history[-1] < history[0]
    moved = [not np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True)]
    assert all(moved)


@pytest.mark.parametrize(
    "config",
    [
        {"n_classes": 0},
        {"filters": 0},
        {"input_shape": (32, 32, 32)},
        {"input_shape": (32, 32, 32, None)},
        {"input_shape": (32, 36, 32, 1)},
        {"input_shape": (0, 32, 32, 1)},
    ],
)
def test_impossible_configuration_is_refused(config: dict) -> None:
    with pytest.raises(InvalidOption):
        build(**config)
