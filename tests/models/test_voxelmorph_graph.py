"""VxmDense and HyperVxmDense against outputs, names and counts of the original (TensorFlow 2.15)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kerasneuro.errors import InvalidOption
from kerasneuro.models.voxelmorph.graph import build, build_hyper, registration_model
from kerasneuro.weights import read
from kerasneuro.weights.assign import assign

# Constructor of each stored network, in today's options.
CONFIGS: dict[str, dict[str, Any]] = {
    "vxmdense_brains": {
        "nb_unet_features": [[5] * 4, [5] * 6],
        "int_steps": 5,
        "int_downsize": 2,
        "unet_half_res": True,
        "bidir": True,
    },
    "vxmdense_t1": {"nb_unet_features": [[4, 6, 6, 6], [6, 6, 6, 6, 6, 4, 4]], "reg_field": "warp"},
    "vxmdense_svf4": {
        "nb_unet_features": [[4, 5], [5, 4, 3]],
        "int_steps": 5,
        "svf_resolution": 4,
        "reg_field": "svf",
        "fill_value": 0.0,
    },
    "hypervxmdense": {
        "nb_hyp_layers": 3,
        "nb_hyp_units": 7,
        "nb_unet_features": [[4, 5], [5, 4, 3]],
        "svf_resolution": 2,
    },
}
SHAPES = {
    "vxmdense_brains": (32, 48, 16),
    "vxmdense_t1": (16, 32, 16),
    "vxmdense_svf4": (24, 16, 20),
    "hypervxmdense": (16, 24, 12),
}
FULL_SIZE = {
    "vxmdense_brains_256f": (21_270_787, {"nb_unet_features": [[256] * 4, [256] * 6], "svf_resolution": 2}),
    "voxelmorph_t1_halfres": (313_507, {"svf_resolution": 2}),
}


# Free axes are a matter of the graph alone; JAX and OpenVINO compile every step of it, and take long.
FREE = [False, True] if keras.backend.backend() in ("tensorflow", "torch") else [False]
# OpenVINO compiles the graph for each output anew.
FEW_OUTPUTS = ("svf", "pos_flow", "y_source") if keras.backend.backend() == "openvino" else None


def numpy(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def build_network(name: str, shape: tuple[int | None, ...]) -> keras.Model:
    return (build_hyper if name.startswith("hyper") else build)(shape, **CONFIGS[name])


def load(fixtures: Path, name: str, free: bool = False) -> keras.Model:
    model = build_network(name, (None,) * 3 if free else SHAPES[name])
    with read(fixtures / "synthmorph" / f"{name}.h5") as store:
        assign(model, store, {variable.path: variable.path for variable in model.variables})
    return model


def images(fixtures: Path, name: str) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    with np.load(fixtures / "synthmorph" / f"{name}.npz") as stored:
        arrays = dict(stored)
    return arrays, [arrays[f"{role}_u8"][None].astype(np.float32) / 255 for role in ("source", "target")]


def compare(
    model: keras.Model, inputs: list[np.ndarray], expected: Mapping[str, np.ndarray], bidir: bool, whole: Any
) -> None:
    """Compare all stored fields: velocities to 1e-4 of the maximum, warps to 2e-4 voxels, images to 1e-3."""
    prefix = model.name
    layers = {"svf": "flow", "postint_flow": "flow_int", "pos_flow": "diffflow", "y_source": "transformer"}
    if bidir:
        layers |= {"neg_flow_sub2": "neg_diffflow", "y_target_sub2": "neg_transformer"}
    names = {layer.name for layer in model.layers}
    layers["preint_flow"] = "flow_resize" if f"{prefix}_flow_resize" in names else "flow"
    layers = {name: layer for name, layer in layers.items() if FEW_OUTPUTS is None or name in FEW_OUTPUTS}
    probe = keras.Model(
        model.inputs, [model.get_layer(f"{prefix}_{layer}").output for layer in layers.values()]
    )
    for name, result in zip(layers, whole(probe)(inputs), strict=True):
        wanted = expected[name]
        found = result[0]
        found = found[::2, ::2, ::2] if name.endswith("sub2") else found
        assert found.shape == wanted.shape
        velocity = 1e-4 * np.abs(wanted).max()
        tolerance = {"svf": velocity, "preint_flow": velocity, "y_source": 1e-3, "y_target_sub2": 1e-3}
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance.get(name, 2e-4), err_msg=name)


@pytest.mark.parametrize("free", FREE)
@pytest.mark.parametrize("name", ["vxmdense_brains", "vxmdense_t1", "vxmdense_svf4"])
def test_fields_of_the_original(fixtures: Path, name: str, free: bool, whole: Any) -> None:
    model = load(fixtures, name, free)
    arrays, inputs = images(fixtures, name)
    compare(model, inputs, arrays, CONFIGS[name].get("bidir", False), whole)


@pytest.mark.parametrize("hyper", ["h0", "h1"])
def test_fields_of_the_original_hypernetwork(fixtures: Path, hyper: str, whole: Any) -> None:
    model = load(fixtures, "hypervxmdense")
    arrays, inputs = images(fixtures, "hypervxmdense")
    expected = {key.removesuffix(f"_{hyper}"): value for key, value in arrays.items() if key.endswith(hyper)}
    compare(model, [*inputs, expected["hyper"]], expected, False, whole)


def test_a_batch_has_a_kernel_for_each_hyperparameter(fixtures: Path, whole: Any) -> None:
    model = registration_model(load(fixtures, "hypervxmdense"))
    arrays, inputs = images(fixtures, "hypervxmdense")
    pair = [np.concatenate([image, image]) for image in inputs]
    hyper = np.concatenate([arrays["hyper_h0"], arrays["hyper_h1"]])
    (found,) = whole(model)([*pair, hyper])
    for index in range(2):
        np.testing.assert_allclose(found[index], arrays[f"pos_flow_h{index}"], rtol=0, atol=2e-4)


def test_registration_model_and_regularised_field(fixtures: Path, whole: Any) -> None:
    model = load(fixtures, "vxmdense_t1")
    arrays, inputs = images(fixtures, "vxmdense_t1")
    for network in (registration_model(model), model):
        displacement = whole(network)(inputs)[-1][0]
        np.testing.assert_allclose(displacement, arrays["pos_flow"], rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_are_named_as_in_the_original(fixtures: Path, name: str) -> None:
    manifest = json.loads((fixtures / "synthmorph" / f"{name}.manifest.json").read_text())
    model = build_network(name, SHAPES[name])
    assert sorted(layer.name for layer in model.layers) == sorted(manifest["layer_names"])
    inputs = [text.partition("(")[0] for text in manifest["model_inputs"]]
    assert [tensor.name for tensor in model.inputs] == inputs
    assert len(model.outputs) == len(manifest["model_outputs"])


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size(fixtures: Path, name: str) -> None:
    manifest = json.loads((fixtures / "synthmorph" / f"{name}.fullsize.json").read_text())
    count, config = FULL_SIZE[name]
    model = build(**config)
    expected = {
        "/".join(row["path"].removesuffix(":0").split("/")[-2:]): tuple(row["shape"])
        for row in manifest["weights"]
    }
    assert {variable.path: tuple(variable.shape) for variable in model.variables} == expected
    assert model.count_params() == count


def test_one_number_of_features_gives_all_widths() -> None:
    model = build((8, 8), nb_unet_features=4, nb_unet_levels=3, unet_feat_mult=1.5, nb_unet_conv_per_level=2)
    convolutions = [layer for layer in model.layers if hasattr(layer, "filters")]
    filters = {layer.name.removeprefix("vxm_dense_unet_"): layer.filters for layer in convolutions}
    assert filters.pop("vxm_dense_flow") == 2
    assert filters == {
        **{f"enc_conv_{level}_{i}": (4, 6)[level] for level in range(2) for i in range(2)},
        **{f"dec_conv_{level}_{i}": (6, 9)[level] for level in range(2) for i in range(2)},
        **{f"dec_final_conv_{i}": 4 for i in range(2)},
    }
    assert model.output_shape == [(None, 8, 8, 1), (None, 4, 4, 2)]


def test_a_plane_is_registered_and_saved(tmp_path: Path, whole: Any) -> None:
    model = build((16, 8), nb_unet_features=[[3], [3, 3]], bidir=True, src_feats=2)
    rng = np.random.default_rng(0)
    inputs = [rng.uniform(size=(2, 16, 8, channels)).astype(np.float32) for channels in (2, 1)]
    model.get_layer("vxm_dense_flow").bias.assign([1.0, -0.5])
    moved = whole(model)(inputs)
    assert [array.shape for array in moved] == [(2, 16, 8, 2), (2, 16, 8, 1), (2, 8, 4, 2)]
    # A constant velocity is halved on the coarse grid of the integration, and doubled again.
    expected = 0.5 * (inputs[0][:, 1:, 1:] + inputs[0][:, 1:, :-1])
    np.testing.assert_allclose(moved[0][:, :-1, 1:], expected, atol=1e-3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    for found, wanted in zip(whole(again)(inputs), moved, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_random_velocity() -> None:
    model = build((8, 8), nb_unet_features=[[2], [2, 2]], use_probs=True)
    image = np.ones((1, 8, 8, 1), np.float32)
    assert model.output_shape[-1] == (None, 8, 8, 4)
    draw = keras.Model(model.inputs, model.get_layer("vxm_dense_z_sample").output)
    first, second = (numpy(draw([image, image])) for _ in range(2))
    assert 0 < np.abs(first - second).max() < 0.1  # a deviation of exp(-5)


@pytest.mark.training
def test_training_reaches_every_kernel(single_step: dict[str, bool]) -> None:
    keras.utils.set_random_seed(0)
    # Enough units that some of each layer are on the side of the activation that has a slope.
    model = build_hyper((8, 8), nb_hyp_layers=1, nb_hyp_units=16, nb_unet_features=[[6], [6, 6]])
    rng = np.random.default_rng(0)
    images = [rng.uniform(size=(2, 8, 8, 1)).astype(np.float32) for _ in range(2)]
    model.get_layer("hyper_vxm_dense_flow").kernel.assign(rng.normal(size=(3, 3, 6, 2)) * 0.1)
    before = model.get_weights()
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse", **single_step)
    hyper = np.array([[0.2], [0.7]], np.float32)
    model.train_on_batch([*images, hyper], [images[1], np.zeros((2, 4, 4, 2), np.float32)])
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.abs(old - new).max() > 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"inshape": (20, 32, 32)}, r"multiples of 16, found \(20, 32, 32\)"),
        ({"inshape": (32,)}, "2 or 3 axes"),
        ({"reg_field": "flow"}, "found 'flow'"),
        ({"nb_unet_features": 8}, "nb_unet_levels of 2 or more, found None"),
        ({"nb_unet_levels": 4}, "not with lists"),
        ({"nb_unet_features": [[4, 4], [4]]}, "found 2 and 1"),
        ({"int_steps": 0, "svf_resolution": 2}, "a coarser velocity"),
        ({"int_resolution": 0.5}, "1 or more"),
    ],
)
def test_bad_options_are_refused(config: dict[str, Any], message: str) -> None:
    if config.get("nb_unet_levels"):
        config = {**config, "nb_unet_features": [[4], [4]]}
    with pytest.raises(InvalidOption, match=message):
        build(**config)
