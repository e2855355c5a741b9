"""Read the graph of an ONNX file: its nodes, weights, inputs and outputs; nothing is run."""

from __future__ import annotations

from kerasneuro.weights.onnx_graph.graph import OnnxGraph, OnnxNode, OnnxValue
from kerasneuro.weights.onnx_graph.reading import read_graph

__all__ = ["OnnxGraph", "OnnxNode", "OnnxValue", "read_graph"]
