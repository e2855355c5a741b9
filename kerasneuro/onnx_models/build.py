"""Inputs and outputs of the Keras model that an ONNX graph becomes."""

from __future__ import annotations

import os
from pathlib import Path

import keras

from kerasneuro.errors import InvalidOption, UnsupportedGraph
from kerasneuro.nn.onnx.elementwise import OnnxElementwise
from kerasneuro.onnx_models import operators as _operators  # noqa: F401 (registers them)
from kerasneuro.onnx_models.fusing import fuse
from kerasneuro.onnx_models.operands import NARROWER, Operands
from kerasneuro.onnx_models.symbols import Size
from kerasneuro.onnx_models.values import Tensor, channels_last
from kerasneuro.onnx_models.walker import Walker
from kerasneuro.weights.onnx_graph import OnnxGraph, OnnxValue, read_graph

LAYOUTS = ("channels_last", "onnx")
OLDEST_OPSET = 6
IMAGE_RANK = 3


def convert(path: str | os.PathLike[str], layout: str = "channels_last") -> keras.Model:
    """Convert an ONNX file to a Keras model; nothing in the file is run, and onnxruntime is not needed.

    Parameters
    ----------
    path : path
        The ONNX file. Weights in other files ("external data") must lie in its folder, or below.
    layout : {"channels_last", "onnx"}
        Axis order of inputs and outputs with three axes or more: (B, X, Y, Z, C) as everywhere in Keras, or
        (B, C, X, Y, Z) as in the file. Inside, images always have their channels last.

    Returns
    -------
    keras.Model
        A functional graph with the weights of the file as trainable variables; layers carry the names of the
        nodes. It saves as ``.keras`` and runs on every backend. Sizes that are free in the file stay free.

    Raises
    ------
    InvalidOption
        If the layout is unknown.
    WeightsNotFound, WeightsCorrupt
        If the file, or its external data, is missing, damaged, or leads outside its folder.
    UnsupportedGraph
        If an operator is not supported; it is named with its node and version.

    Examples
    --------
    >>> import kerasneuro
    >>> model = kerasneuro.convert("model.onnx")  # doctest: +SKIP
    >>> model.save("model.keras")  # doctest: +SKIP
    """
    return graph_to_keras(read_graph(Path(path)), layout=layout)


def graph_to_keras(
    graph: OnnxGraph, *, layout: str = "channels_last", name: str | None = None
) -> keras.Model:
    """Build the Keras model of an ONNX graph that was read.

    Parameters
    ----------
    graph : OnnxGraph
    layout : {"channels_last", "onnx"}
        See `convert`.
    name : str, optional
        Name of the model; by default that of the file.

    Returns
    -------
    keras.Model

    Raises
    ------
    InvalidOption, UnsupportedGraph
        See `convert`.
    """
    if layout not in LAYOUTS:
        raise InvalidOption(f"layout is one of {', '.join(LAYOUTS)}, found {layout!r}")
    if graph.opset < OLDEST_OPSET:
        raise UnsupportedGraph(
            f"{graph.path} uses version {graph.opset} of ONNX's operators, expected {OLDEST_OPSET} or later: "
            "export it again"
        )
    walk = Walker(graph, fuse(graph))
    named: dict[str, Size] = {}
    inputs = []
    for value in graph.inputs:
        tensor = _input(walk, value, layout, named)
        walk.values[value.name] = tensor
        inputs.append(tensor.keras)
    if not inputs:
        raise UnsupportedGraph(f"{graph.path} has no input")
    walk.run()
    outputs = [_output(walk, value, layout) for value in graph.outputs]
    return keras.Model(
        inputs[0] if len(inputs) == 1 else inputs,
        outputs[0] if len(outputs) == 1 else outputs,
        name=walk.unique(name or Path(graph.path).stem),
    )


def _input(walk: Walker, value: OnnxValue, layout: str, named: dict[str, Size]) -> Tensor:
    if value.shape is None:
        raise UnsupportedGraph(f"{walk.graph.path} declares no shape for its input {value.name[:200]!r}")
    if value.dtype.isdigit():
        raise UnsupportedGraph(f"{walk.graph.path}: its input {value.name[:200]!r} holds no real numbers")
    rank = len(value.shape)
    image = layout == "channels_last" and rank >= IMAGE_RANK
    order = channels_last(rank) if image else tuple(range(rank))
    static = [size if isinstance(size, int) else None for size in value.shape]
    dtype = NARROWER.get(value.dtype, value.dtype) or "float32"
    stored = keras.Input(
        batch_shape=tuple(static[axis] for axis in order), dtype=dtype, name=walk.unique(value.name)
    )
    known = [named.get(size) if isinstance(size, str) else None for size in value.shape]
    tensor = walk.tensor(stored, order, known)
    _remember(value, tensor, named)
    return tensor


def _remember(value: OnnxValue, tensor: Tensor, named: dict[str, Size]) -> None:
    """Keep the sizes of axes with a name: they are the same in all inputs."""
    for name, size in zip(value.shape or (), tensor.dims, strict=True):
        if isinstance(name, str) and name and isinstance(size, Size):
            named.setdefault(name, size)


def _output(walk: Walker, value: OnnxValue, layout: str) -> object:
    found = walk.values[value.name]
    if not isinstance(found, Tensor):
        raise UnsupportedGraph(
            f"{walk.graph.path}: its output {value.name[:200]!r} does not depend on the values of its input"
        )
    order = tuple(range(found.rank))
    if layout == "channels_last" and found.rank >= IMAGE_RANK and found.channel is not None:
        others = [axis for axis in order if axis != found.channel]
        order = (*others, found.channel)
    stored = walk.ordered(found, order)
    kind = NARROWER.get(found.dtype, found.dtype)
    if kind != keras.backend.standardize_dtype(stored.dtype):
        operands, settings = Operands(walk).tensor(stored), {"to": kind}
        stored = walk.apply(OnnxElementwise, operands, settings, suffix="_cast", function="cast")
    return stored
