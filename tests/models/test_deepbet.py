"""deepbet: graph, weight table and pipeline, without trained weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import nibabel
import numpy as np
import pytest

from kerasneuro import registry
from kerasneuro.errors import InvalidImage, InvalidOption, WeightsMismatch
from kerasneuro.inference import Engine
from kerasneuro.models.deepbet import graph, steps, weights
from kerasneuro.models.deepbet.task import TASK, DeepbetTask, doubts
from kerasneuro.volume import nearest_float32
from kerasneuro.weights import assign, read, write_flat

PARAMETERS = 2_126_258


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return graph.build()


@pytest.fixture(params=["model", "bbox_model"])
def manifest(request: pytest.FixtureRequest, fixtures: Path) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of an original file, in its order."""
    text = (fixtures / "deepbet" / f"deepbet_manifest_{request.param}.json").read_text()
    return {entry["key"]: tuple(entry["shape"]) for entry in json.loads(text)["weights"]}


def write_random(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    write_flat(path, arrays, {})
    return arrays


class TestGraph:
    def test_has_the_published_size(self, model: keras.Model) -> None:
        assert model.count_params() == PARAMETERS
        assert len(model.variables) == 38
        assert model.input_shape == (None, None, None, None, 1)
        assert model.output_shape == (None, None, None, None, 2)

    def test_names_are_those_of_the_original(self, model: keras.Model) -> None:
        names = {layer.name for layer in model.layers}
        assert {"init_0", "down1_block1_downsample_0", "up0_tp_conv_0", "tp_conv1_0", "tp_conv2"} <= names
        assert not [name for name in names if "." in name or "/" in name]

    def test_any_multiple_of_32(self) -> None:
        small = graph.build(widths=(4, 8, 8, 16), head_width=4)
        for shape in ((32, 32, 64), (64, 32, 32)):
            logits = Engine(small)(np.random.default_rng(0).normal(size=(2, *shape, 1)).astype(np.float32))
            assert logits.shape == (2, *shape, 2)
            assert np.isfinite(logits).all() and logits.min() < 0 < logits.max()

    def test_samples_of_a_batch_do_not_see_each_other(self) -> None:
        small = graph.build(widths=(4, 8), head_width=4, input_shape=(16, 16, 16))
        scans = np.random.default_rng(1).normal(size=(2, 16, 16, 16, 1)).astype(np.float32)
        both, alone = Engine(small)(scans), Engine(small)(scans[1:])
        np.testing.assert_allclose(both[1:], alone, atol=1e-5)

    def test_saved_model_round_trip(self, tmp_path: Path) -> None:
        small = graph.build(widths=(4, 8), head_width=4, name="small")
        small.save(tmp_path / "small.keras")
        again = keras.saving.load_model(tmp_path / "small.keras", safe_mode=True)
        scan = np.random.default_rng(2).normal(size=(1, 16, 16, 24, 1)).astype(np.float32)
        np.testing.assert_array_equal(Engine(again)(scan), Engine(small)(scan))


class TestWeights:
    def test_table_is_a_bijection(
        self, model: keras.Model, manifest: dict[str, tuple[int, ...]], tmp_path: Path
    ) -> None:
        arrays = write_random(tmp_path / "weights.h5", manifest)
        with read(tmp_path / "weights.h5") as store:
            assert weights.infer_config(store) == {"widths": (16, 32, 64, 128), "head_width": 8, "classes": 2}
            table = weights.table(store, model)
            assign(model, store, table)
        used = [entry if isinstance(entry, str) else entry.keys[0] for entry in table.values()]
        assert sorted(used) == sorted(manifest)
        kernel = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.variables}
        source = arrays["down1.block1.double_conv.0.weight"]  # (out, in, x, y, z)
        assert kernel["down1_block1_double_conv_0/kernel"][0, 1, 2, 3, 4] == source[4, 3, 0, 1, 2]
        source = arrays["up0.tp_conv.0.weight"]  # (in, out, x, y, z)
        assert kernel["up0_tp_conv_0/kernel"][0, 1, 2, 3, 4] == source[4, 3, 0, 1, 2]
        source = arrays["up3.tp_conv.0.weight"]  # of stride 1: mirrored
        assert kernel["up3_tp_conv_0/kernel"][0, 1, 2, 3, 1] == source[3, 1, 2, 1, 0]
        np.testing.assert_array_equal(kernel["tp_conv2/bias"], arrays["tp_conv2.bias"])

    def test_widths_come_from_the_file(self, tmp_path: Path) -> None:
        narrow = graph.build(widths=(4, 8, 12), head_width=4, classes=3)
        empty: dict[str, Any] = {}
        shapes = {}
        for variable in narrow.variables:
            layer, kind = variable.path.split("/")
            key = f"{weights.original_name(layer)}.{'bias' if kind == 'bias' else 'weight'}"
            order = weights.MIRRORED if layer == "up2_tp_conv_0" else (2, 3, 4, 1, 0)
            shape = tuple(variable.shape)
            shapes[key] = shape if kind == "bias" else tuple(shape[order.index(axis)] for axis in range(5))
        write_random(tmp_path / "narrow.h5", shapes)
        with read(tmp_path / "narrow.h5") as store:
            config = weights.infer_config(store)
            assert config == {"widths": (4, 8, 12), "head_width": 4, "classes": 3}
            assign(narrow, store, weights.table(store, narrow))
        assert empty == weights.infer_config(empty)

    def test_foreign_file_is_refused(
        self, model: keras.Model, manifest: dict[str, tuple[int, ...]], tmp_path: Path
    ) -> None:
        shapes = {**manifest, "conv.0.weight": (8, 8, 3, 3), "extra.weight": (2,)}
        del shapes["up1.conv1.0.weight"]
        write_random(tmp_path / "foreign.h5", shapes)
        with read(tmp_path / "foreign.h5") as store, pytest.raises(WeightsMismatch, match=r"extra\.weight"):
            assign(model, store, weights.table(store, model))

    def test_unknown_layer(self) -> None:
        with pytest.raises(ValueError, match="not a layer"):
            weights.original_name("conv3d_17")


