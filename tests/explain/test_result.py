"""From a classification to its heat map on the grid of the scan, and to files."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import nibabel
import numpy as np
import pytest

from kerasneuro import registry
from kerasneuro.errors import InvalidOption
from kerasneuro.explain import grad_cam, to_native
from kerasneuro.explain.result import METHODS, explain_result
from kerasneuro.models.fcd.task import TASK
from kerasneuro.tasks.classification import ClassificationResult
from kerasneuro.tasks.result import RESEARCH_USE, Result

AFFINE = np.array([[-1.5, 0, 0, 30], [0, 0, 1.2, -20], [0, 1.3, 0, -15], [0, 0, 0, 1]])
SHAPE = (20, 16, 18)  # of the scan; the network sees 16 x 14 x 12


@pytest.fixture(scope="module")
def task(detector: Any) -> Any:
    """The FCD pipeline around a network that finds bright places of one image."""
    return TASK(registry.get("fcd-mobilenet"), {"": detector})


@pytest.fixture(scope="module")
def result(task: Any, tmp_path_factory: pytest.TempPathFactory) -> ClassificationResult:
    scan = np.random.default_rng(0).uniform(10, 20, SHAPE).astype(np.float32)
    scan[:10] = 0
    scan[14:18, 4:8, 10:14] = 100
    image = nibabel.Nifti1Image(scan, AFFINE)
    image.set_sform(AFFINE, 1)
    path = tmp_path_factory.mktemp("scan") / "sub-01_T1w.nii.gz"
    nibabel.save(image, path)
    return task(path, shape=(16, 14, 12))


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than all the rest."""
    monkeypatch.setattr("kerasneuro.explain.result.find_spec", lambda name: None)


def is_hot_at_the_spot(heat: np.ndarray) -> bool:
    """Hidden cubes are larger than the spot, so that the map of the occlusion is wider."""
    spot = np.zeros(SHAPE, bool)
    spot[12:20, 2:10, 8:16] = True
    return bool(heat[spot].sum() > 0.6 * heat.sum() > 0 and heat[spot].max() == heat.max())


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("grad-cam", marks=pytest.mark.training),
        pytest.param("integrated-gradients", marks=pytest.mark.training),
        "occlusion",
    ],
)
def test_the_heat_map_lies_on_the_scan(
    task: Any, result: ClassificationResult, method: str, tmp_path: Path, no_matplotlib: None
) -> None:
    found = explain_result(task, result, method, class_index=1)
    files = found.save(tmp_path / "out")
    image = nibabel.load(files["heatmap"])
    assert image.shape == SHAPE
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert image.get_data_dtype() == np.float32
    assert image.header["descrip"].tobytes().rstrip(b"\0").decode() in RESEARCH_USE
    assert is_hot_at_the_spot(image.get_fdata())
    told = json.loads(files["provenance"].read_text())["explanation"]
    assert told["method"] == method
    assert told["class"] == "FCD"
    assert told["use"] == RESEARCH_USE


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_pictures_are_written_beside_the_heat_map(
    task: Any, result: ClassificationResult, tmp_path: Path
) -> None:
    files = explain_result(task, result, "occlusion").save(tmp_path / "out")
    for name in ("heatmap_slices", "heatmap_head"):
        assert files[name].name == f"sub-01_T1w_{name}.png"
        assert files[name].read_bytes().startswith(b"\x89PNG")


@pytest.mark.training
def test_the_predicted_class_is_explained_and_an_empty_map_is_told(
    task: Any, result: ClassificationResult, no_matplotlib: None
) -> None:
    found = explain_result(task, result)
    assert found.provenance["explanation"]["class"] == result.label == "FCD"
    assert found.heatmap is not None
    expected = to_native(grad_cam(task.model, result.batch, 1)[0], result.input)
    np.testing.assert_array_equal(found.heatmap.get_fdata(), expected.get_fdata())
    against = explain_result(task, result, class_index=0)
    assert any("the heat map is 0" in warning for warning in against.warnings)


@pytest.mark.training
def test_a_network_with_one_score_is_explained_by_it(no_matplotlib: None) -> None:
    image = keras.Input((6, 6, 6, 1))
    features = keras.layers.Conv3D(2, 1, name="features")(image)
    scores = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling3D()(features))
    task = TASK(registry.get("fcd-mobilenet"), {"": keras.Model(image, scores)})
    scan = nibabel.Nifti1Image(np.random.default_rng(1).uniform(1, 2, (6, 6, 6)).astype(np.float32), AFFINE)
    found = explain_result(task, task(scan, shape=(6, 6, 6)))
    assert found.provenance["explanation"]["class"] == found.class_names[1]
    assert found.provenance["explanation"]["layer"] == "features"


def test_without_matplotlib_the_heat_map_is_still_made(
    task: Any, result: ClassificationResult, no_matplotlib: None
) -> None:
    found = explain_result(task, result, "occlusion")
    assert found.heatmap is not None
    assert "heatmap_slices" not in found.outputs
    assert any("kerasneuro[report]" in warning for warning in found.warnings)


def test_wrong_arguments_are_refused(task: Any, result: ClassificationResult) -> None:
    assert tuple(METHODS) == ("grad-cam", "integrated-gradients", "occlusion")
    with pytest.raises(InvalidOption, match="method must be one of grad-cam"):
        explain_result(task, result, "saliency")
    with pytest.raises(InvalidOption, match="class_index"):
        explain_result(task, result, "occlusion", class_index=7)
    with pytest.raises(InvalidOption, match="needs a classification"):
        explain_result(task, replace(result, batch=None), "occlusion")
    with pytest.raises(InvalidOption, match="needs a classification"):
        explain_result(task, Result(), "occlusion")
