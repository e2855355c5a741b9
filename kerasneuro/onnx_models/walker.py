"""Go through an ONNX graph and build the Keras graph node by node."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from kerasneuro.errors import KerasNeuroError, UnsupportedGraph
from kerasneuro.nn.onnx.shaping import OnnxReshape, OnnxSizes, OnnxTranspose
from kerasneuro.onnx_models.arguments import stated_value
from kerasneuro.onnx_models.folding import fold
from kerasneuro.onnx_models.growth import check_growth
from kerasneuro.onnx_models.operands import Operands, storable
from kerasneuro.onnx_models.symbols import Size
from kerasneuro.onnx_models.values import (
    Constant,
    Dimension,
    Sizes,
    Tensor,
    Value,
    as_value,
    channels_last,
)
from kerasneuro.weights.onnx_graph import OnnxGraph, OnnxNode

Handler = Callable[["Walker", OnnxNode, list[Value | None]], "Value | Sequence[Value | None] | None"]
# Operators whose result can be far larger than their inputs: never computed while converting.
GROWING = ("Pad", "Resize", "Upsample", "Conv", "ConvTranspose", "Einsum", "ConvInteger", "QLinearConv")
# What Keras and NumPy raise when an operator does not fit its inputs.
FAILURES = (ValueError, TypeError, KeyError, IndexError, ArithmeticError, RuntimeError, MemoryError)
HANDLERS: dict[str, Handler] = {}


def operator(*names: str) -> Callable[[Handler], Handler]:
    """Register the function that converts some operators."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