class TestSteps:
    def test_extent_has_a_margin_and_is_clipped(self) -> None:
        foreground = np.zeros((128, 128, 128), bool)
        foreground[32:96, 10:128, 40:80] = True
        assert steps.locate_brain(foreground, (128, 128, 256)) == ((25, 102), (0, 128), (72, 168))

    def test_sparse_planes_do_not_count(self) -> None:
        foreground = np.zeros((128, 128, 128), bool)
        foreground[32:96, 32:96, 32:96] = True
        foreground[0, :2, :100] = True  # 200 of 16,384 voxels
        assert steps.locate_brain(foreground, (128, 128, 128))[0] == (25, 102)

    def test_too_little_brain(self) -> None:
        foreground = np.zeros((128, 128, 128), bool)
        foreground[60:70, 60:70, 60:70] = True
        with pytest.raises(InvalidImage, match="too little"):
            steps.locate_brain(foreground, (200, 200, 200))

    def test_probability_is_the_softmax(self) -> None:
        logits = np.random.default_rng(0).normal(scale=20, size=(3, 4, 5, 2)).astype(np.float32)
        exact = np.exp(logits.astype(np.float64))
        found = steps.brain_probability(logits)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, exact[..., 1] / exact.sum(-1), atol=1e-6)

    def test_stretched_probability(self) -> None:
        logits = np.random.default_rng(1).normal(size=(16, 16, 16, 2)).astype(np.float32)
        expected = nearest_float32(steps.brain_probability(logits), (11, 21, 16))
        np.testing.assert_array_equal(steps.stretched_probability(logits, (11, 21, 16)), expected)

    def test_border(self) -> None:
        mask = np.zeros((4, 5, 6), bool)
        mask[1:3, 1:4, 1:5] = True
        assert not steps.touches_border(mask)
        mask[2, 2, 5] = True
        assert steps.touches_border(mask)

    def test_doubts(self) -> None:
        mask = np.zeros((5, 5, 5), bool)
        assert "empty" in doubts(mask, 0.0)[0]
        mask[2, 2, 2] = True
        assert doubts(mask, 1500.0) == ()
        assert "300.0 cm3" in doubts(mask, 300.0)[0]
        assert "2400.0 cm3" in doubts(mask, 2400.0)[0]


