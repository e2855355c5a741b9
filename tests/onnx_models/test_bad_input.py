"""What cannot be converted is named in one sentence: operator, node and version."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from onnx import helper

import kerasneuro
from kerasneuro.errors import (
    InvalidOption,
    KerasNeuroError,
    UnsupportedGraph,
    WeightsCorrupt,
    WeightsNotFound,
)

node = helper.make_node
IMAGE = {"x": ("n", 2, "x", "y")}
WEIGHTS = {"w": np.zeros((3, 4, 3, 3), np.float32), "huge": np.asarray([1 << 20, 1 << 20], np.int64)}
BAD: dict[str, tuple[Any, str]] = {
    "unknown operator": (
        node("NonMaxSuppression", ["x"], ["out"], name="pick"),
        r"NonMaxSuppression \(node 'pick', opset 18\)",
    ),
    "other domain": (node("Magic", ["x"], ["out"], domain="com.x"), r"com\.x\.Magic .* not supported"),
    "channels do not fit": (node("Conv", ["x", "w"], ["out"]), "do not fit 2 channels"),
    "computed kernel": (node("Conv", ["x", "x"], ["out"]), "computed while the network runs"),
    "missing input": (node("Conv", ["x"], ["out"]), "input 1 is left out"),
    "window of another rank": (
        node("MaxPool", ["x"], ["out"], kernel_shape=[2, 2, 2]),
        "does not fit an image",
    ),
    "window of nothing": (node("MaxPool", ["x"], ["out"], kernel_shape=[0, 2]), "does not fit an image"),
    "padding of another kind": (node("Pad", ["x"], ["out"], mode="magic"), "pads by 'magic'"),
    "axis out of range": (node("Softmax", ["x"], ["out"], axis=7), "axis 7 of a tensor of 4 axes"),
    "rule of coordinates": (
        node("Resize", ["x"], ["out"], coordinate_transformation_mode="tf_crop_and_resize"),
        "tf_crop_and_resize is not supported",
    ),
    "no sizes": (node("Resize", ["x"], ["out"]), "needs a size, or a scale"),
    "places of the maxima": (
        node("MaxPool", ["x"], ["out", "places"], kernel_shape=[2, 2]),
        "places of its maxima are used",
    ),
    "order of axes": (node("Transpose", ["x"], ["out"], perm=[0, 1]), "does not fit a tensor of 4 axes"),
}


@pytest.mark.parametrize("case", BAD)
def test_operator_node_and_version_are_named(case: str, small: Any, write: Any) -> None:
    one, words = BAD[case]
    path = write(small([one], IMAGE, WEIGHTS))
    with pytest.raises(UnsupportedGraph) as caught:
        kerasneuro.convert(path)
    text = str(caught.value)
    assert re.search(words, text) and one.op_type in text and "opset" in text and str(path) in text
    assert "\n" not in text


def test_constants_of_an_impossible_size_are_not_made(small: Any, write: Any) -> None:
    nodes = [node("ConstantOfShape", ["huge"], ["c"]), node("Add", ["x", "c"], ["out"])]
    with pytest.raises(WeightsCorrupt, match="impossible shape"):
        kerasneuro.convert(write(small(nodes, IMAGE, WEIGHTS)))


def test_arrays_do_not_grow_out_of_small_ones(small: Any, write: Any) -> None:
    nodes = [node("Concat", [f"c{n}"] * 2, [f"c{n + 1}"], axis=0) for n in range(40)]
    nodes = [node("Identity", ["huge"], ["c0"]), *nodes, node("Reshape", ["x", "c40"], ["out"])]
    with pytest.raises(WeightsCorrupt, match=r"Concat .* asks for an array"):
        kerasneuro.convert(write(small(nodes, IMAGE, WEIGHTS)))


def test_sizes_do_not_grow_without_end(small: Any, write: Any) -> None:
    nodes = [node("Mul", [f"s{n}"] * 2, [f"s{n + 1}"]) for n in range(60)]
    nodes = [node("Shape", ["x"], ["s0"]), *nodes, node("Reshape", ["x", "s60"], ["out"])]
    with pytest.raises(UnsupportedGraph, match=r"Mul .* more than 1000 steps"):
        kerasneuro.convert(write(small(nodes, IMAGE, WEIGHTS)))


def test_input_without_a_shape(small: Any, write: Any) -> None:
    with pytest.raises(UnsupportedGraph, match="declares no shape for its input 'x'"):
        kerasneuro.convert(write(small([node("Relu", ["x"], ["out"])], {"x": None})))


def test_output_that_is_a_constant(small: Any, write: Any) -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Identity", ["w"], ["out"])]
    with pytest.raises(UnsupportedGraph, match="'out' does not depend on the values"):
        kerasneuro.convert(write(small(nodes, IMAGE, WEIGHTS)))


def test_old_operators(small: Any, write: Any) -> None:
    with pytest.raises(UnsupportedGraph, match="version 4 of ONNX's operators"):
        kerasneuro.convert(write(small([node("Relu", ["x"], ["out"])], IMAGE, opset=4)))


def test_layout_is_one_of_two(small: Any, write: Any) -> None:
    with pytest.raises(InvalidOption, match="channels_last, onnx, found 'first'"):
        kerasneuro.convert(write(small([node("Relu", ["x"], ["out"])], IMAGE)), layout="first")


def test_missing_file(tmp_path: Any) -> None:
    with pytest.raises(WeightsNotFound, match="no ONNX file"):
        kerasneuro.convert(tmp_path / "none.onnx")


def test_damaged_files_never_end_in_another_error(fixtures: Any, tmp_path: Any) -> None:
    """Bytes changed at random in a small model: it converts, or says in one sentence why not."""
    data = bytearray((fixtures / "hsf" / "onnx_ops" / "resize_sizes_from_shape.onnx").read_bytes())
    rng = np.random.default_rng(3)
    path, refused = tmp_path / "model.onnx", 0
    for _ in range(60):
        copy = bytearray(data)
        copy[int(rng.integers(len(copy)))] = int(rng.integers(256))
        path.write_bytes(copy)
        try:
            kerasneuro.convert(path)
        except KerasNeuroError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 10
