"""Matrix products and sums of products."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kerasneuro.errors import UnsupportedGraph
from kerasneuro.nn.initializers import HostGlorotUniform
from kerasneuro.nn.onnx.products import OnnxEinsum, OnnxMatMul
from kerasneuro.onnx_models.arguments import data, given
from kerasneuro.onnx_models.operands import Operands, storable
from kerasneuro.onnx_models.operators.elementwise import apply
from kerasneuro.onnx_models.values import Constant, Tensor, Value
from kerasneuro.onnx_models.walker import Walker, operator
from kerasneuro.weights.onnx_graph import OnnxNode


def _dense(walk: Walker, value: Tensor, kernel: np.ndarray, bias: np.ndarray | None) -> Tensor:
    layer = keras.layers.Dense(
        kernel.shape[1],
        use_bias=bias is not None,
        kernel_initializer=HostGlorotUniform(),
        name=walk.name(),
    )
    stored = walk.layer(layer, walk.plain(value), [("kernel", kernel), ("bias", bias)])
    return walk.tensor(stored, range(value.rank), [*value.dims[:-1], None])


@operator("Gemm")
def gemm(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert Gemm: Dense where the second factor is a matrix of weights."""
    first, second, third = given(inputs, 0), given(inputs, 1), given(inputs, 2)
    swap_first, swap_second = (bool(node.attributes.get(name, 0)) for name in ("transA", "transB"))
    alpha, beta = (float(node.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    if isinstance(first, Tensor) and isinstance(second, Constant) and not swap_first:
        kernel = storable(second.array.T if swap_second else second.array) * np.float32(alpha)
        if third is None:
            return _dense(walk, first, kernel, None)
        if isinstance(third, Constant) and third.array.size in (1, kernel.shape[1]):
            bias = np.broadcast_to(third.array.reshape(-1), kernel.shape[1:]) * np.float32(beta)
            return _dense(walk, first, kernel, bias)
    operands = Operands(walk).add(first, 2, range(2)).add(second, 2, range(2))
    settings = {"swap_first": swap_first, "swap_second": swap_second, "factor": alpha}
    product = walk.tensor(walk.apply(OnnxMatMul, operands, settings), range(2))
    if third is None:
        return product
    scaled = apply(walk, "mul", [third, Constant(np.asarray(beta, np.float32))]) if beta != 1 else third
    return apply(walk, "add", [product, scaled])


@operator("MatMul")
def matmul(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert MatMul: Dense where the second factor is a matrix of weights."""
    first, second = given(inputs, 0), given(inputs, 1)
    if isinstance(first, Tensor) and first.rank > 1 and isinstance(second, Constant) and second.rank == 2:
        return _dense(walk, first, storable(second.array), None)
    operands = Operands(walk)
    ranks = []
    for value in (first, second):
        if value is None:
            raise UnsupportedGraph("it lacks an input")
        operands.add(value, value.rank, range(value.rank))
        ranks.append(value.rank)
    stored = walk.apply(OnnxMatMul, operands, {})
    return walk.tensor(stored, range(len(stored.shape)))


@operator("Einsum")
def einsum(walk: Walker, node: OnnxNode, inputs: list[Value | None]) -> Value:
    """Convert Einsum; its letters take the order in which the tensors are stored."""
    equation = str(node.attributes.get("equation", "")).replace(" ", "")
    terms, arrow, result = equation.partition("->")
    if "." in equation or not arrow:
        raise UnsupportedGraph(f"its equation {equation!r} is not supported: it has dots, or no arrow")
    letters, operands = [], Operands(walk)
    for term, value in zip(terms.split(","), inputs, strict=True):
        order: Any = value.order if isinstance(value, Tensor) else range(len(term))
        operands.add(value, len(term), order)
        letters.append("".join(term[axis] for axis in order))
    stored = walk.apply(OnnxEinsum, operands, {"equation": f"{','.join(letters)}->{result}"})
    return walk.tensor(stored, range(len(result)), channel=data(inputs).channel)