class BrightnessTask(DeepbetTask):
    """The pipeline with a stand-in for both networks: bright voxels are brain."""

    def engine(self, part: str, settings: Any) -> Callable[[np.ndarray], np.ndarray]:
        return lambda batch: np.concatenate([0.5 - batch, batch - 0.5], axis=-1)


@pytest.fixture(scope="module")
def task() -> DeepbetTask:
    small = graph.build(widths=(4, 8), head_width=4)
    return BrightnessTask(registry.get("deepbet"), {"bbox": small, "brain": small})


def ball(shape: tuple[int, int, int] = (60, 72, 64), affine: np.ndarray | None = None) -> np.ndarray:
    """Return a bright, hollow ball beside a smaller one, int16."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    centre = np.array([28, 34, 30]).reshape(3, 1, 1, 1)
    distance = np.sqrt(((grid - centre) ** 2).sum(0))
    data = np.where((distance < 22) & (distance > 6), 800, 20) + (grid.sum(0) % 13)
    data[50:54, 60:64, 50:54] = 900
    return data.astype(np.int16)


AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


@pytest.fixture(scope="module")
def head() -> nibabel.Nifti1Image:
    image = nibabel.Nifti1Image(ball(), AFFINE)
    image.header["descrip"] = b"a ball"
    return image


class TestTask:
    def test_result(self, task: DeepbetTask, head: nibabel.Nifti1Image, tmp_path: Path) -> None:
        result = task(head)
        data = ball()
        mask = np.asarray(result.mask.dataobj)
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in data.shape), indexing="ij"))
        filled = ((grid - np.array([28, 34, 30]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 22**2
        # Hole filled, small ball dropped; a stretched grid moves the border by less than a voxel.
        assert (mask != filled).mean() < 0.02
        assert mask[28, 34, 30] == 1 and mask[52, 62, 52] == 0
        assert result.mask.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(result.brain.dataobj), np.where(mask, data, 0))
        assert result.brain.get_data_dtype() == np.int16
        probability = np.asarray(result.probability.dataobj)
        assert probability.dtype == np.float32 and probability.max() <= 1
        assert result.table[0]["tiv_cm3"] == pytest.approx(mask.sum() * 0.027)
        assert result.table[0]["mask_voxels"] == mask.sum()
        assert result.provenance["options"]["threshold"] == 0.5
        (low_x, high_x), *_ = result.provenance["box_ras"]
        assert low_x < 8 and high_x > 48
        assert not probability[:low_x].any() and not probability[high_x:].any()
        files = result.save(tmp_path)
        assert set(files) == {"mask", "brain", "probability", "table", "provenance"}
        saved = nibabel.load(files["mask"])
        np.testing.assert_array_equal(saved.affine, head.affine)
        assert saved.header["descrip"].item() == b"a ball"
        assert files["table"].read_text().startswith("tiv_cm3,")
        json.loads(files["provenance"].read_text())

    def test_orientation_of_the_file_does_not_matter(
        self, task: DeepbetTask, head: nibabel.Nifti1Image
    ) -> None:
        turn = nibabel.orientations.axcodes2ornt("PIL")
        turned = head.as_reoriented(turn)
        expected = task(head).mask.as_reoriented(turn)
        result = task(turned).mask
        np.testing.assert_array_equal(result.affine, turned.affine)
        np.testing.assert_array_equal(np.asarray(result.dataobj), np.asarray(expected.dataobj))

    def test_dilation(self, task: DeepbetTask, head: nibabel.Nifti1Image) -> None:
        plain, grown, shrunk = (
            np.asarray(task(head, n_dilate=n).mask.dataobj).astype(bool) for n in (0, 2, -1)
        )
        assert (grown & plain).sum() == plain.sum() and (shrunk & plain).sum() == shrunk.sum()
        assert shrunk.sum() < plain.sum() < grown.sum()

    def test_all_shrunk_away(self, task: DeepbetTask, head: nibabel.Nifti1Image) -> None:
        result = task(head, n_dilate=-40)
        assert result.table[0]["tiv_cm3"] == 0
        assert any("empty" in warning for warning in result.warnings)

    def test_scaled_integers_keep_their_values(self, task: DeepbetTask, tmp_path: Path) -> None:
        stored = nibabel.Nifti1Image(ball(), AFFINE)
        stored.header.set_slope_inter(0.5, 3)
        nibabel.save(stored, tmp_path / "scaled.nii")
        source = nibabel.load(tmp_path / "scaled.nii").get_fdata()
        result = task(tmp_path / "scaled.nii")
        result.save(tmp_path / "out/", outputs=("brain",))
        brain = nibabel.load(tmp_path / "out" / "scaled_brain.nii.gz").get_fdata()
        np.testing.assert_array_equal(brain, np.where(np.asarray(result.mask.dataobj), source, 0))

    def test_four_dimensional_images(self, task: DeepbetTask, head: nibabel.Nifti1Image) -> None:
        data = np.stack([ball()[::-1], ball()], axis=-1)
        both = nibabel.Nifti1Image(data, AFFINE)
        with pytest.raises(InvalidImage):
            task(both)
        result = task(both, frame=1)
        assert result.mask.shape == (*head.shape, 1)
        np.testing.assert_array_equal(
            np.asarray(result.mask.dataobj)[..., 0], np.asarray(task(head).mask.dataobj)
        )
        first = np.asarray(task(both, frame=0).mask.dataobj)[..., 0]
        assert (first != np.asarray(result.mask.dataobj)[..., 0]).any()
        with pytest.raises(InvalidOption, match="frame must be 0 to 1"):
            task(both, frame=2)
        single = nibabel.Nifti1Image(data[..., 1:], AFFINE)
        assert task(single).table[0] == result.table[0]

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_not_finite(self, task: DeepbetTask, value: float) -> None:
        data = ball().astype(np.float32)
        data[3, 4, 5] = value
        with pytest.raises(InvalidImage):
            task(nibabel.Nifti1Image(data, AFFINE))

    def test_images_without_a_brain(self, task: DeepbetTask) -> None:
        with pytest.raises(InvalidImage):
            task(nibabel.Nifti1Image(np.full((40, 40, 40), 5, np.int16), AFFINE))
        speck = np.zeros((64, 64, 64), np.int16)
        speck[30:34, 30:34, 30:34] = 100
        with pytest.raises(InvalidImage, match="contrast"):
            task(nibabel.Nifti1Image(speck, AFFINE))
        rod = np.zeros((64, 64, 64), np.int16)
        rod[:, 28:34, 28:34] = 100
        with pytest.raises(InvalidImage, match="too little"):
            task(nibabel.Nifti1Image(rod, AFFINE))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"threshold": 1.5}, "threshold"),
            ({"n_dilate": 0.5}, "whole number"),
            ({"block_shape": (64, 64, 64)}, "block_shape"),
            ({"overlap": 0.5}, "overlap"),
            ({"flips": True}, "flips"),
            ({"batches": 3}, "batches"),
        ],
    )
    def test_options_are_checked_first(
        self, task: DeepbetTask, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InvalidOption, match=message):
            task("no-such-file.nii.gz", **options)

    def test_progress(self, task: DeepbetTask, head: nibabel.Nifti1Image) -> None:
        calls: list[tuple[int, int]] = []
        task(head, progress=lambda done, total: calls.append((done, total)))
        assert calls == [(1, 2), (2, 2)]

    def test_names_of_the_original(self) -> None:
        assert TASK is DeepbetTask
        assert TASK.option_names["n_dilate"] == ("-d", "--n_dilate")
        assert TASK.roles == ("image",)
