"""From an ONNX graph to a Keras model that trains, saves and runs on every backend."""

from __future__ import annotations

from kerasneuro.onnx_models.build import LAYOUTS, convert, graph_to_keras

__all__ = ["LAYOUTS", "convert", "graph_to_keras"]
