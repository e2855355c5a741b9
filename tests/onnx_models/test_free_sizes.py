"""What depends on the size of the image is computed when the network runs, as the reference of onnx does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

import kerasneuro

node = helper.make_node
FREE = ("n", 2, "x", "y")
RNG = np.random.default_rng(7)
X = RNG.normal(size=(1, 2, 7, 9)).astype(np.float32)
KERNEL = RNG.normal(size=(3, 2, 3, 3)).astype(np.float32)
BACK = RNG.normal(size=(2, 3, 3, 3)).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def shape_of(name: str, axis: int) -> list[Any]:
    """Nodes that compute a size of x as a vector ``<name>``."""
    return [
        node("Shape", ["x"], [f"{name}_s"], start=axis, end=axis + 1),
        node("Identity", [f"{name}_s"], [name]),
    ]


CONV = {"w": KERNEL}
CASES: dict[str, tuple[list[Any], dict[str, np.ndarray]]] = {
    "same lower": (
        [node("Conv", ["x", "w"], ["out"], auto_pad="SAME_LOWER", strides=[2, 2])],
        CONV,
    ),
    "same upper": ([node("Conv", ["x", "w"], ["out"], auto_pad="SAME_UPPER", strides=[3, 2])], CONV),
    "stride and dilation": (
        [node("Conv", ["x", "w"], ["out"], strides=[2, 3], dilations=[2, 1], pads=[2, 1, 2, 1])],
        CONV,
    ),
    "transposed to twice the size": (
        [node("ConvTranspose", ["x", "v"], ["out"], auto_pad="SAME_UPPER", strides=[2, 2])],
        {"v": BACK},
    ),
    "rounded up": ([node("MaxPool", ["x"], ["out"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}),
    "averages rounded up": (
        [node("AveragePool", ["x"], ["out"], kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1)],
        {},
    ),
    "reshape and back": (
        [
            node("Shape", ["x"], ["s"]),
            node("Reshape", ["x", "flat"], ["f"]),
            node("ReduceMean", ["f", "last"], ["m"]),
            node("Sub", ["f", "m"], ["c"]),
            node("Reshape", ["c", "s"], ["out"]),
        ],
        {"flat": ints(0, 0, -1), "last": ints(-1)},
    ),
    "resize to a computed size": (
        [
            *shape_of("h", 2),
            *shape_of("w", 3),
            node("Mul", ["h", "two"], ["h2"]),
            node("Add", ["w", "two"], ["w2"]),
            node("Concat", ["kept", "h2", "w2"], ["sizes"], axis=0),
            node(
                "Resize",
                ["x", "", "", "sizes"],
                ["out"],
                mode="linear",
                coordinate_transformation_mode="half_pixel",
            ),
        ],
        {"two": ints(2), "kept": ints(1, 2)},
    ),
    "crop by half": (
        [
            *shape_of("h", 2),
            node("Div", ["h", "two"], ["end"]),
            node("Slice", ["x", "zero", "end", "axes"], ["out"]),
        ],
        {"two": ints(2), "zero": ints(0), "axes": ints(2)},
    ),
    "expand": (
        [
            node("Shape", ["x"], ["s"]),
            node("ConstantOfShape", ["rank"], ["ones"], value=helper.make_tensor("", 7, [1], [1])),
            node("Mul", ["ones", "minus"], ["unknown"]),
            node("Equal", ["s", "unknown"], ["test"]),
            node("Where", ["test", "ones", "s"], ["target"]),
            node("Expand", ["b", "target"], ["wide"]),
            node("Add", ["wide", "x"], ["out"]),
        ],
        {"rank": ints(4), "minus": ints(-1), "b": RNG.normal(size=(2, 1, 1)).astype(np.float32)},
    ),
    "divided by the number of voxels": (
        [
            node("Shape", ["x"], ["s"], start=2),
            node("ReduceProd", ["s"], ["n"], keepdims=0),
            node("Cast", ["n"], ["count"], to=1),
            node("ReduceSum", ["x", "space"], ["total"]),
            node("Div", ["total", "count"], ["out"]),
        ],
        {"space": ints(2, 3)},
    ),
    "group normalisation in parts": (
        [
            node("Shape", ["x"], ["s"]),
            node("Reshape", ["x", "view"], ["g"]),
            node("InstanceNormalization", ["g", "one", "zero"], ["i"], epsilon=1e-3),
            node("Reshape", ["i", "s"], ["b"]),
            node("Mul", ["b", "scale"], ["m"]),
            node("Add", ["m", "offset"], ["out"]),
        ],
        {
            "view": ints(0, 2, -1),
            "one": np.ones(2, np.float32),
            "zero": np.zeros(2, np.float32),
            "scale": np.asarray([1.5, -2], np.float32).reshape(2, 1, 1),
            "offset": np.asarray([0.5, 1], np.float32).reshape(2, 1, 1),
        },
    ),
    "linear layers": (
        [
            node("GlobalAveragePool", ["x"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("MatMul", ["f", "m"], ["h"]),
            node("Add", ["h", "o"], ["out"]),
        ],
        {"m": RNG.normal(size=(2, 5)).astype(np.float32), "o": RNG.normal(size=5).astype(np.float32)},
    ),
    "attention over voxels": (
        [
            node("Reshape", ["x", "flat"], ["f"]),
            node("Transpose", ["f"], ["t"], perm=[0, 2, 1]),
            node("MatMul", ["t", "f"], ["q"]),
            node("Softmax", ["q"], ["out"], axis=-1),
        ],
        {"flat": ints(0, 2, -1)},
    ),
}


def chained(names: list[str]) -> tuple[list[Any], dict[str, np.ndarray], str]:
    """Let each case take the result of the one before; return nodes, constants and the name of the result."""
    nodes, constants, x = [], {}, "x"
    for number, name in enumerate(names):
        own = {"x": x, "out": f"x{number + 1}"}
        kept = {*CASES[name][1], ""}
        for one in CASES[name][0]:
            copy = helper.make_node(one.op_type, [], [])
            copy.CopyFrom(one)
            for listed in (copy.input, copy.output):
                listed[:] = [own.get(key, key if key in kept else f"{key}{number}") for key in listed]
            nodes.append(copy)
        constants |= CASES[name][1]
        x = own["out"]
    return nodes, constants, x


@pytest.fixture(scope="module")
def converted(small: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    models = {}
    for number, (name, (nodes, constants)) in enumerate(CASES.items()):
        path = tmp_path_factory.mktemp(str(number)) / "small.onnx"
        path.write_bytes(small(nodes, {"x": FREE}, constants).SerializeToString())
        models[name] = kerasneuro.convert(path, layout="onnx")
    return models


@pytest.fixture(scope="module")
def found(converted: dict[str, Any], run_all: Any) -> dict[str, list[np.ndarray]]:
    return run_all(converted, {name: [X] for name in converted})


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_the_reference(case: str, found: Any, small: Any, expected: Any) -> None:
    nodes, constants = CASES[case]
    (wanted,) = expected(small(nodes, {"x": FREE}, constants), {"x": X})
    assert found[case][0].shape == wanted.shape
    np.testing.assert_allclose(found[case][0], wanted, atol=2e-5)


def test_group_normalisation_is_recognised(converted: dict[str, Any]) -> None:
    kinds = [type(layer).__name__ for layer in converted["group normalisation in parts"].layers]
    assert kinds == ["InputLayer", "Permute", "SampleNormalization", "Permute"]


def test_sizes_are_not_those_of_the_example(converted: dict[str, Any]) -> None:
    assert all(model.input_shape == (None, 2, None, None) for model in converted.values())


def test_compiled_prediction_of_free_sizes(small: Any, write: Any, expected: Any) -> None:
    """All of it in one graph whose sizes are unknown when it is compiled."""
    nodes, constants, name = chained(["same lower", "rounded up", "reshape and back", "crop by half"])
    model = small(nodes, {"x": FREE}, constants, outputs=[name])
    (wanted,) = expected(model, {"x": X})
    predicted = kerasneuro.convert(write(model), layout="onnx").predict(X, verbose=0)
    assert predicted.shape == wanted.shape
    np.testing.assert_allclose(predicted, wanted, atol=2e-5)
