"""Convolution kernels of PyTorch in the axis order of Keras."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kerasneuro.weights.assign import Entry
from kerasneuro.weights.store import LazyArray


def reorder_kernel(array: np.ndarray) -> np.ndarray:
    """Turn a kernel ``(out, in, *space)`` into ``(*space, in, out)``.

    That of a transposed convolution, ``(in, out, *space)``, becomes ``(*space, out, in)``, as Keras keeps it.
    """
    return array.transpose((*range(2, array.ndim), 1, 0))


def restore_kernel(array: np.ndarray) -> np.ndarray:
    """Undo `reorder_kernel`."""
    return array.transpose((array.ndim - 1, array.ndim - 2, *range(array.ndim - 2)))


def kernel_entry(store: Mapping[str, LazyArray], key: str, rank: int) -> Entry:
    """Describe a kernel of a file for a weight table.

    Parameters
    ----------
    store : mapping
        The arrays of the file; they tell the shape, where the array is there with this rank.
    key : str
        Name of the kernel in the file.
    rank : int
        Its axes: those of space and two more.

    Returns
    -------
    Entry
        For `kerasneuro.weights.assign`.
    """
    shape = tuple(store[key].shape) if key in store else ()
    known = (*shape[2:], shape[1], shape[0]) if len(shape) == rank else None
    return Entry((key,), reorder_kernel, known, restore_kernel)
