"""Recognise what exporters write as many nodes, and put one in their place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from kerasneuro.onnx_models.patterns import Found, Matcher
from kerasneuro.weights.onnx_graph import OnnxGraph, OnnxNode

SWITCH = "SwitchNormalization of kerasneuro"
GROUPS = "GroupNormalization of kerasneuro"

# x (1 + erf(x / sqrt 2)) / 2.
_ERF = ("Add", ("Erf", [("Div", "?x", math.sqrt(2)), ("Mul", "?x", math.sqrt(0.5))]), 1.0)
GELU = [
    ("Mul", ("Mul", "?x", _ERF), 0.5),
    ("Mul", "?x", ("Mul", _ERF, 0.5)),
    ("Mul", ("Mul", "?x", 0.5), _ERF),
]

# Statistics of v (N, C, voxels) in HSF's networks: of each channel, with unbiased variance, and of all.
_MEAN = ("MeanOfVoxels", "?v")
_CENTRED = ("Sub", "?v", _MEAN)
_COUNT = ("Cast", ("ReduceProd", ("Gather", ("Shape", "?v"), "#last")))
_SQUARES = ("MeanOfVoxels", ("Mul", _CENTRED, _CENTRED))
_PLAIN_VARIANCE = [
    ("Div", ("Mul", _SQUARES, _COUNT), ("Sub", _COUNT, 1.0)),
    ("Div", ("Mul", _SQUARES, "#count"), "#count_less_one"),
]
_VARIANCE = [*_PLAIN_VARIANCE, ("Reshape", _PLAIN_VARIANCE)]
_MEAN_OF_ALL = ("MeanOfChannels", _MEAN)
_POWER = ("MeanOfChannels", ("Add", _VARIANCE, ("Pow", _MEAN, 2.0)))
_VARIANCE_OF_ALL = ("Sub", _POWER, ("Pow", _MEAN_OF_ALL, 2.0))
_SHIFT = ("Add", ("Mul", "#mean0", _MEAN), ("Mul", "#mean1", _MEAN_OF_ALL))
_MIXED = ("Add", ("Mul", "#var0", _VARIANCE), ("Mul", "#var1", _VARIANCE_OF_ALL))
_NORMAL = ("Div", ("Sub", "?v", _SHIFT), ("Sqrt", ("Add", _MIXED, "#epsilon")))
SWITCH_NORM = ("Add", ("Mul", ("Reshape", _NORMAL, "?back"), "?scale"), "?offset")

_GROUPED = ("InstanceNormalization", ("Reshape", "?x", "?view"), "?ones", "?zeros")
GROUP_NORM = ("Add", ("Mul", ("Reshape", _GROUPED, "?back"), "?scale"), "?offset")


def fuse(graph: OnnxGraph) -> tuple[OnnxNode, ...]:
    """Return the nodes that the outputs need, with known expressions written as one node.

    Parameters
    ----------
    graph : OnnxGraph

    Returns
    -------
    tuple of OnnxNode
        In an order that can be followed.
    """
    matcher = Matcher(graph)
    nodes = [_fused(matcher, node) for node in graph.nodes]
    needed = {value.name for value in graph.outputs}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return tuple(reversed(kept))


def _fused(matcher: Matcher, node: OnnxNode) -> OnnxNode:
    """Return the node that stands for the expression of which this one is the last."""
    for last, pattern, make in RULES:
        if node.op_type == last and not node.domain and len(node.outputs) == 1:
            found = matcher.find(pattern, node.outputs[0])
            made = make(matcher, node, found) if found else None
            if made:
                return made
    return node


def _gelu(_: Matcher, node: OnnxNode, found: Found) -> OnnxNode:
    return OnnxNode("Gelu", node.name, "", (found["?x"],), node.outputs, {"approximate": "none"})


def _switch_norm(matcher: Matcher, node: OnnxNode, found: Found) -> OnnxNode | None:
    view = matcher.producers.get(found["?v"])
    if view is None or view.op_type != "Reshape" or not _is_view(matcher, view.inputs[1]):
        return None
    shape = _length(matcher, found["?back"])
    channels = [_channels(matcher, found[name], shape) for name in ("?scale", "?offset")]
    shares = [found[f"#{name}"] for name in ("mean0", "mean1", "var0", "var1")]
    whole = all(math.isclose(sum(pair), 1.0, abs_tol=1e-5) for pair in (shares[:2], shares[2:]))
    if shape != 5 or None in channels or not whole or min(shares) <= 0 or not _counted(matcher, found):
        return None
    attributes = {"shares": shares, "epsilon": found["#epsilon"]}
    inputs = (view.inputs[0], found["?scale"], found["?offset"])
    return OnnxNode(SWITCH, node.name, "", inputs, node.outputs, attributes)


def _counted(matcher: Matcher, found: Found) -> bool:
    """Say whether a fixed number of voxels is that of the shape."""
    if "#count" not in found:
        return found.get("#last") in (-1.0, 2.0)
    back, count = matcher.array(found["?back"]), found["#count"]
    right = back is not None and count == math.prod(int(size) for size in back[2:])
    return right and found["#count_less_one"] == count - 1


def _group_norm(matcher: Matcher, node: OnnxNode, found: Found) -> OnnxNode | None:
    view, ones, zeros = (matcher.array(found[name]) for name in ("?view", "?ones", "?zeros"))
    rank = _rank(matcher, found)
    if view is None or ones is None or zeros is None or view.shape != (3,) or rank is None or rank < 4:
        return None
    channels = {_channels(matcher, found[name], rank) for name in ("?scale", "?offset")}
    groups = int(view[1])
    plain = view[2] == -1 and groups > 1 and (ones == 1).all() and not zeros.any()
    if len(channels) != 1 or None in channels or not plain:
        return None
    norm = matcher.producers[matcher.producers[_first_input(matcher, node, found)].inputs[0]]
    attributes = {"num_groups": groups, "epsilon": norm.attributes.get("epsilon", 1e-5)}
    return OnnxNode(
        GROUPS, node.name, "", (found["?x"], found["?scale"], found["?offset"]), node.outputs, attributes
    )


def _rank(matcher: Matcher, found: Found) -> int | None:
    """Return the number of axes of what is reshaped and reshaped back."""
    node, scale = matcher.producers.get(found["?back"]), matcher.constant(found["?scale"])
    if node is None or node.op_type != "Shape" or node.inputs[0] != found["?x"] or scale is None:
        return _length(matcher, found["?back"])
    return len(scale.shape) + (scale.shape[0] != 1) if scale.shape else None


def _first_input(matcher: Matcher, node: OnnxNode, found: Found) -> str:
    """Return the name of the value that is scaled and shifted."""
    product = next(name for name in node.inputs if name != found["?offset"])
    return next(name for name in matcher.producers[product].inputs if name != found["?scale"])


def _is_view(matcher: Matcher, name: str) -> bool:
    """Say whether a shape is (N, C, -1)."""
    array, node = matcher.array(name), matcher.producers.get(name)
    if array is not None:
        return array.shape == (3,) and int(array[2]) == -1
    joined = node is not None and node.op_type == "Concat" and len(node.inputs) == 3
    return node is not None and joined and matcher.number(node.inputs[2]) == -1


def _length(matcher: Matcher, name: str) -> int | None:
    """Return the number of axes of a shape, if it can be told."""
    array, node = matcher.constant(name), matcher.producers.get(name)
    if array is not None:
        return int(array.size)
    return len(node.inputs) if node is not None and node.op_type == "Concat" else None


def _channels(matcher: Matcher, name: str, rank: int | None) -> int | None:
    """Return the length of an array of one number for each channel, (1, C, 1, ...) or (C, 1, ...)."""
    found = matcher.constant(name)
    if found is None or rank is None:
        return None
    shape = (1,) * (rank - len(found.shape)) + tuple(found.shape)
    return int(shape[1]) if len(shape) == rank and found.size == shape[1] else None


Make = Callable[[Matcher, OnnxNode, Found], OnnxNode | None]
RULES: list[tuple[str, Any, Make]] = [
    ("Mul", GELU, _gelu),
    ("Add", SWITCH_NORM, _switch_norm),
    ("Add", GROUP_NORM, _group_norm),
]
