"""The whole FastSurfer task on every backend: its networks, options, outputs, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import keras
import nibabel
import numpy as np
import pytest

import kerasneuro
from kerasneuro import registry
from kerasneuro.errors import InvalidImage, InvalidOption, OutOfMemory, OutputError, WeightsMismatch
from kerasneuro.models.fastsurfer.aggregation import CLASSES, ViewAdder
from kerasneuro.models.fastsurfer.graph import build
from kerasneuro.models.fastsurfer.slices import PLANES, ThickSlices, empty_logits
from kerasneuro.models.fastsurfer.task import FastSurferTask, name_structures
from kerasneuro.networks import family_module, load_part
from kerasneuro.volume import conform_mgh, load

CARD = registry.get("fastsurfer-cnn")
IMAGES = ("labels", "aseg", "mask", "conformed")


@pytest.fixture(scope="module")
def folder(fixtures: Path) -> Path:
    return fixtures / "fastsurfer"


@pytest.fixture(scope="module")
def weights(folder: Path) -> dict[str, Path]:
    return {part: folder / f"e2e_{part}.pkl" for part in PLANES}


@pytest.fixture(scope="module")
def task(weights: dict[str, Path]) -> FastSurferTask:
    """The three networks of eight filters, trained for the reference."""
    graph, table = family_module(CARD, "graph"), family_module(CARD, "weights")
    models = {}
    for part, path in weights.items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        models[part] = load_part(CARD, graph, table, part, path, {}, digest)
    return FastSurferTask(CARD, models, {})


@pytest.fixture(scope="module")
def reference(folder: Path) -> dict:
    stored = np.load(folder / "e2e_result.npz")
    meta = json.loads(str(stored["meta"]))
    box = tuple(slice(*edge) for edge in zip(meta["crop_lo"], meta["crop_hi"], strict=True))
    return {**meta, **stored, "box": box}


def by_rule(model: keras.Model, seed: int) -> keras.Model:
    """Give a network the weights that the reference's seed stands for."""
    for variable in model.variables:
        layer, leaf = variable.path.split("/")[-2:]
        name = {"kernel": "weight", "alpha": "weight", "gamma": "weight", "beta": "bias"}.get(leaf, leaf)
        name = {"moving_mean": "running_mean", "moving_variance": "running_var"}.get(name, name)
        key = f"{layer.replace('_', '.')}.{name}"
        rng = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(key.encode())]))
        shape = tuple(variable.shape)
        if leaf == "kernel":
            shape = (shape[3], shape[2], *shape[:2])
        values = rule_values(key, shape, rng)
        if leaf == "kernel":
            values = values.transpose(2, 3, 1, 0)
        variable.assign(values.reshape(tuple(variable.shape)).astype("float32"))
    return model


