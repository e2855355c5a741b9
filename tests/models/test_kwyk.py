"""The networks and the pipeline of kwyk against outputs of the original layers (neuronets/kwyk@4dd379c)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import nibabel as nib
import numpy as np
import pytest

import kerasneuro
from kerasneuro import registry, volume
from kerasneuro.errors import InvalidImage, InvalidOption, WeightsMismatch
from kerasneuro.inference import Engine
from kerasneuro.models.kwyk import task as kwyk_task
from kerasneuro.models.kwyk.findings import mean_entropies, summarise
from kerasneuro.models.kwyk.graph import VARIANTS, build
from kerasneuro.models.kwyk.labels import freesurfer_labels, structures
from kerasneuro.models.kwyk.task import TASK, KwykTask
from kerasneuro.models.kwyk.weights import IGNORED, infer_config, keep_probability, table
from kerasneuro.nn.monte_carlo import reseed, with_monte_carlo
from kerasneuro.weights import assign, read

NAMES = dict(zip(VARIANTS, ("kwyk-bwn", "kwyk-bwn-multi", "kwyk-bvwn-multi-prior"), strict=True))
# The same in every folder; part of the elements that the dropout keeps, for one.
CONFIG = {"n_classes": 7, "filters": 6, "input_shape": (None, None, None, 1)}
BLOCK = (12, 10, 14)
DRAWS = 400  # stored with the reference


@pytest.fixture(scope="module")
def folder(fixtures: Path) -> Path:
    return fixtures / "nobrainer"


def load_model(folder: Path, variant: str) -> keras.Model:
    with read(folder / f"kwyk_{variant}") as store:
        model = build(**infer_config(store))
        assign(model, store, table(store, model), ignore=IGNORED)
    return model


@pytest.fixture(scope="module", params=VARIANTS)
def loaded(request: pytest.FixtureRequest, folder: Path) -> tuple[str, KwykTask]:
    """A task made by `kerasneuro.load` from a folder."""
    return request.param, kerasneuro.load(NAMES[request.param], weights=folder / f"kwyk_{request.param}")


@pytest.fixture(scope="module")
def bernoulli(folder: Path) -> KwykTask:
    return kerasneuro.load("kwyk-bwn-multi", weights=folder / "kwyk_bwn_multi")


def voxels(image) -> np.ndarray:
    return np.asanyarray(image.dataobj)


def noise(shape: tuple[int, int, int] = (24, 20, 28), zoom: float = 2.0, seed: int = 0) -> nib.Nifti1Image:
    affine = np.diag([-zoom, zoom, zoom, 1.0])
    return nib.Nifti1Image(np.random.default_rng(seed).normal(40, 9, shape).astype(np.float32), affine)


# --- the network ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_deterministic_probabilities_are_those_of_the_original(folder: Path, variant: str) -> None:
    stored = np.load(folder / f"kwyk_{variant}.npz")
    model = load_model(folder, variant)
    found = Engine(model)(stored["x"])
    np.testing.assert_allclose(found, stored["det_probabilities"], atol=1e-5)
    np.testing.assert_array_equal(found.argmax(-1), stored["det_class_ids"])
    logits = keras.Model(model.inputs, model.get_layer("logits_conv3d").output)
    np.testing.assert_allclose(Engine(logits)(stored["x"]), stored["det_logits"], atol=1e-5)


def excess(draws: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> tuple[float, float, float]:
    """Compare draws with the stored mean and deviation of 400 others, element by element.

    Returns the parts of the elements whose mean and whose deviation differ by more than four standard errors,
    and the geometric mean of the ratios of the deviations. Of normal numbers, 0.006 % would be beyond four.
    """
    count = len(draws)
    found, spread = draws.mean(axis=0), draws.std(axis=0, ddof=1)
    error = np.sqrt(spread**2 / count + deviation**2 / DRAWS) + 1e-6
    kurtosis = np.maximum(((draws - found) ** 4).mean(axis=0) / spread**4, 3.0)
    error_of_log = np.sqrt((kurtosis - 1) / 4 * (1 / count + 1 / DRAWS))
    logs = np.log(spread / deviation)
    beyond = (np.abs(found - mean) > 4 * error).mean(), (np.abs(logs) > 4 * error_of_log).mean()
    return float(beyond[0]), float(beyond[1]), float(np.exp(logs.mean()))


@pytest.mark.training  # OpenVINO draws, too, but compiles every draw anew.
@pytest.mark.parametrize(
    # Bernoulli draws differ between the items of a batch; the others are shared by the whole batch.
    ("variant", "items", "calls"),
    [("bwn_multi", 8, 10), ("bvwn_multi_prior", 1, 48)],
)
def test_monte_carlo_mean_and_deviation_are_those_of_400_draws(
    folder: Path, variant: str, items: int, calls: int
) -> None:
    stored = np.load(folder / f"kwyk_{variant}.npz")
    mean, deviation = stored["mc_prob_mean"][0], stored["mc_prob_std"][0].astype(np.float64)
    model = with_monte_carlo(load_model(folder, variant), True)
    reseed(model, 0)
    engine, batch = Engine(model), np.repeat(stored["x"][:1], items, axis=0)
    draws = np.concatenate([engine(batch) for _ in range(calls)]).astype(np.float64)
    # The errors of neighbouring voxels go together, so more elements than 0.006 % are allowed to be far off.
    far_means, far_deviations, ratio = excess(draws, mean, deviation)
    assert far_means < 0.001
    assert far_deviations < 0.02
    assert 0.9 < ratio < 1.1
    # The same comparison tells a wider spread apart, and the network without its noise.
    centre = draws.mean(axis=0)
    assert not 0.9 < excess(centre + 1.3 * (draws - centre), mean, deviation)[2] < 1.1
    if variant == "bwn_multi":
        certain = stored["det_probabilities"][0].astype(np.float64)
        assert excess(draws - centre + certain, mean, deviation)[0] > 0.01


@pytest.mark.parametrize("variant", VARIANTS)
def test_full_size_variables_are_those_of_the_manifest(folder: Path, variant: str) -> None:
    manifest = json.loads((folder / "kwyk_full_manifest.json").read_text())[variant]
    wanted = {name.removesuffix(":0"): tuple(shape) for name, shape, _ in manifest["variables"]}
    assert wanted.pop("global_step") == ()
    model = build(variant)
    names = table(None, model)
    assert {names[v.path]: tuple(v.shape) for v in model.weights} == wanted
    assert 4 * model.count_params() + 8 == manifest["data_bytes"]
    assert model.count_params() == registry.get(NAMES[variant]).parameters


def test_graph_has_the_names_and_the_reach_of_the_original() -> None:
    model = build("bvwn_multi_prior", n_classes=3, filters=2, input_shape=(40, 40, 40, 1))
    names = [layer.name for layer in model.layers]
    assert names[1:4] == ["layer_1_conv3d", "layer_1_concrete_dropout", "layer_1_relu"]
    assert names[-2:] == ["logits_conv3d", "probabilities"]
    rates = [layer.dilation_rate for layer in model.layers if layer.name.endswith("conv3d")]
    assert rates == [1, 1, 1, 2, 4, 8, 1, 1]
    assert 1 + 2 * sum(rates[:-1]) == 37


@pytest.mark.parametrize(
    "config",
    [
        {"variant": "bayes"},
        {"n_classes": 0},
        {"filters": 0},
        {"dilations": ()},
        {"dilations": (1, 0)},
        {"input_shape": (8, 8, 8)},
        {"keep_probability": 0.0},
        {"keep_probability": 1.5},
        {"kl_weight": -1.0},
    ],
)
def test_impossible_graphs_are_refused(config: dict) -> None:
    with pytest.raises(InvalidOption):
        build(**config)


@pytest.mark.training
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_training_step_changes_every_trainable_variable(
    variant: str, single_step: dict[str, bool]
) -> None:
    keras.utils.set_random_seed(1)
    model = build(variant, n_classes=3, filters=4, dilations=(1, 2), kl_weight=1e-6)
    wanted = {"v", "g", "bias_m"} | ({"kernel_a", "bias_a", "p"} if variant == "bvwn_multi_prior" else set())
    assert {v.name for v in model.trainable_variables} == wanted
    before = {v.path: keras.ops.convert_to_numpy(v).copy() for v in model.weights}
    model.compile(
        optimizer=keras.optimizers.Adam(1e-2), loss="sparse_categorical_crossentropy", **single_step
    )
    numbers = np.random.default_rng(2)
    x = numbers.normal(size=(2, 12, 12, 12, 1)).astype("float32")
    y = numbers.integers(0, 3, size=(2, 12, 12, 12))
    model.train_on_batch(x, y)
    trained = {v.path for v in model.trainable_variables}
    for variable in model.weights:
        changed = np.abs(keras.ops.convert_to_numpy(variable) - before[variable.path]).max() > 0
        assert changed == (variable.path in trained), variable.path


# --- the weights ---------------------------------------------------------------------------------------


def test_configuration_is_inferred_from_the_file(folder: Path) -> None:
    found = {}
    for variant in VARIANTS:
        with read(folder / f"kwyk_{variant}") as store:
            found[variant] = infer_config(store)
    assert found["bwn"] == {**CONFIG, "variant": "bwn"}
    assert found["bwn_multi"] == {**CONFIG, "variant": "bwn_multi", "keep_probability": 0.9}
    assert found["bvwn_multi_prior"] == {**CONFIG, "variant": "bvwn_multi_prior"}


def test_without_a_graph_the_card_names_the_variant(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "kwyk_bwn_multi" / "variables", tmp_path / "variables")
    with read(tmp_path) as store:
        assert infer_config(store) == CONFIG
    task = kerasneuro.load("kwyk-bwn-multi", weights=tmp_path)
    assert task.model.get_layer("layer_1_bernoulli").keep_probability == 0.5


def test_keep_probability_as_two_versions_of_tensorflow_name_it() -> None:
    # The names of the published file (TensorFlow 1.12), then those of TensorFlow 2.
    assert keep_probability({"cond_3/dropout/keep_prob": 0.5, "cond/scalar": 0.5, "save/Const": 3.0}) == 0.5
    assert keep_probability({"layer_1/bernoulli/cond/scalar": np.float32(0.9)}) == 0.9
    assert keep_probability({"layer_1/conv3d/cond/add/y": 1e-8}) is None
    for wrong in ({"cond/scalar": 0.5, "cond_1/scalar": 0.9}, {"cond/scalar": 0.0}, {"cond/scalar": 1.2}):
        with pytest.raises(WeightsMismatch):
            keep_probability(wrong)


def test_other_files_are_refused(folder: Path) -> None:
    with pytest.raises(WeightsMismatch, match="not a kwyk network"):
        kerasneuro.load("kwyk-bwn", weights=folder / "unet_b2_weights.h5")
    with pytest.raises(WeightsMismatch, match="not a nobrainer U-Net"):
        kerasneuro.load("nobrainer-unet", weights=folder / "kwyk_bwn")


def test_a_network_with_more_layers_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsMismatch, match="differences"):
        kerasneuro.load("kwyk-bwn", weights=folder / "kwyk_bwn", config={"dilations": (1, 1, 2)})


# --- the pipeline --------------------------------------------------------------------------------------


def blockwise(model: keras.Model, array: np.ndarray) -> np.ndarray:
    """Standardise, predict every block alone and put the probabilities side by side."""
    array = (array - array.mean()) / array.std()
    engine, found = Engine(model), None
    for place in np.ndindex(*(n // b for n, b in zip(array.shape, BLOCK, strict=True))):
        where = tuple(slice(p * b, (p + 1) * b) for p, b in zip(place, BLOCK, strict=True))
        result = engine(array[where][None, ..., None])[0]
        found = np.empty((*array.shape, result.shape[-1]), np.float32) if found is None else found
        found[where] = result
    assert found is not None
    return found


def test_deterministic_pipeline_equals_its_definition(loaded: tuple[str, KwykTask]) -> None:
    variant, task = loaded
    image = noise()
    result = task(image, conform=False, deterministic=True, block_shape=BLOCK)
    expected = blockwise(task.model, voxels(image))
    np.testing.assert_array_equal(voxels(result.labels), expected.argmax(-1))
    entropy = (-expected * np.log(expected + 1e-7)).sum(-1)
    np.testing.assert_allclose(voxels(result.entropy), entropy, atol=1e-5)
    assert result.uncertainty is result.entropy and result.variance is None
    assert voxels(result.labels).dtype == np.uint8
    np.testing.assert_array_equal(result.labels.affine, image.affine)
    labelled = expected.argmax(-1) != 0
    summary = result.summaries["uncertainty"]
    assert summary["uncertainty"] == pytest.approx(entropy[labelled].mean(), abs=1e-5)
    for row in result.table:
        where = expected.argmax(-1) == row["label"]
        assert (row["voxels"], row["volume_mm3"]) == (where.sum(), 8 * where.sum())
        assert (row["mean_entropy"] is None) == (not where.any())
        if where.any():
            assert row["mean_entropy"] == pytest.approx(entropy[where].mean(), abs=1e-5)
            assert summary["structures"][row["name"]] == pytest.approx(row["mean_entropy"], abs=1e-5)
    assert (result.provenance["variant"], result.provenance["draws"]) == (variant, 0)


@pytest.mark.slow
def test_end_to_end_on_a_scan(loaded: tuple[str, KwykTask], folder: Path, tmp_path: Path) -> None:
    variant, task = loaded
    result = task(folder / "pipe_t1.nii.gz", conform=False, deterministic=True)
    scan = nib.load(folder / "pipe_t1.nii.gz")
    assert result.labels.shape == result.entropy.shape == scan.shape
    np.testing.assert_allclose(result.labels.affine, scan.affine, atol=1e-5)
    written = result.save(tmp_path / variant)
    names = ["entropy", "labels", "provenance", "table", "uncertainty"]
    assert sorted(written) == names
    assert sorted(path.name.split(".")[0] for path in written.values()) == [
        f"pipe_t1_{name}" for name in names
    ]
    stored = json.loads(written["uncertainty"].read_text())
    assert 0 < stored["uncertainty"] < np.log(7) + 1e-3
    provenance = json.loads(written["provenance"].read_text())
    assert provenance["model"] == NAMES[variant]
    assert provenance["weights"]["model"]["registered"].startswith("user file, sha256 ")
    np.testing.assert_array_equal(nib.load(written["labels"]).get_fdata(), voxels(result.labels))


def test_draws_can_be_repeated_and_give_a_variance(bernoulli: KwykTask, tmp_path: Path) -> None:
    image = noise(BLOCK)
    options = {"conform": False, "block_shape": BLOCK, "batch_size": 1}
    first, again = (bernoulli(image, n_samples=2, **options) for _ in range(2))
    other = bernoulli(image, n_samples=2, seed=1, **options)
    for name in ("labels", "entropy", "variance"):
        np.testing.assert_array_equal(voxels(getattr(first, name)), voxels(getattr(again, name)))
    assert voxels(first.variance).min() >= 0 and voxels(first.variance).mean() > 0
    assert voxels(first.entropy).tolist() != voxels(other.entropy).tolist()
    assert first.provenance["draws"] == 2
    assert "variance" in first.save(tmp_path / "two")
    single = bernoulli(image, **options)
    assert single.variance is None and single.provenance["draws"] == 1
    certain = bernoulli(image, deterministic=True, **options)
    assert voxels(single.entropy).tolist() != voxels(certain.entropy).tolist()


def test_trained_weights_reach_the_prediction(folder: Path) -> None:
    task = kerasneuro.load("kwyk-bwn-multi", weights=folder / "kwyk_bwn_multi")
    image, options = noise(), {"conform": False, "block_shape": BLOCK, "deterministic": True}
    before = voxels(task(image, **options).entropy)
    task.model.get_layer("logits_conv3d").g.assign(np.zeros((1, 1, 1, 1, 7), "float32"))
    task.model.get_layer("logits_conv3d").bias_m.assign(np.zeros(7, "float32"))
    after = voxels(task(image, **options).entropy)
    assert before.tolist() != after.tolist()
    np.testing.assert_allclose(after, np.log(7), atol=1e-4)


def test_scans_of_another_shape_are_conformed_and_results_come_back(
    bernoulli: KwykTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kwyk_task, "CONFORMED_SHAPE", (48, 40, 42))
    image, options = noise((20, 22, 18)), {"block_shape": (24, 20, 21), "deterministic": True}
    result = bernoulli(image, **options)
    assert result.labels.shape == image.shape
    moved, back = volume.conform(volume.load(image), (48, 40, 42), axcodes="LIA")
    there = bernoulli(moved, conform=False, **options)
    np.testing.assert_array_equal(voxels(result.labels), back(voxels(there.labels), order="nearest"))
    np.testing.assert_allclose(voxels(result.entropy), back(voxels(there.entropy), order="linear"), atol=1e-5)
    assert result.summaries == there.summaries
    # A scan that has the shape already is used as it is.
    same = noise((48, 40, 42), zoom=0.7)
    np.testing.assert_array_equal(
        voxels(bernoulli(same, **options).labels), voxels(bernoulli(same, conform=False, **options).labels)
    )


def test_what_has_no_effect_is_said(folder: Path) -> None:
    options = {"conform": False, "block_shape": BLOCK}
    plain = kerasneuro.load("kwyk-bwn", weights=folder / "kwyk_bwn")
    result = plain(noise(), n_samples=4, **options)
    assert any("n_samples has no effect" in warning for warning in result.warnings)
    assert result.variance is None
    other = kerasneuro.load("kwyk-bwn", weights=folder / "kwyk_bwn_multi")
    assert any("variant bwn_multi" in text for text in other(noise(), **options).warnings)


@pytest.mark.parametrize(
    "options",
    [
        {"n_samples": 0},
        {"n_samples": 1.5},
        {"labels": "aseg"},
        {"labels": "freesurfer"},
        {"block_shape": (32, 32)},
        {"overlap": 1.0},
        {"no_such_option": 1},
    ],
)
def test_impossible_options_are_refused_before_the_scan_is_read(bernoulli: KwykTask, options: dict) -> None:
    with pytest.raises(InvalidOption):
        bernoulli("does_not_exist.nii.gz", **options)


def test_unusable_scans_are_refused(bernoulli: KwykTask, tmp_path: Path) -> None:
    with pytest.raises(InvalidImage):
        bernoulli(tmp_path / "does_not_exist.nii.gz")
    with pytest.raises(InvalidImage):
        bernoulli(nib.Nifti1Image(np.ones((16, 16, 16), np.float32), np.eye(4)))


# --- labels --------------------------------------------------------------------------------------------


def test_fifty_classes_stand_for_the_labels_of_freesurfer() -> None:
    found = structures()
    assert len(found) == 50 and len({structure.name for structure in found}) == 50
    members = [label for structure in found for label in structure.freesurfer]
    assert len(members) == len(set(members)) == 106
    first_rows = {0: 0, 2: 1, 4: 2, 5: 2, 7: 3, 8: 4, 10: 5, 11: 6, 12: 7, 13: 8, 14: 2}
    assert all(label in found[index].freesurfer for label, index in first_rows.items())
    # Every region of the cortex is there on both sides; 1004 is the corpus callosum and has no class.
    cortex = [structure.freesurfer for structure in found[16:]]
    assert cortex == [(label, label + 1000) for label in range(1001, 1036) if label != 1004]
    assert freesurfer_labels()[[0, 1, 9, 17, 49]].tolist() == [0, 2, 16, 1002, 1035]


def test_freesurfer_labels_of_a_network_with_fifty_classes() -> None:
    keras.utils.set_random_seed(3)
    model = build("bwn", filters=2)
    task = KwykTask(registry.get("kwyk-bwn"), {"": model}, {})
    options = {"conform": False, "block_shape": BLOCK}
    plain, coded = task(noise(), **options), task(noise(), labels="freesurfer", **options)
    assert voxels(coded.labels).dtype == np.int16
    np.testing.assert_array_equal(voxels(coded.labels), freesurfer_labels()[voxels(plain.labels)])
    assert [row["label"] for row in coded.table] == freesurfer_labels()[1:].tolist()
    assert plain.table[8]["name"] == "Brain-Stem"
    assert any("cm3" in warning for warning in plain.warnings)  # noise has no plausible brain


def test_mean_entropies() -> None:
    classes = np.array([[[0, 1], [1, 2]]], np.uint8)
    entropy = np.array([[[9.0, 1.0], [2.0, 6.0]]], np.float32)
    overall, means = mean_entropies(classes, entropy, 4)
    assert (overall, means) == (3.0, [9.0, 1.5, 6.0, None])
    assert summarise(overall, means, "abcd") == {"uncertainty": 3.0, "structures": {"b": 1.5, "c": 6.0}}
    assert mean_entropies(np.zeros_like(classes), entropy, 4)[0] is None


def test_task_says_what_it_makes() -> None:
    assert TASK is KwykTask and KwykTask.main_output in KwykTask.outputs
    assert (KwykTask.defaults.block_shape, KwykTask.defaults.batch_size) == ((32, 32, 32), 8)
