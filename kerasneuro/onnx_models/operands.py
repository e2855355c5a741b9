"""Collect what a layer needs: tensors, weights, numbers and sizes, in the layout of its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.onnx_models.symbols import Size
from kerasneuro.onnx_models.values import Constant, Tensor, Value

if TYPE_CHECKING:
    from kerasneuro.onnx_models.walker import Walker

NARROWER = {
    "int64": "int32",
    "uint32": "int32",
    "uint64": "int32",
    "float64": "float32",
    "float16": "float32",
}


def storable(array: np.ndarray) -> np.ndarray:
    """Return an array in a type that every backend computes with; far bounds are cut to 32 bits."""
    name = NARROWER.get(str(array.dtype))
    if name == "int32":
        limits = np.iinfo(np.int32)
        array = np.clip(array, limits.min, limits.max)
    return np.asarray(array, name or array.dtype)


class Operands:
    """The operands of an `OnnxLayer`, one after the other.

    Attributes
    ----------
    tensors : list of KerasTensor
        The inputs of the layer.
    entries : list of dict or None
        The operands as the layer describes them.
    arrays : dict of str to numpy.ndarray
        Values of its weights.
    """

    def __init__(self, walker: Walker) -> None:
        self.walker = walker
        self.tensors: list[Any] = []
        self.entries: list[dict[str, Any] | None] = []
        self.arrays: dict[str, np.ndarray] = {}

    def tensor(self, stored: Any) -> Operands:
        """Add a stored tensor."""
        self.entries.append({"input": self._place(stored)})
        return self

    def missing(self) -> Operands:
        """Add an operand that is left out."""
        self.entries.append(None)
        return self

    def array(self, array: np.ndarray, trainable: bool = False) -> Operands:
        """Add an array in the layout that the layer needs; a number that is no weight becomes a setting."""
        if array.ndim == 0 and not trainable:
            self.entries.append({"value": array.item()})
            return self
        name = "weight" if trainable else "constant"
        name = f"{name}_{len(self.arrays)}" if self.arrays else name
        stored = storable(array)
        self.arrays[name] = stored
        self.entries.append(
            {"weight": name, "shape": [*stored.shape], "dtype": str(stored.dtype), "trainable": trainable}
        )
        return self

    def add(self, value: Value | None, rank: int, order: Sequence[int]) -> Operands:
        """Add any value so that it broadcasts with others of a rank and a stored order.

        A constant is laid out here; a tensor of lower rank gets leading axes of one element.
        """
        if value is None:
            return self.missing()
        if isinstance(value, Tensor):
            return self.tensor(self._aligned(value, rank, tuple(order)))
        shape = (1,) * (rank - value.rank) + value.array.shape
        laid = value.array.reshape(shape).transpose([*order])
        if isinstance(value, Constant):
            single = laid.size == 1 and not value.trainable
            return self.array(laid.reshape(()) if single else laid, value.trainable)
        parts = [self.expression(part) for part in laid.flat]
        dtype = "float32" if "float" in value.dtype else "int32"
        self.entries.append({"expression": parts, "shape": [*laid.shape], "dtype": dtype})
        return self

    def _aligned(self, value: Tensor, rank: int, order: tuple[int, ...]) -> Any:
        missing = rank - value.rank
        if not missing:
            return self.walker.ordered(value, order)
        plain = self.walker.tensor(self.walker.plain(value), range(value.rank), value.dims)
        wide = self.walker.reshaped(plain, (1,) * missing + plain.dims, "_expand")
        return self.walker.ordered(self.walker.tensor(wide, range(rank), (1,) * missing + plain.dims), order)

    def expression(self, size: Any) -> Any:
        """Return a size as the layer computes it; the tensors it needs become inputs."""
        if not isinstance(size, Size):
            return size if isinstance(size, int | float) else size.item()
        if size.operation == "dim":
            return ["dim", self._place(self.walker.tensors[size.first]), size.second]
        return [size.operation, self.expression(size.first), self.expression(size.second)]

    def expressions(self, sizes: Sequence[Any]) -> Any:
        """Return several sizes as a setting of the layer."""
        if not any(isinstance(size, Size) for size in sizes):
            return [size if isinstance(size, int | float) else size.item() for size in sizes]
        return {"expressions": [self.expression(size) for size in sizes]}

    def _place(self, stored: Any) -> int:
        for place, tensor in enumerate(self.tensors):
            if tensor is stored:
                return place
        self.tensors.append(stored)
        return len(self.tensors) - 1
