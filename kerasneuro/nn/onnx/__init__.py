"""Layers with the semantics of ONNX operators where Keras has none of the same kind."""

from __future__ import annotations

from kerasneuro.nn.onnx import (
    convolution,
    elementwise,
    normalization,
    pooling,
    products,
    quantization,
    reduction,
    resizing,
    shaping,
)

__all__ = [
    "convolution",
    "elementwise",
    "normalization",
    "pooling",
    "products",
    "quantization",
    "reduction",
    "resizing",
    "shaping",
]
