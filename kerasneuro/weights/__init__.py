"""Read the arrays of weight files without running anything from them, assign them to a graph, write them."""

from __future__ import annotations

from kerasneuro.weights.assign import Entry, assign, match, values_for
from kerasneuro.weights.checkpoint import unwrap
from kerasneuro.weights.converted import is_converted, stated_config
from kerasneuro.weights.flat_h5 import write_flat
from kerasneuro.weights.original import Original, write_original
from kerasneuro.weights.read import read
from kerasneuro.weights.store import LazyArray, WeightStore
from kerasneuro.weights.torch_kernels import kernel_entry, reorder_kernel, restore_kernel

__all__ = [
    "Entry",
    "LazyArray",
    "Original",
    "WeightStore",
    "assign",
    "is_converted",
    "kernel_entry",
    "match",
    "read",
    "reorder_kernel",
    "restore_kernel",
    "stated_config",
    "unwrap",
    "values_for",
    "write_flat",
    "write_original",
]
