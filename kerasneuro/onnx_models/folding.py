"""Compute with NumPy what depends on constants and on the sizes of tensors alone.

Arrays of sizes are arrays of objects, so that most functions of NumPy work on them, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.onnx_models.growth import check_growth, limited
from kerasneuro.onnx_models.symbols import Size, combine, compare
from kerasneuro.weights.onnx_graph import OnnxNode
from kerasneuro.weights.onnx_tensor import DTYPES

Array = np.ndarray
INTEGERS = ("int", "uint")


class Unknown(Exception):
    """The result depends on sizes in a way that needs a tensor."""


def fold(node: OnnxNode, opset: int, arrays: Sequence[Array | None], dtypes: Sequence[str]) -> Any:
    """Compute one node.

    Parameters
    ----------
    node : OnnxNode
    opset : int
    arrays : sequence of numpy.ndarray or None
        The inputs; arrays of objects hold sizes.
    dtypes : sequence of str
        Declared types of the inputs.

    Returns
    -------
    list of (numpy.ndarray, str) or None
        The outputs and their types; None if NumPy does not compute this operator here.

    Raises
    ------
    WeightsCorrupt
        If the result would be larger than any weight.
    """
    if node.op_type not in FOLDS:
        return None
    check_growth(node, arrays)
    try:
        found = FOLDS[node.op_type](_Inputs(node, opset, arrays, dtypes))
    except Unknown:
        return None
    return found if isinstance(found, list) else [found]


class _Inputs:
    """The inputs and attributes of a node."""

    def __init__(
        self, node: OnnxNode, opset: int, arrays: Sequence[Array | None], dtypes: Sequence[str]
    ) -> None:
        self.node, self.opset, self.arrays, self.dtypes = node, opset, arrays, dtypes

    def __getitem__(self, place: int) -> Array:
        found = self.arrays[place] if place < len(self.arrays) else None
        if found is None:
            raise WeightsCorrupt(f"{self.node.op_type} (node {self.node.name!r}) lacks input {place}")
        return found

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attributes.get(name, default)

    def integers(self, name: str, place: int) -> list[int] | None:
        """Return a list that is an attribute in older versions and an input in newer ones."""
        if name in self.node.attributes:
            return [int(value) for value in self.node.attributes[name]]
        if place < len(self.arrays) and self.arrays[place] is not None:
            return whole(self[place])
        return None


def whole(array: Array) -> list[int]:
    """Return integers; sizes that are not known yet are refused."""
    if any(isinstance(value, Size) for value in array.flat):
        raise Unknown
    return [int(value) for value in array.flat]


def as_array(items: Any, like: Array | None = None) -> Array:
    """Return an array of objects where it holds sizes, else of integers."""
    array = np.asarray(items, dtype=object)
    return array if any(isinstance(item, Size) for item in array.flat) else array.astype(np.int64)


def _elementwise(plain: Callable[..., Any], symbolic: Callable[..., Any]) -> Callable[[_Inputs], Any]:
    def run(given: _Inputs) -> Any:
        arrays = [given[place] for place in range(len(given.arrays))]
        if not any(array.dtype == object for array in arrays):
            return plain(*arrays), _dtype_of(plain(*arrays))
        return np.frompyfunc(symbolic, len(arrays), 1)(*arrays) + np.zeros((), object), given.dtypes[0]

    return run


def _dtype_of(array: Any) -> str:
    return str(np.asarray(array).dtype)


def _with(operation: str) -> Callable[..., Any]:
    return lambda first, second=0: combine(operation, first, second)


def _divide(given: _Inputs) -> Any:
    first, second = given[0], given[1]
    integers = given.dtypes[0].startswith(INTEGERS)
    if object in (first.dtype, second.dtype):
        operation = "floordiv" if integers else "div"
        return np.frompyfunc(_with(operation), 2, 1)(first, second) + np.zeros((), object), given.dtypes[0]
    if not integers:
        return np.divide(first, second), given.dtypes[0]
    if not second.all():
        raise WeightsCorrupt(f"divides integers by zero (node {given.node.name!r})")
    quotient = np.abs(first) // np.abs(second) * np.sign(first) * np.sign(second)
    return quotient.astype(first.dtype), given.dtypes[0]


def _compared(operation: str, plain: Callable[..., Any]) -> Callable[[_Inputs], Any]:
    def decide(first: Any, second: Any) -> bool:
        found = compare(operation, first, second)
        if found is None:
            raise Unknown
        return found

    def run(given: _Inputs) -> Any:
        if object not in (given[0].dtype, given[1].dtype):
            return plain(given[0], given[1]), "bool"
        return np.asarray(np.frompyfunc(decide, 2, 1)(given[0], given[1]), dtype=bool), "bool"

    return run


def _reduce(function: Callable[..., Any]) -> Callable[[_Inputs], Any]:
    def run(given: _Inputs) -> Any:
        axes = given.integers("axes", 1)
        if not axes and given.attribute("noop_with_empty_axes", 0):
            return given[0], given.dtypes[0]
        keep = bool(given.attribute("keepdims", 1))
        result = function(given[0], axis=tuple(axes) if axes else None, keepdims=keep)
        result = np.asarray(result, object if given[0].dtype == object else given[0].dtype)
        return result, given.dtypes[0]

    return run


def _cast(given: _Inputs) -> Any:
    to, array = DTYPES.get(int(given.attribute("to", 0))), given[0]
    if to is None:
        raise Unknown
    if array.dtype != object:
        with np.errstate(invalid="ignore"):
            return array.astype(to), to
    kind = "float" if "float" in to else "int"
    same = given.dtypes[0].startswith(INTEGERS) == (kind == "int")
    return array if same else np.frompyfunc(_with(kind), 1, 1)(array) + np.zeros((), object), to


def _gather(given: _Inputs) -> Any:
    axis, indices = int(given.attribute("axis", 0)), np.asarray(given[1].astype(np.int64))
    return np.asarray(np.take(given[0], indices, axis=axis), given[0].dtype), given.dtypes[0]


def _concat(given: _Inputs) -> Any:
    axis = int(given.attribute("axis", 0))
    return np.concatenate([given[n] for n in range(len(given.arrays))], axis=axis), given.dtypes[0]


def _slice(given: _Inputs) -> Any:
    starts, ends = given.integers("starts", 1), given.integers("ends", 2)
    axes, steps = given.integers("axes", 3), given.integers("steps", 4)
    if starts is None or ends is None:
        raise Unknown
    rank = given[0].ndim
    selection: list[slice] = [slice(None)] * rank
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = steps[place] if steps else 1
        stop = None if step < 0 and end < -given[0].size - 1 else end
        selection[axes[place] if axes else place] = slice(start, stop, step)
    return given[0][tuple(selection)], given.dtypes[0]


def _squeeze(given: _Inputs) -> Any:
    axes = given.integers("axes", 1)
    return np.squeeze(given[0], axis=tuple(axes) if axes else None), given.dtypes[0]


def _unsqueeze(given: _Inputs) -> Any:
    return np.expand_dims(given[0], tuple(given.integers("axes", 1) or ())), given.dtypes[0]


def _reshape(given: _Inputs) -> Any:
    shape, zero = whole(given[1]), bool(given.attribute("allowzero", 0))
    shape = [given[0].shape[place] if size == 0 and not zero else size for place, size in enumerate(shape)]
    return given[0].reshape(shape), given.dtypes[0]


def _expand(given: _Inputs) -> Any:
    shape = np.broadcast_shapes(given[0].shape, limited(whole(given[1])))
    return np.array(np.broadcast_to(given[0], limited(shape))), given.dtypes[0]


def _tile(given: _Inputs) -> Any:
    repeats = whole(given[1])
    limited([size * count for size, count in zip(given[0].shape, repeats, strict=True)])
    return np.tile(given[0], repeats), given.dtypes[0]


def _filled(given: _Inputs) -> Any:
    value = np.asarray(given.attribute("value", np.zeros(1, np.float32)))
    return np.full(limited(whole(given[0])), value.reshape(-1)[0], value.dtype), str(value.dtype)


def _range(given: _Inputs) -> Any:
    if any(array is not None and array.dtype == object for array in given.arrays):
        raise Unknown
    start, limit, step = (given[place].reshape(-1)[0].item() for place in range(3))
    limited([max(0, math.ceil((limit - start) / step))] if step else [-1])
    return np.arange(start, limit, step, dtype=given[0].dtype), given.dtypes[0]


def _where(given: _Inputs) -> Any:
    if given[0].dtype == object:
        raise Unknown
    return np.where(given[0], given[1], given[2]), given.dtypes[1]


def _transpose(given: _Inputs) -> Any:
    return np.transpose(given[0], given.attribute("perm")), given.dtypes[0]


def _split(given: _Inputs) -> Any:
    axis, sizes = int(given.attribute("axis", 0)), given.integers("split", 1)
    count = len(given.node.outputs)
    if sizes is None:
        each = -(-given[0].shape[axis] // count)
        sizes = [each] * (count - 1)
    places = np.cumsum(sizes)[: count - 1]
    return [(part, given.dtypes[0]) for part in np.split(given[0], places, axis=axis)]


def _same(given: _Inputs) -> Any:
    return given[0], given.dtypes[0]


def _negative(value: Any) -> Any:
    return -value


FOLDS: dict[str, Callable[[_Inputs], Any]] = {
    "Add": _elementwise(np.add, _with("add")), "Sub": _elementwise(np.subtract, _with("sub")),
    "Mul": _elementwise(np.multiply, _with("mul")), "Div": _divide,
    "Max": _elementwise(lambda *parts: np.maximum.reduce(parts), _with("max")),
    "Min": _elementwise(lambda *parts: np.minimum.reduce(parts), _with("min")),
    "Neg": _elementwise(np.negative, _negative), "Sqrt": _elementwise(np.sqrt, _with("sqrt")),
    "Floor": _elementwise(np.floor, _with("floor")), "Ceil": _elementwise(np.ceil, _with("ceil")),
    "Equal": _compared("equal", np.equal), "Less": _compared("less", np.less),
    "Greater": _compared("greater", np.greater), "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum), "Cast": _cast, "Gather": _gather, "Concat": _concat, "Slice": _slice,
    "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Reshape": _reshape, "Expand": _expand, "Tile": _tile,
    "ConstantOfShape": _filled, "Range": _range, "Where": _where, "Transpose": _transpose, "Split": _split,
    "Identity": _same, "Dropout": _same,
}  # fmt: skip
