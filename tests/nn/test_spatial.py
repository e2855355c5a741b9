"""Transforms and their layers against the original's numbers, and the laws they must keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.inference import Engine
from kerasneuro.nn import affine, spatial
from kerasneuro.nn.resize import resize
from kerasneuro.nn.spatial_layers import (
    AffineToDenseShift,
    ComposeTransform,
    Negate,
    RescaleTransform,
    Resize,
    SpatialTransformer,
    VecInt,
)

ATOL = 1e-5
# Each new shape is compiled anew on all backends but PyTorch.
FEW = settings(max_examples=6 if keras.backend.backend() == "torch" else 2, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
FILLS = {"None": None, "0": 0.0}
# Stored result -> what is composed.
COMPOSITIONS = {
    "AB": "A B",
    "AB_corner": "A B",
    "ABC": "A B C",
    "AW1_corner": "A W1",
    "AW1_center": "A W1",
    "W1A_corner": "W1 A",
    "W1A_center": "W1 A",
    "W1A_corner_shape2": "W1 A",
    "W1W2": "W1 W2",
    "W1W2_nearest": "W1 W2",
    "A_W1_B_corner_shape2": "A W1 B",
    "A_W1_B_A_corner": "A W1 B A",
    "W1_W2_A_center": "W1 W2 A",
}


def numpy(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))


def check(found: Any, expected: np.ndarray, atol: float = ATOL) -> None:
    found = numpy(found)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def smooth(seed: int, shape: tuple[int, ...], size: float) -> np.ndarray:
    """Return a displacement (1, *shape, N) of a few waves that vanishes at the border."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.linspace(0, np.pi, n) for n in shape], indexing="ij")
    window = np.prod([np.sin(axis) for axis in grid], axis=0)
    waves = [np.sin(rng.uniform(0.5, 1.5) * sum(grid) + rng.uniform(0, 6)) for _ in shape]
    return (size * window[..., None] * np.stack(waves, axis=-1))[None].astype(np.float32)


