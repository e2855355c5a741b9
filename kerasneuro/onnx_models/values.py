"""The kinds of values in a graph that is being converted: arrays, sizes, and tensors of the new graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kerasneuro.onnx_models.symbols import Size
from kerasneuro.weights import LazyArray

Dimension = int | Size


@dataclass
class Constant:
    """An array that does not depend on the inputs, in ONNX order.

    Attributes
    ----------
    source : numpy.ndarray or LazyArray
        The values, or where they are.
    trainable : bool
        It is a weight of the file, not a number of the program.
    """

    source: np.ndarray | LazyArray
    trainable: bool = False
    _array: np.ndarray | None = field(default=None, repr=False)

    @property
    def array(self) -> np.ndarray:
        """The values, read on first use."""
        if self._array is None:
            self._array = self.source.read() if isinstance(self.source, LazyArray) else self.source
        return self._array

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.source.shape)


@dataclass
class Sizes:
    """Numbers of which some depend on the sizes of the inputs; an array of objects, and the declared type."""

    array: np.ndarray
    dtype: str = "int64"

    @property
    def rank(self) -> int:
        """Number of axes."""
        return int(self.array.ndim)


@dataclass
class Tensor:
    """A tensor of the new graph.

    Attributes
    ----------
    keras : KerasTensor
        The tensor as it is stored.
    order : tuple of int
        ONNX axis that each stored axis holds; (0, 2, 3, 4, 1) for a volume with its channels last.
    dims : tuple of (int or Size)
        Size of each ONNX axis.
    channel : int, optional
        The ONNX axis of the channels, if there still is one.
    dtype : str
        Declared type; the steps of quantised tensors are stored as float32.
    """

    keras: Any
    order: tuple[int, ...]
    dims: tuple[Dimension, ...]
    channel: int | None = 1
    dtype: str = "float32"

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.order)

    @property
    def plain(self) -> bool:
        """Say whether it is stored in ONNX order."""
        return self.order == tuple(range(self.rank))

    def stored(self, axis: int) -> int:
        """Return where an ONNX axis, which may count from the end, is stored."""
        return self.order.index(axis % self.rank)


Value = Constant | Sizes | Tensor


def channels_last(rank: int) -> tuple[int, ...]:
    """Return the stored order of an image: batch, space, channels."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


def as_value(array: np.ndarray, dtype: str = "int64", trainable: bool = False) -> Constant | Sizes:
    """Return sizes as a constant where none depends on an input any more."""
    if array.dtype != object:
        return Constant(array, trainable)
    if any(isinstance(item, Size) for item in array.flat):
        return Sizes(array, dtype)
    return Constant(array.astype(dtype), trainable)
