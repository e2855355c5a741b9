"""The graph of an ONNX file is read as it is, and what is wrong with a file is told in one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kerasneuro.errors import UnsupportedGraph, WeightsCorrupt, WeightsNotFound
from kerasneuro.weights.onnx_graph import OnnxGraph, read_graph

pytestmark = pytest.mark.backend_free


def declared(name: str, shape: Any = (1, 2, 3)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model_of(nodes: list[onnx.NodeProto], inputs: Any = ("x",), outputs: Any = ("y",), **parts: Any) -> Any:
    graph = helper.make_graph(
        nodes, "g", [declared(n) for n in inputs], [declared(n) for n in outputs], **parts
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def read(model: Any, folder: Path) -> OnnxGraph:
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return read_graph(path)


@pytest.mark.parametrize("name", ["arunet_v4_dyn", "arunet_v4_dynamo_static_opset18", "unet3d_bn_resize_dyn"])
def test_graph_is_the_one_that_onnx_reads(fixtures: Path, name: str) -> None:
    path = fixtures / "hsf" / f"{name}.onnx"
    found, expected = read_graph(path), onnx.load(path)
    assert len(found.nodes) == len(expected.graph.node)
    for node, other in zip(found.nodes, expected.graph.node, strict=True):
        assert (node.op_type, node.name, node.domain) == (other.op_type, other.name, "")
        assert (node.inputs, node.outputs) == (tuple(other.input), tuple(other.output))
        assert set(node.attributes) == {attribute.name for attribute in other.attribute}
        for attribute in other.attribute:
            value = helper.get_attribute_value(attribute)
            if attribute.type == onnx.AttributeProto.TENSOR:
                np.testing.assert_array_equal(
                    node.attributes[attribute.name], onnx.numpy_helper.to_array(value)
                )
            else:
                text = value.decode() if isinstance(value, bytes) else value
                assert node.attributes[attribute.name] == (
                    text if isinstance(text, str | int | float) else [*text]
                )
    assert [*found.initialisers] == [tensor.name for tensor in expected.graph.initializer]
    assert found.opset == expected.opset_import[0].version
    assert found.producer.startswith("pytorch 2.13.0")


def test_inputs_outputs_and_links(fixtures: Path) -> None:
    graph = read_graph(fixtures / "hsf" / "arunet_v4_dyn.onnx")
    assert [(value.name, value.dtype, value.shape) for value in graph.inputs] == [
        ("cropped_hippocampus", "float32", ("batch", 1, "x", "y", "z"))
    ]
    assert [value.shape for value in graph.outputs] == [("batch", 6, "x", "y", "z")]
    first = graph.consumers()["cropped_hippocampus"]
    assert [node.op_type for node in first] == ["Conv"]
    assert graph.producers()[first[0].outputs[0]] is first[0]


def test_initialisers_that_are_inputs_are_no_inputs(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, (3,), [1.0, 2.0, 3.0])
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = read(model_of([node], ("x", "w"), initializer=[weight]), tmp_path)
    assert [value.name for value in graph.inputs] == ["x"]
    assert graph.initialisers["w"].read().tolist() == [1.0, 2.0, 3.0]


def test_attributes_of_every_kind(tmp_path: Path) -> None:
    given: dict[str, Any] = {"a": -3, "b": 0.5, "c": "text", "d": [-1, 2], "e": [0.5, 0.25], "f": ["p", "q"]}
    tensor = helper.make_tensor("", TensorProto.INT64, (2,), [-4, 5])
    node = helper.make_node("Anything", ["x"], ["y"], **given, g=tensor)
    found = dict(read(model_of([node]), tmp_path).nodes[0].attributes)
    assert found.pop("g").tolist() == [-4, 5]
    assert found == given


def branch() -> Any:
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "b", [], [declared("z")])
    return helper.make_node("If", ["x"], ["y"], name="choose", then_branch=inner, else_branch=inner)


def nested(depth: int) -> bytes:
    """Graphs in graphs, so deep that most readers give up: node (1), attribute (5), graph (6)."""

    def field(number: int, content: bytes) -> bytes:
        length, digits = len(content), b""
        while length >= 128:
            digits, length = digits + bytes([length % 128 + 128]), length // 128
        return bytes([number * 8 + 2]) + digits + bytes([length]) + content

    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return b"\x08\x08" + field(7, graph) + field(8, b"\x10\x11")


def with_function() -> Any:
    model = model_of([helper.make_node("F", ["x"], ["y"], domain="own")])
    opset = helper.make_opsetid("", 17)
    identity = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], [identity], [opset]))
    return model


def external(location: str) -> Any:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    return model_of([helper.make_node("Add", ["x", "w"], ["y"])], initializer=[weight])


SMALL = model_of([helper.make_node("Relu", ["x"], ["y"])])
BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "graph in a node": (model_of([branch()]), UnsupportedGraph, "If \\(node 'choose'\\) holds a graph"),
    "graphs in graphs": (nested(2000), UnsupportedGraph, "holds a graph"),
    "function": (with_function(), UnsupportedGraph, "holds functions"),
    "truncated": (SMALL.SerializeToString()[:-9], WeightsCorrupt, "damaged|no graph"),
    "external above": (external("../w.bin"), WeightsCorrupt, "leads outside its folder"),
    "external absolute": (external("/etc/passwd"), WeightsCorrupt, "leads outside its folder"),
    "external missing": (external("w.bin"), WeightsNotFound, "is missing"),
    "unknown value": (model_of([helper.make_node("Relu", ["q"], ["y"])]), WeightsCorrupt, "needs 'q'"),
    "no output": (
        model_of([helper.make_node("Relu", ["x"], ["z"])]),
        WeightsCorrupt,
        "computes its output 'y'",
    ),
    "twice": (
        model_of([helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["y"])]),
        WeightsCorrupt,
        "two nodes compute 'y'",
    ),
    "loop": (model_of([helper.make_node("Add", ["x", "y"], ["y"])]), WeightsCorrupt, "nothing before it"),
    "text": (b"<html>not found</html>", WeightsCorrupt, "is not an ONNX model"),
    "empty": (b"", WeightsCorrupt, "is not an ONNX model"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_one_sentence(case: str, tmp_path: Path) -> None:
    model, kind, words = BAD[case]
    with pytest.raises(kind) as caught:
        read(model, tmp_path)
    text = str(caught.value)
    assert re.search(words, text) and "\n" not in text and str(tmp_path) in text
    assert text.count("model.onnx") <= 1


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFound, match="no ONNX file at"):
        read_graph(tmp_path / "none.onnx")


def test_every_cut_of_a_file_is_refused(fixtures: Path, tmp_path: Path) -> None:
    data = (fixtures / "hsf" / "onnx_ops" / "resize_sizes_from_shape.onnx").read_bytes()
    for length in range(2, len(data) - 8, 7):
        with pytest.raises((WeightsCorrupt, UnsupportedGraph)):
            read(data[:length], tmp_path)
