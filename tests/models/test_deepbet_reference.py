"""deepbet with its trained weights against the original (deepbet 1.0.2 with PyTorch 2.13, float32)."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import nibabel
import numpy as np
import pytest

from kerasneuro import registry
from kerasneuro.inference import Engine
from kerasneuro.models.deepbet import graph, steps, weights
from kerasneuro.models.deepbet.task import DeepbetTask
from kerasneuro.nn.normalization import InstanceNormalization
from kerasneuro.volume import normalise_between
from kerasneuro.weights import assign, read

pytestmark = pytest.mark.optional

PARTS = {"bbox": "layers_bbox_model.npz", "brain": "layers_model.npz"}
HEADS = ("head_2mm_RAS", "head_aniso_PIL_int16")
MOST_DIFFERENT_VOXELS = 20
LAYER_TOLERANCE = 1e-4  # of the layer's largest value
LOGIT_TOLERANCE = 2e-3
PROBABILITY_TOLERANCE = 5e-5
HALF_PRECISION = 1e-3  # of probabilities that the reference holds in float16


class RememberingTask(DeepbetTask):
    """Keep what each network saw and gave, so that many tests need few computations."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: dict[str, np.ndarray] = {}
        self.given: dict[str, np.ndarray] = {}
        self._memory: dict[str, np.ndarray] = {}

    def engine(self, part: str, settings: Any) -> Callable[[np.ndarray], np.ndarray]:
        compute = super().engine(part, settings)

        def remember(batch: np.ndarray) -> np.ndarray:
            key = part + hashlib.sha256(np.ascontiguousarray(batch)).hexdigest()
            if key not in self._memory:
                self._memory[key] = compute(batch)
            self.seen[part], self.given[part] = batch, self._memory[key]
            return self._memory[key]

        return remember

    def forget(self) -> None:
        self._memory.clear()


@pytest.fixture(scope="module")
def task(deepbet_weights: dict[str, Path]) -> RememberingTask:
    models = {}
    for part, path in deepbet_weights.items():
        with read(path) as store:
            models[part] = graph.build(**weights.infer_config(store))
            assign(models[part], store, weights.table(store, models[part]))
    return RememberingTask(registry.get("deepbet"), models)


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


class TestFiles:
    @pytest.mark.parametrize("part", PARTS)
    def test_every_array_is_the_published_one(self, part: str, task: RememberingTask, fixtures: Path) -> None:
        name = "deepbet_manifest_bbox_model.json" if part == "bbox" else "deepbet_manifest_model.json"
        entries = json.loads((fixtures / "deepbet" / name).read_text())["weights"]
        digests = {entry["key"]: entry["sha256_le_float32_C"] for entry in entries}
        for variable in task.models[part].variables:
            layer, kind = variable.path.split("/")[-2:]
            array = keras.ops.convert_to_numpy(variable)
            if kind != "bias":
                mirrored = layer == "up3_tp_conv_0"
                array = array[::-1, ::-1, ::-1] if mirrored else array
                order = weights.MIRRORED if mirrored else (2, 3, 4, 1, 0)
                array = array.transpose(np.argsort(order))
            key = f"{weights.original_name(layer)}.{'bias' if kind == 'bias' else 'weight'}"
            assert hashlib.sha256(array.astype("<f4").tobytes("C")).hexdigest() == digests.pop(key), key
        assert not digests


def compute_outputs(model: keras.Model, outputs: list[Any], scan: np.ndarray) -> list[np.ndarray]:
    """Compute the tensors `outputs` of a graph with a fixed input shape."""
    batch = scan[np.newaxis, ..., np.newaxis]
    if keras.backend.backend() == "openvino":
        # OpenVINO 2026.4 overwrites some of the tensors that are joined below; here each is computed alone.
        return [Engine(keras.Model(model.input, output))(batch) for output in outputs]
    flat = keras.layers.Concatenate()([keras.layers.Reshape((-1,))(output) for output in outputs])
    values = Engine(keras.Model(model.input, flat))(batch)[0]
    ends = np.cumsum([math.prod(output.shape[1:]) for output in outputs])[:-1]
    return [
        part.reshape(1, *output.shape[1:])
        for part, output in zip(np.split(values, ends), outputs, strict=True)
    ]


