"""Refuse arrays that a small file makes large, before they are made."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.weights.onnx_graph import OnnxNode

MOST_VALUES = 1 << 26


def limited(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape of an array that is to be made.

    Raises
    ------
    WeightsCorrupt
        If it is impossible, or larger than any weight.
    """
    sizes = tuple(int(size) for size in shape)
    if min(sizes, default=0) < 0 or math.prod(sizes) > MOST_VALUES:
        raise WeightsCorrupt(f"asks for an array of the impossible shape {list(sizes)}")
    return sizes


def check_growth(node: OnnxNode, arrays: Sequence[np.ndarray | None]) -> None:
    """Refuse what would make a large array of small ones, before it is made.

    Raises
    ------
    WeightsCorrupt
        If the result would be larger than any weight.
    """
    shapes = [array.shape for array in arrays if array is not None]
    if node.op_type == "Concat":
        most = sum(math.prod(shape) for shape in shapes)
    elif node.op_type in ("MatMul", "Gemm") and len(shapes) > 1:
        most = math.prod(math.prod(shape[:-2]) * max(shape[-2:], default=1) for shape in shapes[:2])
    else:
        try:
            most = math.prod(np.broadcast_shapes(*shapes))
        except ValueError:  # They do not belong together element by element.
            return
    if most > max(MOST_VALUES, *(math.prod(shape) for shape in shapes), 0):
        raise WeightsCorrupt(f"{node.op_type} (node {node.name!r}) asks for an array of {most} values")
