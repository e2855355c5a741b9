"""What an ONNX graph is made of, as plain Python and NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kerasneuro.weights.store import LazyArray

DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class OnnxValue:
    """An input or output of a graph.

    Attributes
    ----------
    name : str
    dtype : str
        Name of the NumPy type, or the number of an ONNX type that has none; empty where it is not declared.
    shape : tuple of (int, str or None), optional
        A text is the name of an axis of free length, None an unnamed one; None in place of the tuple where no
        shape is declared.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class OnnxNode:
    """One operation.

    Attributes
    ----------
    op_type : str
        Such as "Conv".
    name : str
        May be empty.
    domain : str
        Empty for the operators of ONNX itself.
    inputs, outputs : tuple of str
        Names of values; an empty name stands for one that is left out.
    attributes : dict
        Name -> int, float, str, numpy.ndarray (of a tensor), or a list of these.
    """

    op_type: str
    name: str = ""
    domain: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OnnxGraph:
    """The graph of an ONNX file.

    Attributes
    ----------
    path : Path
        The file.
    nodes : tuple of OnnxNode
        In the order of the file: each after those that it needs.
    initialisers : dict of str to LazyArray
        The weights by name, in the order of the file; values are read on demand.
    inputs, outputs : tuple of OnnxValue
        Initialisers that are also listed as inputs are left out of `inputs`.
    opsets : dict of str to int
        Version of each set of operators by domain; "" is ONNX itself.
    producer : str
        Program that wrote the file.
    """

    path: Path
    nodes: tuple[OnnxNode, ...]
    initialisers: Mapping[str, LazyArray]
    inputs: tuple[OnnxValue, ...]
    outputs: tuple[OnnxValue, ...]
    opsets: Mapping[str, int]
    producer: str = ""

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return self.opsets.get("", 0)

    def producers(self) -> dict[str, OnnxNode]:
        """Return name of a value -> node that computes it."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def consumers(self) -> dict[str, list[OnnxNode]]:
        """Return name of a value -> nodes that use it, in order."""
        users: dict[str, list[OnnxNode]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    users.setdefault(name, []).append(node)
        return users
