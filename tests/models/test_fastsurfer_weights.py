"""The weight table of FastSurferCNN: every kind of checkpoint, and the files of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from kerasneuro import registry
from kerasneuro.errors import InvalidOption, WeightsMismatch
from kerasneuro.models.fastsurfer import graph, weights
from kerasneuro.networks import build_graph, load_part
from kerasneuro.weights import WeightStore, assign, read, restore_kernel, unwrap, write_original

# File -> container, what stands before the names, configuration.
FILES = {
    "e2e_axial.pkl": ("torch-zip", "model_state_dict.", (8, 79, 5, 5, 7)),
    "e2e_coronal.pkl": ("torch-legacy", "model_state_dict.module.", (8, 79, 5, 5, 7)),
    "e2e_sagittal.pkl": ("torch-legacy", "model_state_dict.", (8, 51, 5, 5, 7)),
    "net_odd_kernel.pkl": ("torch-legacy", "model_state_dict.module.", (6, 11, 3, 5, 5)),
}
CONFIG = ("filters", "classes", "kernel_height", "kernel_width", "channels")
CARD = registry.get("fastsurfer-cnn")


def load(file: WeightStore) -> keras.Model:
    store = unwrap(file, weights.ANCHOR)
    model = graph.build(**weights.infer_config(store))
    assign(model, store, weights.table(store, model), ignore=weights.IGNORED)
    return model


def renamed(store: WeightStore, rename: Callable[[str], str | None]) -> WeightStore:
    """Return the arrays of a file under other names, without those that get none."""
    arrays = {new: array for key, array in store.items() if (new := rename(key)) is not None}
    return WeightStore(store.path, store.format, arrays)


def part_of(path: Path, part: str) -> keras.Model:
    return load_part(CARD, graph, weights, part, path, {}, "0" * 64)


@pytest.mark.parametrize("file", FILES)
def test_configuration_is_read_off_the_file(fixtures: Path, file: str) -> None:
    container, prefix, config = FILES[file]
    with read(fixtures / "fastsurfer" / file) as store:
        assert store.format == container
        assert prefix + weights.ANCHOR in store
        found = weights.infer_config(unwrap(store, weights.ANCHOR))
        assert found == dict(zip(CONFIG, config, strict=True))


@pytest.mark.parametrize("file", FILES)
def test_every_variable_gets_its_array(fixtures: Path, file: str) -> None:
    _, prefix, _ = FILES[file]
    with read(fixtures / "fastsurfer" / file) as store:
        model = load(store)
        kernel = store[f"{prefix}decode3.conv1.weight"].read()
        found = keras.ops.convert_to_numpy(model.get_layer("decode3_conv1").kernel)
        np.testing.assert_array_equal(found, kernel.transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(restore_kernel(found), kernel)
        norm = model.get_layer("encode1_bn0")
        for variable, leaf in ((norm.gamma, "weight"), (norm.moving_variance, "running_var")):
            array = store[f"{prefix}encode1.bn0.{leaf}"].read()
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), array)
        alpha = store[f"{prefix}bottleneck.prelu.weight"].read()
        found = keras.ops.convert_to_numpy(model.get_layer("bottleneck_prelu").alpha)
        np.testing.assert_array_equal(found, alpha)


@pytest.mark.parametrize("root", ["", "module.", "model_state.", "model_state.module."])
def test_other_roots_load_alike(fixtures: Path, root: str) -> None:
    def rename(key: str) -> str | None:
        inner = key.removeprefix("model_state_dict.")
        return root + inner if inner != key else None

    with read(fixtures / "fastsurfer" / "e2e_axial.pkl") as store:
        expected = load(store)
        found = load(renamed(store, rename))
    for ours, theirs in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_original_checkpoint_is_written_back(fixtures: Path, tmp_path: Path) -> None:
    with read(fixtures / "fastsurfer" / "e2e_axial.pkl") as file:
        store = unwrap(file, weights.ANCHOR)
        model = load(store)
        values = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables}
        write_original(tmp_path / "axial.pkl", weights.original(model), values.__getitem__)
        with read(tmp_path / "axial.pkl") as again:
            inner = again.sub("model_state_dict")
            assert list(inner) == [key for key in store if not key.endswith("num_batches_tracked")]
            for key, array in inner.items():
                np.testing.assert_array_equal(array.read(), store[key].read())


def test_missing_or_further_array_of_the_network_is_refused(fixtures: Path) -> None:
    with read(fixtures / "fastsurfer" / "e2e_sagittal.pkl") as store:
        less = renamed(store, lambda key: None if key.endswith("decode1.bn3.bias") else key)
        with pytest.raises(WeightsMismatch, match=r"decode1.bn3.bias is missing"):
            load(less)
        more = renamed(
            store, lambda key: key.replace("decode1.bn3.num_batches_tracked", "decode1.bn4.weight")
        )
        with pytest.raises(WeightsMismatch, match=r"decode1.bn4.weight"):
            load(more)


@pytest.mark.parametrize(
    ("part", "file", "sentence"),
    [
        ("axial", "e2e_sagittal.pkl", "has 51 classes, those of the sagittal network"),
        ("coronal", "e2e_sagittal.pkl", "given for the coronal plane, which has 79"),
        ("sagittal", "e2e_axial.pkl", "has 79 classes, those of the axial or coronal network"),
    ],
)
def test_checkpoint_of_another_plane_is_refused(fixtures: Path, part: str, file: str, sentence: str) -> None:
    with pytest.raises(WeightsMismatch, match=sentence) as caught:
        part_of(fixtures / "fastsurfer" / file, part)
    assert "\n" not in str(caught.value)


def test_plane_keeps_a_class_set_of_its_own(fixtures: Path) -> None:
    model = part_of(fixtures / "fastsurfer" / "net_odd_kernel.pkl", "sagittal")
    assert model.output_shape[-1] == 11


@pytest.mark.parametrize("file", ["nobrainer/unet_b1_full.h5", "fcd/ckpt_model_key.pth"])
def test_file_of_another_model_is_refused_in_one_sentence(fixtures: Path, file: str) -> None:
    with (
        read(fixtures / file) as store,
        pytest.raises(WeightsMismatch, match="not a FastSurferCNN") as caught,
    ):
        weights.infer_config(unwrap(store, weights.ANCHOR))
    assert "\n" not in str(caught.value)


def test_network_of_fastsurfer_2_is_refused_by_name(fixtures: Path) -> None:
    with read(fixtures / "fastsurfer" / "e2e_axial.pkl") as store:
        other = renamed(store, lambda key: key.replace("encode1.bn0", "inp_block.bn0"))
        with pytest.raises(WeightsMismatch, match="FastSurfer 2"):
            weights.infer_config(unwrap(other, weights.ANCHOR))


def test_each_plane_has_its_published_number_of_classes() -> None:
    built = {part: build_graph(CARD, graph, {"filters": 2}, part) for part in CARD.parts}
    assert {part: model.output_shape[-1] for part, model in built.items()} == {
        "axial": 79,
        "coronal": 79,
        "sagittal": 51,
    }
    mixed = build_graph(CARD, graph, {"filters": 2, "classes": {"axial": 4, "coronal": 5}}, "coronal")
    assert mixed.output_shape[-1] == 5
    with pytest.raises(InvalidOption, match="has no configuration num_filters"):
        build_graph(CARD, graph, {"num_filters": 2}, "axial")


def test_published_files_are_named_by_their_git_blobs() -> None:
    paths = {file.part: next(s.path for s in file.sources if s.kind == "git-blob") for file in CARD.files}
    for part, path in paths.items():
        assert path == (
            f"checkpoints/{part.capitalize()}_Weights_FastSurferCNN/ckpts/Epoch_30_training_state.pkl"
        )
    assert [str(file.digest) for file in CARD.files] == [
        "git-blob 1d42158764fa7a25f5f6493b5ae70b1a60337da8",
        "git-blob e652daa889202ba9a320b02afd2790185bf671d5",
        "git-blob 7fe034625ca9670250f0bec189caf9dcacd85f8e",
    ]
