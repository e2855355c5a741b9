"""What every reader returns: an ordered mapping from name to an array that is read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kerasneuro.errors import WeightsCorrupt, WeightsMismatch

Layers = tuple[tuple[str, tuple[str, ...]], ...]
BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class LazyArray:
    """One array of an open weight file: its shape and type are known, its values are read on demand.

    Attributes
    ----------
    name : str
        Key in the file.
    shape : tuple of int
        Shape as stored, in the axis order of the file.
    dtype : numpy.dtype
        Type that `read` returns (bfloat16 is returned as float32).
    offset : int or None
        Where the values begin in the file, if they lie there in one piece, in C order, as they are in memory.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[Any], np.ndarray] = field(repr=False, compare=False)
    offset: int | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """Bytes that the whole array takes in memory."""
        return self.size * self.dtype.itemsize

    def read(self, selection: Any = None) -> np.ndarray:
        """Read the array, or a part of it, from the file.

        Parameters
        ----------
        selection : slice, int, Ellipsis or tuple of these, optional
            Part to read, as in NumPy's basic indexing; the whole array by default.

        Returns
        -------
        numpy.ndarray
            A fresh array in native byte order.

        Raises
        ------
        WeightsCorrupt
            If the bytes can not be read.
        """
        try:
            return self.load(... if selection is None else selection)
        except (OSError, RuntimeError, ValueError) as error:
            if isinstance(error, WeightsCorrupt):
                raise
            raise WeightsCorrupt(
                f"the array {self.name!r} can not be read: {error}; fetch it again"
            ) from error

    def blocks(self, most_bytes: int = BLOCK_BYTES) -> Iterator[np.ndarray]:
        """Read the array in consecutive parts that fit into little memory.

        Parameters
        ----------
        most_bytes : int
            Most bytes of one part (at least one element is read).

        Yields
        ------
        numpy.ndarray
            Parts along one axis (the first one whose steps fit); their elements, one part after the other,
            are the elements of the array in C order.

        Raises
        ------
        WeightsCorrupt
            If the bytes can not be read.
        """
        if not self.shape:
            yield self.read()
            return
        steps = [prod(self.shape[axis + 1 :]) * self.dtype.itemsize for axis in range(len(self.shape))]
        axis = next((axis for axis, step in enumerate(steps) if step <= most_bytes), len(steps) - 1)
        count = max(1, most_bytes // max(1, steps[axis]))
        for lead in np.ndindex(*self.shape[:axis]):
            for start in range(0, self.shape[axis], count):
                yield self.read((*lead, slice(start, start + count)))


class WeightStore(Mapping[str, LazyArray]):
    """The arrays of one open weight file, in the order of the file.

    Attributes
    ----------
    path : Path
        The file.
    format : str
        "keras-h5", "kerasneuro-h5", "torchscript", "torch-zip", "torch-legacy", "savedmodel" or
        "onnx".
    layers : tuple of (str, tuple of str)
        For Keras files: the layers that own weights, in file order, each with the keys of its arrays.
    attributes : dict of str to str
        Texts beside the arrays: ``model_config`` (JSON, not interpreted here), ``keras_version``,
        provenance, the numbers and texts at the top of a PyTorch checkpoint, or ``producer``, ``ir_version``
        and ``opset`` of an ONNX file.
    """

    def __init__(
        self,
        path: Path,
        format: str,
        arrays: Mapping[str, LazyArray],
        *,
        layers: Layers = (),
        attributes: Mapping[str, str] | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.format = format
        self.layers = layers
        self.attributes = dict(attributes or {})
        self._arrays = dict(arrays)
        self._close = close

    def __getitem__(self, key: str) -> LazyArray:
        return self._arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"<WeightStore {self.path.name!r} ({self.format}): {len(self)} arrays, {self.nbytes} bytes>"

    @property
    def nbytes(self) -> int:
        """Bytes that all arrays together take in memory."""
        return sum(array.nbytes for array in self.values())

    @property
    def roots(self) -> tuple[str, ...]:
        """First components of the keys (``model`` of ``model.conv.weight``), in the order of the file."""
        separator = "/" if self.format.endswith("h5") else "."
        return tuple(dict.fromkeys(key.split(separator)[0] for key in self))

    def sub(self, root: str) -> WeightStore:
        """Return the arrays below one root, without it: ``model.conv.weight`` becomes ``conv.weight``.

        Raises
        ------
        WeightsMismatch
            If no key lies below `root`.
        """
        return self.sub_prefix(root + ("/" if self.format.endswith("h5") else "."))

    def sub_prefix(self, prefix: str) -> WeightStore:
        """Return the arrays whose key starts with `prefix`, with that text removed from the keys.

        Raises
        ------
        WeightsMismatch
            If no key starts with `prefix`.
        """
        arrays = {key[len(prefix) :]: array for key, array in self.items() if key.startswith(prefix)}
        if not arrays:
            found = ", ".join(self.roots[:8]) or "nothing"
            raise WeightsMismatch(f"{self.path} holds no array named {prefix}...; it holds {found}")
        kept = ((layer, [key for key in keys if key.startswith(prefix)]) for layer, keys in self.layers)
        layers = tuple((layer, tuple(key[len(prefix) :] for key in keys)) for layer, keys in kept if keys)
        return WeightStore(
            self.path, self.format, arrays, layers=layers, attributes=self.attributes, close=self._close
        )

    def close(self) -> None:
        """Close the file; arrays not yet read can not be read any more."""
        self._close()

    def __enter__(self) -> WeightStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
