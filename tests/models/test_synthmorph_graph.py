"""SynthMorph's networks against outputs, names and counts of the original (TensorFlow 2.15)."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kerasneuro import networks, registry
from kerasneuro.errors import InvalidOption
from kerasneuro.models.synthmorph import graph, specialise, weights
from kerasneuro.models.synthmorph.fit import fit_matrices, share_of_mass
from kerasneuro.nn.affine import barycentre
from kerasneuro.weights import assign, read

DETECTORS = {"affine": "affine.inner.h5", "rigid": "rigid.full.h5"}
JOINT_OUTPUTS = [f"{kind}_{index}" for kind in ("tot", "def", "aff", "svf", "moved") for index in (1, 2)]
# JAX and OpenVINO compile each step: they compute what the original stored, and leave the rest to the others.
QUICK = keras.backend.backend() in ("tensorflow", "torch")
slow_to_compile = pytest.mark.skipif(
    not QUICK, reason="a matter of the graph alone, and slow to compile here"
)
Run = Callable[[keras.Model, list[np.ndarray]], list[np.ndarray]]
SMALL: dict[str, Any] = {"enc_nf": (2,), "add_nf": (2,)}


def numpy(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


@pytest.fixture(scope="module")
def run(whole: Any) -> Run:
    """Compute the outputs for a batch of one; a network is compiled once."""
    prepared = cache(whole)
    return lambda model, inputs: [output[0] for output in prepared(model)(inputs)]


@cache
def reference(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray], list[np.ndarray]]:
    """Read options, arrays and images of a stored network."""
    options = json.loads((folder / f"{name}.json").read_text())["constructor"]
    with np.load(folder / f"{name}.npz") as stored:
        arrays = dict(stored)
    images = [arrays[f"image{index}_u8"][None, ..., None].astype(np.float32) / 255 for index in (1, 2)]
    options.pop("rigid", None)
    return options, arrays, images


def fill(part: keras.Model, path: Path) -> None:
    with read(path) as store:
        assign(part, store, weights.table(store, part))


def detector(folder: Path, name: str, **options: Any) -> keras.Model:
    model = graph.build(name, **{**reference(folder, name)[0], **options})
    fill(graph.feature_tower(model), folder / DETECTORS[name])
    return model


def deformable(folder: Path, name: str, **options: Any) -> keras.Model:
    stored = dict(reference(folder, name)[0])
    affine = {key[4:]: stored.pop(key) for key in list(stored) if key.startswith("aff.")}
    network = "deform" if stored.pop("skip_affine", False) else "joint"
    if network == "joint":
        stored["affine"] = affine
    model = graph.build(network, **{**stored, **options})
    fill(graph.velocity_network(model), folder / f"{name}.deform.inner.h5")
    if network == "joint":
        fill(graph.feature_tower(model), folder / "joint.affine.full.h5")
    return model


def compare(found: np.ndarray, expected: np.ndarray, tolerance: float, name: str) -> None:
    assert found.shape == expected.shape, name
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def folder(fixtures: Path) -> Path:
    return fixtures / "synthmorph"


# Options -> start of the names of what they change.
WAYS: list[tuple[dict[str, bool], str]] = [
    ({}, ""),
    ({"return_trans_to_mid_space": True}, "mid_"),
    ({"return_trans_to_half_res": True}, "half_"),
]


@pytest.mark.parametrize(("options", "start"), WAYS)
@pytest.mark.parametrize("name", DETECTORS)
def test_matrices_and_features_of_the_original(
    folder: Path, name: str, options: dict[str, bool], start: str, run: Run
) -> None:
    """Features to 1e-4 of the largest, matrices to 2e-4, images to 1e-3."""
    _, arrays, images = reference(folder, name)
    model = detector(
        folder, name, bidir=True, make_dense=False, return_moved=True, return_feat=True, **options
    )
    keys = ("aff_1", "aff_2", "moved_1", "moved_2", "feat_1", "feat_2")
    compared = 0
    for key, found in zip(keys, run(model, images), strict=True):
        stored = key if key.startswith("feat") else start + key
        if stored in arrays:
            scale = 1e-4 * np.abs(arrays[stored]).max()
            tolerance = {"feat": scale, "aff_": 2e-4, "move": 1e-3}[key[:4]]
            compare(found, arrays[stored], tolerance, stored)
            compared += 1
    assert compared >= 4


@pytest.mark.parametrize("name", DETECTORS)
def test_steps_of_the_fit(folder: Path, name: str) -> None:
    _, arrays, images = reference(folder, name)
    features = [keras.ops.convert_to_tensor(arrays[f"feat_{index}"][None]) for index in (1, 2)]
    shape = images[0].shape[1:4]
    for index in (1, 2):
        centres = numpy(barycentre(features[index - 1]))[0] * np.array(shape)
        compare(centres, arrays[f"cen_{index}"], 1e-5, "centres")
    shares = numpy(share_of_mass(features[0]) * share_of_mass(features[1]))[0]
    compare(shares, arrays["weights"], 1e-6, "weights")
    for mid_space, start in ((False, ""), (True, "mid_")):
        found = fit_matrices(*features, shape, rigid=name == "rigid", mid_space=mid_space)
        for index, matrix in enumerate(found, 1):
            compare(numpy(matrix)[0], arrays[f"{start}aff_{index}"], 2e-4, f"{start}aff_{index}")


def test_displacement_of_the_affine_network_on_free_axes(folder: Path, run: Run) -> None:
    _, arrays, images = reference(folder, "affine")
    model = detector(folder, "affine", in_shape=(None,) * 3)
    assert model.output_shape == (None, None, None, None, 3)
    compare(run(model, images)[0][::4, ::4, ::4], arrays["dense_1_sub4"], 2e-4, "dense_1")


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["deform", "deform4", "joint"])
def test_fields_of_the_original(folder: Path, name: str, half: bool, run: Run) -> None:
    """Velocities to 1e-4 of the largest, displacements to 2e-4 voxels, matrices to 2e-4, images to 1e-3."""
    _, arrays, images = reference(folder, name)
    model = deformable(
        folder,
        name,
        bidir=True,
        return_trans_to_half_res=half,
        **{f"return_{kind}": True for kind in ("tot", "def", "aff", "svf", "moved")},
    )
    compared = 0
    for hyper in ("h0", "h1"):
        outputs = run(model, [arrays[f"hyper_{hyper}"][None], *images])
        for key, found in zip(JOINT_OUTPUTS, outputs, strict=True):
            start = "half_" if half and key[:3] != "svf" else ""
            for end, step in (("", 1), ("_sub2", 2)):
                stored = f"{start}{key}{end}_{hyper}"
                if stored in arrays:
                    tolerance = {"svf": 1e-4 * np.abs(arrays[stored]).max(), "mov": 1e-3}.get(key[:3], 2e-4)
                    thinned = found if key[:3] == "aff" else found[::step, ::step, ::step]
                    compare(thinned, arrays[stored], tolerance, stored)
                    compared += 1
    assert compared >= 4


@slow_to_compile
def test_the_opposite_order_gives_the_inverse_direction(folder: Path, run: Run) -> None:
    """Deforming A to B and B to A gives the same two displacements."""
    _, arrays, images = reference(folder, "deform")
    model = deformable(folder, "deform", bidir=True)
    hyper = arrays["hyper_h0"][None]
    forward, backward = (run(model, [hyper, *pair]) for pair in (images, images[::-1]))
    compare(forward[0], backward[1], 2e-4, "first")
    compare(forward[1], backward[0], 2e-4, "second")


@slow_to_compile
def test_without_mid_space_only_the_first_image_is_moved(folder: Path, run: Run) -> None:
    _, arrays, images = reference(folder, "joint")
    model = deformable(folder, "joint", mid_space=False, return_aff=True, return_trans_to_half_res=True)
    assert "affine_moved_2" not in [layer.name for layer in model.layers]
    total, matrix = run(model, [arrays["hyper_h0"][None], *images])
    whole = np.concatenate([arrays["aff_1_h0"], [[0, 0, 0, 1]]])  # to the mid-space
    compare(matrix[:, :3], 2 * (whole @ whole)[:3, :3], 1e-3, "the way to the mid-space, twice")
    assert np.isfinite(total).all()


def test_live_and_specialised_graphs_agree(folder: Path, run: Run) -> None:
    """For a regularisation in file and graph: all fields to 1e-5 of their largest value."""
    _, arrays, images = reference(folder, "deform")
    path = folder / "deform.deform.full.h5"
    config = {"bidir": False, "return_svf": True, "return_trans_to_half_res": True}
    special = specialise.specialised_network(path, 0.15, config=config)
    live = deformable(folder, "deform", **config)
    assert [tensor.name for tensor in special.inputs] == ["image_1", "image_2"]
    expected = run(live, [arrays["hyper_h1"][None], *images])
    for found, wanted in zip(run(special, images), expected, strict=True):
        compare(found, wanted, 1e-5 * np.abs(wanted).max(), "field")
    again = specialise.specialise_model(live, 0.15)
    for one, other in zip(again.variables, special.variables, strict=True):
        compare(numpy(one), numpy(other), 1e-6, one.path)
    with pytest.raises(InvalidOption, match="has no hypernetwork"):
        specialise.specialise_model(special, 0.5)


def test_kernels_of_the_hypernetwork(folder: Path) -> None:
    options, arrays, _ = reference(folder, "deform")
    network = graph.velocity_network(deformable(folder, "deform"))
    hidden = arrays["hyper_h1"]
    for index in range(len(options["hyp_units"])):
        layer = network.get_layer(f"dense_{index}" if index else "dense")
        hidden = np.maximum(hidden @ numpy(layer.kernel) + numpy(layer.bias), 0)
    compare(hidden, arrays["hyp_hidden_h1"], 1e-5, "hidden units")
    layer = network.get_layer("hyper_conv_from_dense_6")
    kernel = hidden @ numpy(layer.hyperkernel_kernel) + numpy(layer.hyperkernel_bias)
    compare(kernel.reshape(3, 3, 3, 4, 3), arrays["kernel6_h1"], 1e-5, "last kernel")


@pytest.mark.parametrize(
    ("part", "manifest"),
    [("feature_tower", "joint.affine.inner"), ("velocity_network", "joint.deform.inner")],
)
def test_layers_with_weights_are_named_as_in_the_original(folder: Path, part: str, manifest: str) -> None:
    stored = json.loads((folder / f"{manifest}.manifest.json").read_text())["weights"]
    model = getattr(graph, part)(deformable(folder, "joint"))
    found = {f"/{variable.path.split('/')[0]}/{variable.path}:0" for variable in model.variables}
    assert found == {row["path"] for row in stored}


@pytest.mark.parametrize(
    ("network", "manifest"), [("affine", "affine"), ("rigid", "rigid"), ("deform", "deform")]
)
def test_full_size(folder: Path, network: str, manifest: str) -> None:
    stored = json.loads((folder / f"synthmorph_{manifest}.fullsize.json").read_text())
    card = registry.get(f"synthmorph-{network}")
    model = networks.sketch_graph(card, graph, {"network": network}, "")
    rows = stored["weights"] if "weights" in stored else stored["layout_full"]["weights"]
    shapes = {"/".join(row["path"].removesuffix(":0").split("/")[-2:]): tuple(row["shape"]) for row in rows}
    assert {variable.path: tuple(variable.shape) for variable in model.variables} == shapes
    assert model.count_params() == stored["n_params"] == card.parameters


def test_full_size_without_hypernetwork() -> None:
    card = registry.get("synthmorph-deform")
    model = networks.sketch_graph(card, graph, {"network": "deform", "specialised": True}, "")
    assert model.count_params() == 26_579_715
    joint = networks.sketch_graph(card, graph, {"network": "joint"}, "")
    assert joint.count_params() == registry.get("synthmorph-joint").parameters


@slow_to_compile
def test_a_plane_is_registered_and_saved(tmp_path: Path, run: Run) -> None:
    rng = np.random.default_rng(0)
    model = graph.build(
        "joint",
        (16, 24),
        specialised=True,
        mid_space=True,
        bidir=True,
        return_moved=True,
        affine={"num_feat": 6, "dropout": 0.1, "dec_nf": (2,), **SMALL},
        **SMALL,
        dec_nf=(2,),
    )
    images = [rng.uniform(size=(2, 16, 24, 1)).astype(np.float32) for _ in range(2)]
    assert model.output_shape == [(None, 16, 24, 2)] * 2 + [(None, 16, 24, 1)] * 2
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    for found, expected in zip(run(again, images), run(model, images), strict=True):
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(found, expected)


@slow_to_compile
@pytest.mark.training
def test_training_reaches_every_weight(single_step: dict[str, bool]) -> None:
    keras.utils.set_random_seed(1)
    model = graph.build(
        "joint",
        (8, 8),
        hyp_units=(16,),
        enc_nf=(6,),
        dec_nf=(6,),
        add_nf=(6,),
        int_steps=2,
        affine={"num_feat": 12, "enc_nf": (8,), "add_nf": (8,)},
    )
    rng = np.random.default_rng(0)
    images = [rng.uniform(size=(2, 8, 8, 1)).astype(np.float32) for _ in range(2)]
    before = model.get_weights()
    model.compile(optimizer=keras.optimizers.SGD(1e-1), loss="mse", **single_step)
    hyper = np.array([[0.2], [0.7]], np.float32)
    model.train_on_batch([hyper, *images], np.ones((2, 8, 8, 2), np.float32))
    # The last convolution's bias is the same in both directions, so their difference is free of it.
    last = "hyper_conv_from_dense_3/hyperbias"
    for old, new, variable in zip(before, model.get_weights(), model.weights, strict=True):
        assert np.isfinite(new).all()
        assert (np.abs(old - new).max() > 0) != variable.path.startswith(last), variable.path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "elastic"}, "one of affine, rigid, deform, joint; found 'elastic'"),
        ({"network": "affine", "hyp_units": (3,)}, "the affine network has no option hyp_units"),
        ({"network": "joint", "num_feat": 3}, "the joint network has no option num_feat"),
        ({"network": "joint", "affine": {"bidir": True}}, "the affine step has no option bidir"),
        ({"network": "deform", "enc_nf": (2,), "dec_nf": ()}, "found 1 and 0"),
        ({"network": "affine", "dec_nf": (2,) * 5}, "at most as many levels as enc_nf, found 5 and 4"),
        ({"network": "rigid", "in_shape": (16,)}, "2 or 3 axes"),
        ({"network": "rigid", "in_shape": (16, 32, 32)}, r"at least 16 voxels .* found \(8, 16, 16\)"),
        ({"network": "deform", "in_shape": (48, 64, 64)}, r"multiples of 16 .* found \(24, 32, 32\)"),
        ({"network": "rigid", "half_res": False, "return_trans_to_half_res": True}, "needs half_res=True"),
        ({"network": "deform", "return_tot": False, **SMALL, "dec_nf": (2,)}, "returns nothing"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        graph.build(**options)


def test_parts_that_a_network_lacks_are_named() -> None:
    with pytest.raises(InvalidOption, match="no deformable step"):
        graph.velocity_network(graph.build("affine", num_feat=2, **SMALL))
    with pytest.raises(InvalidOption, match="no affine step"):
        graph.feature_tower(graph.build("deform", specialised=True, dec_nf=(2,), **SMALL))