def rule_values(key: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    leaf = key.rpartition(".")[2]
    if ".bn" in key:
        return {
            "weight": lambda: rng.uniform(0.5, 1.5, shape),
            "bias": lambda: 0.3 * rng.standard_normal(shape) - 0.2,
            "running_mean": lambda: 0.4 * rng.standard_normal(shape),
            "running_var": lambda: rng.uniform(0.6, 2.5, shape),
        }[leaf]()
    if "prelu" in key:
        return rng.uniform(0.05, 0.4, (1,))
    if leaf == "bias":
        return 0.1 * rng.standard_normal(shape)
    return rng.standard_normal(shape) * np.sqrt(1.5 / np.prod(shape[1:]))


# --- networks together ---------------------------------------------------------------------------------


def test_classes_of_three_small_networks(folder: Path) -> None:
    """The original's classes of a 32 x 16 x 48 crop, in batches that do not divide it."""
    stored = np.load(folder / "view_aggregation.npz")
    meta = json.loads(str(stored["meta"]))
    models = {
        part: by_rule(build(filters=meta["num_filters"], classes=CLASSES[part]), seed)
        for part, seed in meta["seeds"].items()
    }
    small = FastSurferTask(CARD, models, {})
    found = small.classify(stored["volume"], small.settings({"batch_size": 7}))
    clear = stored["margin"] > 0.05
    assert clear.mean() > 0.75
    np.testing.assert_array_equal(found[clear], stored["class_index"][clear])
    assert found.dtype == np.uint8
    again = small.classify(stored["volume"], small.settings({"batch_size": 7}))
    np.testing.assert_array_equal(again, found)


def test_sums_of_the_original_at_places_of_a_whole_scan(
    task: FastSurferTask, folder: Path, reference: dict
) -> None:
    """Thirteen slices of the 768 that the reference was made of."""
    scan = load(folder / "e2e_t1.nii.gz", dtype=None)
    conformed, _ = conform_mgh(scan)
    assert hashlib.sha256(conformed.array.tobytes()).hexdigest() == reference["conformed_sha256"]
    np.testing.assert_array_equal(conformed.affine, reference["affine"])
    places = {"sagittal": range(120, 124), "axial": range(110, 126, 5), "coronal": range(100, 150, 11)}
    logits = {
        part: np.stack(
            [task.engine(part, task.settings({}))(slices.batch(place, 1))[0] for place in places[part]]
        )
        for part, slices in ((part, ThickSlices(conformed.array, plane)) for part, plane in PLANES.items())
    }
    i, j, k = (np.array(places[part]) for part in ("sagittal", "axial", "coronal"))
    adder = ViewAdder(len(j))
    found = np.empty(reference["block"].shape, np.float32)
    for index, plane in enumerate(k):
        found[:, :, index] = adder.sums(
            logits["axial"][:, plane, i],
            logits["coronal"][index][np.ix_(i, j)],
            logits["sagittal"][:, plane, j],
        )
    # Where four values that a pooling compares are equal but for rounding, another may win than in the
    # original, which moves single voxels: two of eighty.
    difference = np.abs(found - reference["block"]).max(axis=-1)
    assert np.count_nonzero(difference > 1e-5) <= 2 and difference.max() < 0.15
    np.testing.assert_array_equal(found.argmax(axis=-1), reference["block"].argmax(axis=-1))


def test_an_empty_slice_has_the_same_logits_in_any_batch(task: FastSurferTask) -> None:
    """So empty slices may be computed once: beside others, and at any place, the bits are the same."""
    network = task.engine("coronal", task.settings({}))
    alone = empty_logits(network, (64, 48), 4)
    assert alone is not None
    mixed = np.random.default_rng(0).random((4, 64, 48, 7), dtype=np.float32)
    for place in range(4):
        batch = mixed.copy()
        batch[place] = 0
        np.testing.assert_array_equal(network(batch)[place], alone)


# --- a whole scan -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.backend_free  # Dear, and the other backends are compared at thirteen slices.
def test_whole_scan_against_the_original(
    weights: dict[str, Path],
    folder: Path,
    reference: dict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kerasneuro.cli.app import main

    seen = []
    classify = FastSurferTask.classify
    monkeypatch.setattr(FastSurferTask, "classify", lambda *given: seen.append(classify(*given)) or seen[0])
    options = [word for part, path in weights.items() for word in ("--weights", f"{part}={path}")]
    target = tmp_path / "aparc.mgz"
    arguments = ["run", "fastsurfer-cnn", str(folder / "e2e_t1.nii.gz"), *options, "-o", str(target)]
    assert main([*arguments, "--work-dir", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["aparc.mgz"]
    image = nibabel.load(target)
    np.testing.assert_array_equal(image.affine, reference["affine"])
    np.testing.assert_array_equal(np.asarray(image.dataobj), name_structures(seen[0], clean=False).labels)

    # Pooling ties let single voxels differ, as they do between two runs of the original.
    box, wanted = reference["box"], reference["class_index_crop"]
    found = seen[0][box]
    confident = np.unpackbits(reference["confident"], count=wanted.size).reshape(wanted.shape).astype(bool)
    brain = conform_mgh(load(folder / "e2e_t1.nii.gz", dtype=None))[0].array[box] > 0
    differs = found != wanted
    assert differs[brain].mean() <= 1e-4
    assert np.count_nonzero(differs & confident) <= 20
    assert np.count_nonzero(seen[0]) - np.count_nonzero(found) <= 20


# --- what is refused -----------------------------------------------------------------------------------


def head(shape: tuple[int, ...] = (20, 22, 24)) -> nibabel.Nifti1Image:
    array = np.random.default_rng(0).integers(0, 200, shape).astype(np.int16)
    return nibabel.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0]))


def negative() -> nibabel.Nifti1Image:
    image = head()
    image.dataobj[3, 4, 5] = -7
    return image


def thick() -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(head().dataobj, np.diag([1.0, 1.0, 6.0, 1.0]))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (negative(), "intensities of at least 0, found -7"),
        (head((20, 22, 24, 3)), "expected one 3-D volume, found a 4-D image of 3 volumes"),
        (thick(), "voxels of at most 5 mm, found 1 x 1 x 6 mm"),
    ],
)
def test_scans_that_are_refused(task: FastSurferTask, image: nibabel.Nifti1Image, message: str) -> None:
    with pytest.raises(InvalidImage, match=message) as caught:
        task(image)
    assert "\n" not in str(caught.value)


def test_checkpoint_of_another_plane_is_refused(task: FastSurferTask, weights: dict[str, Path]) -> None:
    models = dict(task.models)
    with pytest.raises(WeightsMismatch, match="sagittal network must have 51 classes, found 79"):
        FastSurferTask(CARD, {**models, "sagittal": models["axial"]}, {})
    origin = {"axial": {"registered": "fastsurfer-cnn: fastsurfer_cnn_v1_coronal.pkl"}}
    with pytest.raises(WeightsMismatch, match="part axial was given the checkpoint of the coronal plane"):
        FastSurferTask(CARD, models, origin)


@pytest.mark.skipif(CARD.status == "planned", reason="not loadable yet")
def test_files_of_another_plane_are_refused(weights: dict[str, Path]) -> None:
    swapped = {**weights, "sagittal": weights["coronal"]}
    with pytest.raises(WeightsMismatch, match="sagittal") as caught:
        kerasneuro.load("fastsurfer-cnn", weights=swapped)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "talairach"}, "space must be one of conformed, native"),
        ({"block_shape": (32, 32, 32)}, "has no option 'block_shape'"),
        ({"flips": True}, "has no option 'flips'"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
    ],
)
def test_options_that_are_refused(task: FastSurferTask, options: dict, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        task(head(), **options)


def test_work_dir_that_does_not_exist(task: FastSurferTask, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="name one with work_dir"):
        task(head(), work_dir=tmp_path / "missing")


def test_batch_that_fits_into_the_memory_granted(task: FastSurferTask) -> None:
    shape = (256, 256, 256)
    assert task.fitting_batch(shape, task.settings({})) == 8
    assert task.fitting_batch(shape, task.settings({"max_memory": "200GB"})) == 8
    assert 1 <= task.fitting_batch(shape, task.settings({"max_memory": "200MB"})) < 8
    with pytest.raises(OutOfMemory, match="one slice at a time needs"):
        task.fitting_batch(shape, task.settings({"max_memory": "1MB"}))