class Walker:
    """The state of one conversion: what each name of the ONNX graph has become.

    Parameters
    ----------
    graph : OnnxGraph
    nodes : sequence of OnnxNode
        The nodes to convert, in order.
    """

    def __init__(self, graph: OnnxGraph, nodes: Sequence[OnnxNode]) -> None:
        self.graph, self.nodes, self.opset = graph, nodes, graph.opset
        self.values: dict[str, Value] = {
            name: Constant(array, trainable=bool(array.shape) and array.dtype.kind == "f")
            for name, array in graph.initialisers.items()
        }
        self.tensors: list[Any] = []
        self._names: set[str] = set()
        self._ordered: dict[tuple[int, tuple[int, ...]], Any] = {}
        self._node = OnnxNode("")

    def run(self) -> None:
        """Convert every node.

        Raises
        ------
        UnsupportedGraph
            If an operator, or the way it is used, has no counterpart.
        """
        left = self._last_uses()
        for place, node in enumerate(self.nodes):
            self._node = node
            found = self._convert(node, [self.values[name] if name else None for name in node.inputs])
            for name, value in zip(node.outputs, found, strict=False):
                if name and value is not None:
                    self.values[name] = value
            for name in left.get(place, ()):
                self.values.pop(name, None)

    def _last_uses(self) -> dict[int, list[str]]:
        """Return place of a node -> names that no later node needs, so that arrays do not pile up."""
        kept = {value.name for value in self.graph.outputs}
        last = {name: place for place, node in enumerate(self.nodes) for name in node.inputs}
        free: dict[int, list[str]] = {}
        for name, place in last.items():
            if name and name not in kept:
                free.setdefault(place, []).append(name)
        return free

    def _convert(self, node: OnnxNode, inputs: list[Value | None]) -> Sequence[Value | None]:
        try:
            if node.domain or (node.op_type not in HANDLERS and node.op_type != "Constant"):
                raise UnsupportedGraph("this operator is not supported")
            folded = self._fold(node, inputs)
            if folded is not None:
                return folded
            eager = bool(inputs) and not any(isinstance(value, Tensor | Sizes) for value in inputs)
            given = self._eager_inputs(node, inputs) if eager else inputs
            found = HANDLERS[node.op_type](self, node, given)
            results: Sequence[Value | None] = found if isinstance(found, Sequence) else [found]
            return [_as_constant(value) for value in results] if eager else results
        except UnsupportedGraph as error:
            raise self.refusal(str(error)) from error
        except KerasNeuroError:
            raise
        except FAILURES as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise self.refusal(f"it cannot be converted: {reason}") from error

    def refusal(self, reason: str) -> UnsupportedGraph:
        """Name the operator, the node and the version in an error."""
        node = self._node
        kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        name = (node.name or "/".join(node.outputs))[:200]
        version = self.graph.opsets.get(node.domain, 0)
        return UnsupportedGraph(f"{self.graph.path}: {kind} (node {name!r}, opset {version}): {reason}")

    def _fold(self, node: OnnxNode, inputs: list[Value | None]) -> list[Value] | None:
        if node.op_type == "Constant":
            return [Constant(stated_value(node))]
        if any(isinstance(value, Tensor) for value in inputs):
            return None
        arrays, dtypes, trainable = [], [], False
        for value in inputs:
            array = None if not isinstance(value, Constant | Sizes) else value.array
            arrays.append(array)
            dtypes.append(value.dtype if isinstance(value, Sizes) else str(getattr(array, "dtype", "")))
            trainable |= isinstance(value, Constant) and value.trainable
        found = fold(node, self.opset, arrays, dtypes)
        return found and [as_value(np.asarray(array), dtype, trainable) for array, dtype in found]

    # Tensors and layers.

    def name(self, suffix: str = "") -> str:
        """Return a name for a layer that stands for the present node: its own, cleaned, and unique."""
        node = self._node
        given = node.name or f"{node.op_type}_{'_'.join(node.outputs[:1])}"
        return self.unique(f"{given}{suffix}")

    def unique(self, given: str) -> str:
        """Return a name of letters, digits and underscores that was not used before."""
        clean = re.sub("[^A-Za-z0-9]+", "_", given)[-200:].strip("_") or "value"
        clean = clean if clean[0].isalpha() else f"n_{clean}"
        name, count = clean, 1
        while name in self._names:
            name, count = f"{clean}_{count}", count + 1
        self._names.add(name)
        return name

    def tensor(
        self,
        stored: Any,
        order: Sequence[int],
        dims: Sequence[Dimension | None] | None = None,
        *,
        channel: int | None = 1,
        dtype: str | None = None,
    ) -> Tensor:
        """Wrap a stored tensor; sizes that are not known get a name.

        Parameters
        ----------
        stored : KerasTensor
        order : sequence of int
            ONNX axis of each stored axis.
        dims : sequence of (int, Size or None), optional
            What is known of each ONNX axis besides the shape of `stored`.
        channel, dtype
            See `Tensor`; by default the type of `stored`.
        """
        number = len(self.tensors)
        self.tensors.append(stored)
        sizes: list[Any] = [*dims] if dims is not None else [None] * len(order)
        for place, axis in enumerate(order):
            static = stored.shape[place]
            if static is not None:
                sizes[axis] = int(static)
            elif not isinstance(sizes[axis], Size):
                sizes[axis] = Size("dim", number, place)
        kind = dtype or keras.backend.standardize_dtype(stored.dtype)
        return Tensor(stored, tuple(order), tuple(sizes), channel if channel in order else None, kind)

    def ordered(self, value: Tensor, order: Sequence[int]) -> Any:
        """Return the stored tensor with its axes in another order, moved only where that is needed."""
        wanted = tuple(order)
        if wanted == value.order:
            return value.keras
        key = (id(value.keras), tuple(value.order.index(axis) for axis in wanted))
        if key not in self._ordered:
            self._ordered[key] = self._moved(value, wanted)
        return self._ordered[key]

    def _moved(self, value: Tensor, wanted: tuple[int, ...]) -> Any:
        axes = [value.order.index(axis) for axis in wanted]
        moving = [axis for axis in axes if value.dims[value.order[axis]] != 1]
        if moving == sorted(moving):
            return self.reshaped(value, [value.dims[axis] for axis in wanted])
        if axes[0] == 0 and len(axes) > 1:
            return keras.layers.Permute(axes[1:], name=self.name("_permute"))(value.keras)
        operands = Operands(self).tensor(value.keras)
        return self.apply(OnnxTranspose, operands, {"axes": axes}, suffix="_transpose")

    def reshaped(self, value: Tensor, sizes: Sequence[Dimension], suffix: str = "_reshape") -> Any:
        """Return the stored tensor in another shape (C order of what is stored)."""
        operands = Operands(self).tensor(value.keras)
        free = {place: size for place, size in enumerate(sizes) if isinstance(size, Size)}
        shape: list[Any] = [*sizes]
        if free and -1 not in shape and 0 not in shape:
            computed = [place for place, size in free.items() if size.operation != "dim"]
            shape[(computed or [*free])[0]] = -1
        return self.apply(OnnxReshape, operands, {"shape": operands.expressions(shape)}, suffix=suffix)

    def plain(self, value: Tensor) -> Any:
        """Return the stored tensor in ONNX order."""
        return self.ordered(value, range(value.rank))

    def image(self, value: Tensor) -> Any:
        """Return the stored tensor with its channels last."""
        return self.ordered(value, channels_last(value.rank))

    def apply(
        self,
        layer: type[Any],
        operands: Operands,
        settings: dict[str, Any],
        *,
        suffix: str = "",
        **options: Any,
    ) -> Any:
        """Call a new `OnnxLayer` on operands, and give its weights their values."""
        made = layer(operands=operands.entries, settings=settings, name=self.name(suffix), **options)
        given = operands.tensors[0] if len(operands.tensors) == 1 else operands.tensors
        result = made(given)
        for name, array in operands.arrays.items():
            made.constants[name].assign(array)
        return result if _symbolic(given) else made(given)

    def layer(self, layer: Any, stored: Any, values: Iterable[tuple[str, np.ndarray | None]] = ()) -> Any:
        """Call a new layer of Keras, and give its variables their values by attribute."""
        result = layer(stored)
        for attribute, array in values:
            if array is not None:
                getattr(layer, attribute).assign(storable(array))
        return result if _symbolic(stored) else layer(stored)

    def _eager_inputs(self, node: OnnxNode, inputs: list[Value | None]) -> list[Value | None]:
        """Return constants with the first one as a tensor, so that a layer can compute with it at once."""
        first = inputs[0]
        if node.op_type in GROWING or not isinstance(first, Constant):
            raise UnsupportedGraph("it is used on constants alone, which is not supported")
        check_growth(node, [value.array for value in inputs if isinstance(value, Constant)])
        tensor = self.tensor(keras.ops.convert_to_tensor(storable(first.array)), range(first.rank))
        return [tensor, *inputs[1:]]

    def as_tensor(self, value: Value) -> Tensor:
        """Return sizes as a tensor of the graph.

        Raises
        ------
        UnsupportedGraph
            If it is a constant, where a tensor is needed.
        """
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Sizes):
            operands = Operands(self).add(value, value.rank, range(value.rank))
            return self.tensor(self.apply(OnnxSizes, operands, {}, suffix="_sizes"), range(value.rank))
        raise UnsupportedGraph("it is used on a constant, which is not supported")


def _symbolic(stored: Any) -> bool:
    """Say whether a layer was called to build a graph, not on values (its weights were not yet set then)."""
    return isinstance(stored[0] if isinstance(stored, list) else stored, keras.KerasTensor)


def _as_constant(value: Value | None) -> Value | None:
    """Return a tensor with values as a constant in ONNX order."""
    if not isinstance(value, Tensor):
        return value
    array = np.asarray(keras.ops.convert_to_numpy(value.keras))
    back = [value.order.index(axis) for axis in range(value.rank)]
    return Constant(np.transpose(array, back), trainable=bool(array.ndim) and array.dtype.kind == "f")
