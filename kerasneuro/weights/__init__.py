"""Read the arrays of weight files without running anything from them, and assign them to a graph."""

from __future__ import annotations

from kerasneuro.weights.assign import Entry, assign
from kerasneuro.weights.flat_h5 import write_flat
from kerasneuro.weights.read import read
from kerasneuro.weights.store import LazyArray, WeightStore

__all__ = ["Entry", "LazyArray", "WeightStore", "assign", "read", "write_flat"]