@pytest.fixture(scope="module", params=PARTS)
def layers(
    request: pytest.FixtureRequest, task: RememberingTask, fixtures: Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the reference, and our outputs by the names of the original."""
    with np.load(fixtures / "deepbet" / PARTS[request.param]) as file:
        reference = {key: file[key] for key in file.files}
    shape = reference["crop_raw"].shape
    model = graph.build(input_shape=shape)
    model.set_weights(task.models[request.param].get_weights())
    ends = {"logits": "tp_conv2"}
    ends |= {f"down{level}": f"down{level}_block2" for level in range(4)}
    ends |= {f"up{level}": f"up{level}_conv2" for level in range(4)}
    others = {"crop_raw", "low_high", "input_mean_std", "mask_bits", "prob1", "input"}
    names = sorted({key.split("@")[0] for key in reference} - others - {"init.1"})
    outputs = [model.get_layer(ends.get(name, name.replace(".", "_"))).output for name in names]
    scan = normalise_between(reference["crop_raw"].astype(np.float32), *reference["low_high"])
    ours = dict(zip(names, compute_outputs(model, outputs, scan), strict=True))
    # The graph pools before it normalises.
    ours["init.1"] = keras.ops.convert_to_numpy(InstanceNormalization()(ours["init.0"]))
    return reference, {**ours, "input": scan}


Layers = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


class TestLayers:
    def test_input(self, layers: Layers) -> None:
        reference, ours = layers
        np.testing.assert_allclose(ours["input"][::4, ::4, ::4], reference["input@sub4"], atol=2e-6)

    def test_every_layer(self, layers: Layers) -> None:
        reference, ours = layers
        compared = 0
        for key, expected in reference.items():
            name, _, kind = key.partition("@")
            if name not in ours or name in ("input", "logits") or kind == "stats":
                continue
            step = int(kind.removeprefix("sub") or 1)
            largest = reference.get(f"{name}@stats", [np.abs(expected).max()])[-1]
            found = ours[name][:, ::step, ::step, ::step]
            error = np.abs(found - channels_last(expected)).max()
            assert error <= LAYER_TOLERANCE * largest, (name, error, largest)
            compared += 1
        assert compared == 28

    def test_mean_and_deviation_of_layers(self, layers: Layers) -> None:
        reference, ours = layers
        keys = [key for key in reference if key.endswith("@stats")]
        assert len(keys) == 19
        for key in keys:
            mean, deviation, largest = reference[key]
            found = ours[key.removesuffix("@stats")].astype(np.float64)
            assert found.mean() == pytest.approx(mean, abs=LAYER_TOLERANCE * largest), key
            assert found.std() == pytest.approx(deviation, abs=LAYER_TOLERANCE * largest), key
            assert np.abs(found).max() == pytest.approx(largest, rel=LAYER_TOLERANCE), key

    def test_logits_probability_and_mask(self, layers: Layers) -> None:
        reference, ours = layers
        logits = ours["logits"]
        expected = channels_last(reference["logits@sub6"])
        assert np.abs(logits[:, ::6, ::6, ::6] - expected).max() <= LOGIT_TOLERANCE
        probability = steps.brain_probability(logits[0])
        error = np.abs(probability[::6, ::6, ::6] - reference["prob1@sub6"])
        assert error.max() <= PROBABILITY_TOLERANCE
        expected = np.unpackbits(reference["mask_bits"]).reshape(probability.shape)
        assert ((probability > 0.5) != expected).sum() <= MOST_DIFFERENT_VOXELS


@pytest.fixture(scope="module", params=HEADS)
def head(request: pytest.FixtureRequest, task: RememberingTask, fixtures: Path) -> Iterator[dict[str, Any]]:
    """One head through the pipeline: its result, and what the networks saw and gave."""
    folder = fixtures / "deepbet"
    path = folder / f"{request.param}.nii.gz"
    result = task(path)
    with np.load(folder / f"{request.param}_stages.npz") as file:
        stages = {key: file[key] for key in file.files}
    yield {
        "name": request.param,
        "path": path,
        "result": result,
        "stages": stages,
        "seen": dict(task.seen),
        "given": dict(task.given),
        "numbers": json.loads((folder / "end_to_end_small.json").read_text()),
    }
    task.forget()


class TestPipeline:
    def test_inputs_of_the_networks(self, head: dict[str, Any]) -> None:
        seen, stages = head["seen"], head["stages"]
        small = seen["bbox"][0, 1::4, 2::4, 3::4, 0][::2, ::2, ::2]
        np.testing.assert_allclose(small, stages["bbox_input_sub8"], atol=2e-6)
        large = seen["brain"][0, 1::8, 2::8, 3::8, 0][::2, ::2, ::2]
        np.testing.assert_allclose(large, stages["main_input_sub16"], atol=2e-6)

    def test_probability_of_the_box(self, head: dict[str, Any]) -> None:
        probability = steps.brain_probability(head["given"]["bbox"][0])
        error = np.abs(probability[1::4, 2::4, 3::4] - head["stages"]["bbox_prob_sub4"])
        assert error.max() <= PROBABILITY_TOLERANCE
        expected = np.unpackbits(head["stages"]["bbox_mask_bits"]).reshape(probability.shape)
        assert ((probability > 0.5) != expected).sum() <= MOST_DIFFERENT_VOXELS

    def test_probability_of_the_brain(self, head: dict[str, Any]) -> None:
        probability = steps.brain_probability(head["given"]["brain"][0])
        error = np.abs(probability[1::4, 2::4, 3::4] - head["stages"]["main_prob_sub4"].astype(np.float32))
        assert error.max() <= HALF_PRECISION
        expected = np.unpackbits(head["stages"]["main_mask_bits"]).reshape(probability.shape)
        assert ((probability > 0.5) != expected).sum() <= MOST_DIFFERENT_VOXELS

    def test_box_and_volume(self, head: dict[str, Any]) -> None:
        expected = head["numbers"][head["name"]]
        assert head["result"].provenance["box_ras"] == expected["bbox_ras"]
        row = head["result"].table[0]
        assert abs(row["mask_voxels"] - expected["thr0.5_dil0"]["mask_voxels"]) <= MOST_DIFFERENT_VOXELS
        per_voxel = expected["thr0.5_dil0"]["tiv_cm3"] / expected["thr0.5_dil0"]["mask_voxels"]
        assert row["tiv_cm3"] == pytest.approx(row["mask_voxels"] * per_voxel, rel=1e-9)

    def test_masks(self, head: dict[str, Any], task: RememberingTask) -> None:
        pattern = f"{head['name']}_mask_thr*_dil*.nii.gz"
        compared = 0
        for path in sorted(head["path"].parent.glob(pattern)):
            threshold, dilation = path.name.removesuffix(".nii.gz").split("_thr")[1].split("_dil")
            ours = task(head["path"], threshold=float(threshold), n_dilate=int(dilation)).mask
            expected = nibabel.load(path)
            different = np.asarray(ours.dataobj) != np.asarray(expected.dataobj)
            assert different.sum() <= MOST_DIFFERENT_VOXELS, path.name
            np.testing.assert_array_equal(ours.affine, expected.affine)
            compared += 1
        assert compared == (4 if head["name"] == "head_2mm_RAS" else 1)

    def test_brain_holds_the_values_of_the_scan(self, head: dict[str, Any]) -> None:
        scan, brain = nibabel.load(head["path"]), head["result"].brain
        mask = np.asarray(head["result"].mask.dataobj)
        np.testing.assert_array_equal(np.asarray(brain.dataobj), np.where(mask, scan.get_fdata(), 0))
        assert brain.get_data_dtype() == scan.get_data_dtype()


@pytest.mark.slow
def test_colin27(task: RememberingTask, fixtures: Path) -> None:
    """The full size head ch2.nii.gz of the Debian package mricron-data; KERASNEURO_COLIN27 names the file."""
    path = os.environ.get("KERASNEURO_COLIN27")
    if not path:
        pytest.skip("KERASNEURO_COLIN27 does not name ch2.nii.gz")
    result = task(path)
    expected = nibabel.load(fixtures / "deepbet" / "ref_mask_ch2.nii.gz")
    different = (np.asarray(result.mask.dataobj) != np.asarray(expected.dataobj)).sum()
    assert different <= MOST_DIFFERENT_VOXELS
    assert result.provenance["box_ras"] == [[5, 176], [4, 216], [0, 172]]
    assert (result.provenance["low"], result.provenance["high"]) == (0, 178)
    assert result.table[0]["tiv_cm3"] == pytest.approx(1956.468, abs=0.02)
    with np.load(fixtures / "deepbet" / "ch2_full_stage2_logitdiff.npz") as file:
        logits = task.given["brain"][0]
        sample = np.moveaxis(logits[1::16, 2::16, 3::16], -1, 0)
        assert np.abs(sample - file["logits_float32_sub16"]).max() <= LOGIT_TOLERANCE
        difference = (logits[..., 1] - logits[..., 0])[1::4, 2::4, 3::4]
        expected_difference = file["logit1_minus_logit0_float16_sub4"].astype(np.float32)
        assert np.abs(difference - expected_difference).max() <= 0.02
        bits = np.unpackbits(file["mask_bits"]).reshape(logits.shape[:3])
        assert ((steps.brain_probability(logits) > 0.5) != bits).sum() <= MOST_DIFFERENT_VOXELS
