"""Seeded random weights that depend on a variable's name alone, so that a network and its twin agree.

With equal weights and equal input the outputs must agree to rounding: run.py reports the difference, which
shows that both did the same work.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import operations

PLANES = ("fastsurfer",)
"""The 2-D networks."""
CHANNELS = {"fastsurfer": 7, "fcd": 2}
"""Input channels, where there are several."""


def values(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 array of the variable `path`, in the layout of Keras (k, ..., in, out)."""
    draws = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(shape, dtype=np.float32)
    if path.endswith("/g"):
        return math.sqrt(2) * (1 + draws / 10)
    if path.endswith(("/gamma", "/moving_variance")):
        return np.exp(draws / 10)
    if len(shape) < 4:
        return draws / 10
    # He scaling keeps the activations of a deep network near 1.
    return draws * math.sqrt(2 * shape[-1] / math.prod(shape))


def fill(model: Any) -> None:
    """Give every variable of a Keras model its random values."""
    for variable in model.weights:
        variable.assign(values(variable.path, tuple(variable.shape)))


def random_input(family: str, edge: int, batch: int) -> np.ndarray:
    """Return standard normal float32 blocks (batch, edge, edge, edge, C) or slices (batch, edge, edge, C)."""
    spatial = (edge, edge) if family in PLANES else (edge, edge, edge)
    spatial = operations.hsf_crop(edge) if family == "hsf" else spatial
    shape = (*spatial, CHANNELS.get(family, 1))
    return np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32)