@pytest.fixture(scope="module")
def transforms(fixtures: Path) -> Mapping[str, np.ndarray]:
    with np.load(fixtures / "synthmorph" / "op_transform.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def composed(fixtures: Path) -> Mapping[str, np.ndarray]:
    with np.load(fixtures / "synthmorph" / "op_compose.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def integrated(fixtures: Path) -> Mapping[str, np.ndarray]:
    with np.load(fixtures / "synthmorph" / "op_vecint_rescale.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("method", ["linear", "nearest"])
@pytest.mark.parametrize("kind", ["dense", "affine_center", "affine_corner", "affine_corner_shape"])
def test_transform(transforms: Mapping[str, np.ndarray], kind: str, method: str, fill: str) -> None:
    field = transforms["warp" if kind == "dense" else "affine"][None]
    shape = tuple(transforms["out_shape"]) if kind.endswith("shape") else None
    layer = SpatialTransformer(method, FILLS[fill], kind == "affine_center", shape)
    found = layer([transforms["vol"][None], field])
    expected = transforms[f"{kind}_{method}_fill_{fill}"][None]
    check(found, expected, ATOL if method == "linear" else 0)
    assert layer.compute_output_shape([(1, *transforms["vol"].shape), field.shape]) == expected.shape


def test_a_transform_for_each_volume(transforms: Mapping[str, np.ndarray]) -> None:
    volume, matrices = transforms["layer_batch_vol"], transforms["layer_batch_trf"]
    check(SpatialTransformer()([volume, matrices]), transforms["layer_batch_out_center_fill_None"])
    shape = tuple(transforms["out_shape"])
    corner = {"fill_value": 0.0, "shift_center": False, "shape": shape}
    check(SpatialTransformer(**corner)([volume, matrices]), transforms["layer_batch_out_corner_fill_0_shape"])
    one = SpatialTransformer(**corner, single_transform=True)([volume, matrices])
    check(one[:1], transforms["layer_batch_out_corner_fill_0_shape"][:1])
    check(one, numpy(SpatialTransformer(**corner)([volume, matrices[[0, 0]]])))


@pytest.mark.parametrize("name", ["center", "corner", "corner_right", "center_right"])
def test_affine_to_dense(composed: Mapping[str, np.ndarray], name: str) -> None:
    right = composed["W1"][None] if name.endswith("right") else None
    found = spatial.affine_to_dense(
        composed["A"][None], tuple(composed["shape"]), shift_center="center" in name, right=right
    )
    check(found, composed[f"dense_{name}"][None])


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_compose(composed: Mapping[str, np.ndarray], name: str) -> None:
    shape = tuple(int(size) for size in composed["shape2"]) if name.endswith("shape2") else None
    method = "nearest" if name.endswith("nearest") else "linear"
    layer = ComposeTransform(method, "corner" not in name, shape)
    inputs = [composed[part][None] for part in COMPOSITIONS[name].split()]
    expected = composed[f"compose_{name}"][None]
    check(layer(inputs), expected)
    assert layer.compute_output_shape([part.shape for part in inputs]) == expected.shape


def test_composing_one_transform_changes_nothing(composed: Mapping[str, np.ndarray]) -> None:
    check(spatial.compose([composed["W1"][None]]), composed["W1"][None], 0)


@pytest.mark.parametrize("steps", [0, 1, 5, 7])
def test_integrate(integrated: Mapping[str, np.ndarray], steps: int) -> None:
    check(VecInt(steps)(integrated["vel"][None]), integrated[f"vecint_{steps}"][None])


@pytest.mark.parametrize("factor", ["0.5", "2", "2.0", "1.5", "0.75", "0.3"])
def test_rescale(integrated: Mapping[str, np.ndarray], factor: str) -> None:
    layer, velocity = RescaleTransform(float(factor)), integrated["vel"][None]
    expected = integrated[f"rescale_dense_{factor}"][None]
    check(layer(velocity), expected)
    assert layer.compute_output_shape(velocity.shape) == expected.shape


def test_rescale_matrices(integrated: Mapping[str, np.ndarray]) -> None:
    found = RescaleTransform(2)(integrated["rescale_affine_in"][None])
    check(found, integrated["rescale_affine_2"][None])


@FEW
@given(SEEDS, st.sampled_from([(9, 8), (7, 9, 8)]))
def test_zero_changes_nothing_and_shifts_shift(seed: int, shape: tuple[int, ...]) -> None:
    volume = np.random.default_rng(seed).normal(size=(1, *shape, 2)).astype(np.float32)
    still = np.zeros((1, *shape, len(shape)), np.float32)
    check(spatial.warp(volume, still), volume)
    check(spatial.integrate(still), still)
    shift = still + np.eye(len(shape), dtype=np.float32)[0]
    check(spatial.warp(volume, shift, fill_value=5.0)[:, :-1], volume[:, 1:])
    check(spatial.warp(volume, shift, fill_value=5.0)[:, -1:], np.full_like(volume[:, :1], 5))
    check(spatial.integrate(shift), shift)
    check(spatial.compose([shift, shift]), 2 * shift)


@FEW
@given(SEEDS, st.sampled_from([(20, 22), (16, 18, 15)]))
def test_integral_of_the_negative_is_the_inverse(seed: int, shape: tuple[int, ...]) -> None:
    velocity = smooth(seed, shape, 1.0)
    ahead, back = VecInt(7)(velocity), VecInt(7)(Negate()(velocity))
    both = numpy(spatial.compose([ahead, back]))
    assert np.abs(both).max() < 0.1 * np.abs(numpy(ahead)).max()


@FEW
@given(SEEDS, st.sampled_from([(9, 8), (7, 9, 8)]), st.booleans())
def test_matrices_compose_as_their_displacements(seed: int, shape: tuple[int, ...], centred: bool) -> None:
    n = len(shape)
    rng = np.random.default_rng(seed)
    matrices = np.eye(n, n + 1) + rng.uniform(-0.1, 0.1, (2, 1, n, n + 1))
    left, right = matrices.astype(np.float32)
    both = spatial.compose([left, right], shift_center=centred)
    dense = spatial.affine_to_dense(right, shape, shift_center=centred)
    expected = numpy(spatial.affine_to_dense(both, shape, shift_center=centred))
    check(spatial.compose([left, dense], shift_center=centred), expected)
    turned = spatial.compose([affine.invert_affine(both), left, dense], shift_center=centred)
    check(turned, np.zeros((1, *shape, n)))


def test_a_constant_axis_changes_nothing() -> None:
    velocity = smooth(3, (9, 8), 2.0)
    slab = np.repeat(np.insert(velocity, 1, 0, axis=-1)[:, :, None], 5, axis=2)
    expected, found = numpy(spatial.integrate(velocity)), numpy(spatial.integrate(slab))
    check(found[:, :, 2][..., [0, 2]], expected)
    assert np.abs(found[..., 1]).max() == 0


def test_graph_through_the_engine_and_its_file(tmp_path: Path) -> None:
    inputs = keras.Input((None, None, None, 3))
    flow = VecInt(3, name="integrate")(Resize(0.5, name="coarser")(inputs))
    flow = RescaleTransform(2.0, name="finer")(flow)
    moved = SpatialTransformer(fill_value=0.0, name="move")([inputs, flow])
    matrix = np.eye(3, 4, dtype=np.float32)
    model = keras.Model(inputs, moved)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    for size in (8, 10):
        velocity = smooth(size, (size, 8, 6), 2.0)
        fine = spatial.rescale(spatial.integrate(resize(velocity, 0.5), 3), 2.0)
        expected = numpy(spatial.warp(velocity, fine, fill_value=0.0))
        assert np.abs(expected - velocity).max() > 0.1
        check(model(velocity), expected)
        check(again(velocity), expected)
        check(Engine(model)(velocity), expected)
        check(Engine(model, engine="eager")(velocity), expected)
        check(spatial.compose([matrix[None], fine], shift_center=False), numpy(fine))


def test_predict_takes_volumes_of_several_sizes() -> None:
    inputs = keras.Input((None, None, None, 3))
    model = keras.Model(inputs, RescaleTransform(1.5)(VecInt(2)(inputs)))
    for size in (4, 6):
        velocity = np.concatenate([smooth(seed, (size, 6, 4), 1.0) for seed in range(3)])
        expected = numpy(spatial.rescale(spatial.integrate(velocity, 2), 1.5))
        # OpenVINO's own predict may compute in bfloat16.
        atol = 3e-2 if keras.backend.backend() == "openvino" else ATOL
        check(model.predict(velocity, verbose=0, batch_size=2), expected, atol)


@pytest.mark.parametrize(
    "layer",
    [
        SpatialTransformer("nearest", 2.0, False, (3, 4, 5), True),
        VecInt(4),
        RescaleTransform(0.5, "nearest"),
        Resize((1.0, 2.0, 3.0)),
        ComposeTransform("nearest", False, (3, 4, 5)),
        AffineToDenseShift((3, 4, 5), False),
        Negate(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_configuration_round_trip(layer: keras.layers.Layer) -> None:
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    assert again.compute_dtype == "float32"


def test_layers_stay_in_float32_under_mixed_precision() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = VecInt(2)
    finally:
        keras.config.set_dtype_policy("float32")
    velocity = smooth(1, (6, 7), 1.0)
    check(layer(velocity), numpy(spatial.integrate(velocity, 2)), 0)


def test_affine_to_dense_layer(composed: Mapping[str, np.ndarray]) -> None:
    layer = AffineToDenseShift(composed["shape"].tolist(), shift_center=False)
    check(layer(composed["A"][None]), composed["dense_corner"][None])


def test_bad_transforms_are_refused() -> None:
    volume = np.zeros((1, 4, 4, 4, 1), np.float32)
    with pytest.raises(InvalidOption, match=r"found shape \(1, 4, 4, 4, 2\)"):
        spatial.transform(volume, np.zeros((1, 4, 4, 4, 2), np.float32))
    with pytest.raises(InvalidOption, match="shift_center=False"):
        spatial.transform(volume, np.eye(3, 4, dtype=np.float32)[None], shape=(2, 2, 2))
    with pytest.raises(InvalidOption, match="shift_center=False"):
        SpatialTransformer(shape=(2, 2, 2))
    with pytest.raises(InvalidOption, match="found -1"):
        VecInt(-1)
    with pytest.raises(InvalidOption, match="found 'cubic'"):
        SpatialTransformer("cubic")


@pytest.mark.training
def test_gradients(check_gradient: Callable[..., None]) -> None:
    rng = np.random.default_rng(5)
    volume = rng.normal(size=(1, 5, 4, 3, 1)).astype(np.float32)
    field = (rng.integers(-1, 2, size=(1, 5, 4, 3, 3)) + rng.uniform(0.3, 0.7, (1, 5, 4, 3, 3))).astype(
        np.float32
    )
    check_gradient(lambda x: spatial.warp(volume, x), field)
    check_gradient(lambda x: spatial.integrate(x, 2), smooth(2, (6, 5, 7), 0.7), 1e-3, 5e-2)
    check_gradient(
        lambda x: spatial.compose([x, field, x]), np.eye(3, 4, dtype=np.float32)[None] + 0.01, 1e-3
    )
