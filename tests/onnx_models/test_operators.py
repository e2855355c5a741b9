"""Every operator of the stored cases gives the values of onnxruntime 1.31.1."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasneuro

TABLE = Path(__file__).parent.parent / "data" / "hsf" / "onnx_ops_table.json"
CASES: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
# Relative to the largest value of a case.
TOLERANCE = 1e-5
# OpenVINO's predict, where it differs from its own eager computation: case -> reason.
OPENVINO: dict[str, str] = {}


@pytest.fixture(scope="module")
def stored(hsf: Path) -> dict[str, np.ndarray]:
    with np.load(hsf / "onnx_ops_io.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def models(hsf: Path) -> dict[str, Any]:
    return {
        case: kerasneuro.convert(hsf / "onnx_ops" / f"{case}.onnx", layout="onnx")
        for case in CASES
        if not (keras.backend.backend() == "openvino" and case in OPENVINO)
    }


@pytest.fixture(scope="module")
def found(
    models: dict[str, Any], stored: dict[str, np.ndarray], run_all: Callable[..., Any]
) -> dict[str, list[np.ndarray]]:
    inputs = {case: [stored[f"{case}/{name}"] for name in CASES[case]["in_shapes"]] for case in models}
    return run_all(models, inputs)


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_onnxruntime(
    case: str, found: dict[str, list[np.ndarray]], stored: dict[str, np.ndarray]
) -> None:
    if case not in found:
        pytest.skip(OPENVINO[case])
    names = [name for name in stored if name.startswith(f"{case}/")]
    expected = sorted(name for name in names if name.split("/")[1] not in CASES[case]["in_shapes"])
    assert len(found[case]) == len(expected) > 0
    for value, name in zip(found[case], expected, strict=True):
        wanted = stored[name].astype(np.float64)
        assert value.shape == wanted.shape
        limit = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
        assert np.abs(value.astype(np.float64) - wanted).max() <= limit


def test_a_convolutional_network_needs_no_transposition(hsf: Path) -> None:
    for case in ("conv_stride2_pad1", "convtranspose_hsf", "maxpool_ceil", "batchnorm", "mul_1c111"):
        model = kerasneuro.convert(hsf / "onnx_ops" / f"{case}.onnx")
        assert not [layer for layer in model.layers if type(layer).__name__ in ("Permute", "OnnxTranspose")]
        assert model.input_shape == (2, 5, 7, 4, 4) or case == "convtranspose_hsf"


def test_transposed_values_are_only_renamed(hsf: Path, stored: dict[str, np.ndarray]) -> None:
    case = "transpose_ncdhw_to_ndhwc"
    model = kerasneuro.convert(hsf / "onnx_ops" / f"{case}.onnx")
    x = np.moveaxis(stored[f"{case}/x"], 1, -1)
    assert len(model.layers) == 1
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(x)), x)


def test_label_map_keeps_its_axes(hsf: Path) -> None:
    model = kerasneuro.convert(hsf / "onnx_ops" / "argmax_axis1.onnx")
    assert model.input_shape == (2, 5, 7, 4, 4)
    assert model.output_shape == (2, 5, 7, 4)


def test_every_layer_survives_saving_in_safe_mode(models: dict[str, Any], tmp_path: Path) -> None:
    """One case for each kind of layer of our own: the same configuration and weights come back."""
    seen: set[str] = set()
    for case, model in models.items():
        kinds = {type(layer).__name__ for layer in model.layers if "kerasneuro" in type(layer).__module__}
        if kinds <= seen:
            continue
        seen |= kinds
        path = tmp_path / f"{case}.keras"
        model.save(path)
        again = keras.models.load_model(path, safe_mode=True)
        # As text: the lists of some layers of Keras come back as tuples.
        assert json.dumps(again.get_config()) == json.dumps(model.get_config())
        for one, other in zip(model.variables, again.variables, strict=True):
            assert one.trainable == other.trainable
            np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))
    assert {"OnnxElementwise", "OnnxResize", "OnnxQuantize", "OnnxPad", "SampleNormalization"} <= seen
