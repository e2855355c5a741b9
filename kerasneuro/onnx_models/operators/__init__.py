"""How each ONNX operator becomes Keras layers; importing this room registers all of them."""

from __future__ import annotations

from kerasneuro.onnx_models.operators import (
    convolution,
    elementwise,
    normalization,
    parts,
    pooling,
    products,
    quantization,
    reduction,
    resizing,
    shaping,
    sizes,
)

__all__ = [
    "convolution",
    "elementwise",
    "normalization",
    "parts",
    "pooling",
    "products",
    "quantization",
    "reduction",
    "resizing",
    "shaping",
    "sizes",
]
