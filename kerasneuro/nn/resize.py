"""Resize volumes between the centres of their first and last voxels, by linear or nearest interpolation.

The rule is that of ``resize`` of adalca/neurite@7c4b05e, ``neurite/tf/utils/utils.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.nn.sampling import METHODS, as_float, at_least, at_most


def resize(volume: Any, factor: float | Sequence[float], method: str = "linear") -> Any:
    """Resample a volume on a grid with the same first and last voxel centres, as ``resize`` of neurite.

    Parameters
    ----------
    volume : tensor (B, X, Y, Z, C) or (B, X, Y, C)
    factor : float or one per axis
        ``int(n * factor)`` voxels take the place of n.
    method : {"linear", "nearest"}

    Returns
    -------
    tensor (B, X', Y', Z', C)
    """
    if method not in METHODS:
        raise InvalidOption(f"method is 'linear' or 'nearest', found {method!r}")
    volume = ops.convert_to_tensor(volume)
    factors = per_axis(factor, len(volume.shape) - 2)
    return _compiled_resize(len(factors), volume.shape[-1])(volume, factors, method)


def per_axis(factor: float | Sequence[float], rank: int) -> tuple[float, ...]:
    """Repeat a single factor for each axis."""
    return tuple(factor) if isinstance(factor, Sequence) else (factor,) * rank


def resized(size: int | None, factor: float) -> int | None:
    """Return the length of an axis after `resize`."""
    return None if size is None else int(size * factor)


@cache
def _compiled_resize(rank: int, channels: int) -> Callable[..., Any]:
    """Return the way to resize of the backend; see `_compiled` for the arguments."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(_resize, autograph=False, jit_compile=True, reduce_retracing=True)
    return _resize_on_torch if backend == "torch" and rank in (2, 3) else _resize


def _resize(volume: Any, factors: Sequence[float], method: str) -> Any:
    steps = [(axis, factor) for axis, factor in enumerate(factors, start=1) if factor != 1]
    # The large side of each step is then copied in long rows, and nothing grows before it must.
    for axis, factor in reversed(steps) if math.prod(factors) >= 1 else steps:
        volume = _resize_axis(volume, axis, factor, method)
    return volume


def _resize_on_torch(volume: Any, factors: Sequence[float], method: str) -> Any:
    """Resize by PyTorch's own kernel: 5 times faster than gathering."""
    import torch

    if method == "nearest":
        return _resize(volume, factors, method)
    sizes = [int(size * factor) for size, factor in zip(volume.shape[1:-1], factors, strict=True)]
    mode = "bilinear" if len(sizes) == 2 else "trilinear"
    first = volume.movedim(-1, 1)
    return torch.nn.functional.interpolate(first, size=sizes, mode=mode, align_corners=True).movedim(1, -1)


def _resize_on_jax(volume: Any, axis: int, size: int, start: Any, fraction: Any) -> Any:
    """Multiply by a matrix: gathering would be fused with, and repeat, whatever computes the volume."""
    import jax

    rows = ops.arange(size, dtype="int32")
    first = ops.cast(rows == start[:, None], volume.dtype) * (1 - fraction[:, None])
    second = ops.cast(rows == start[:, None] + 1, volume.dtype) * fraction[:, None]
    result = jax.numpy.tensordot(volume, first + second, (axis, 1), precision="highest")
    return ops.moveaxis(result, -1, axis)


def _resize_axis(volume: Any, axis: int, factor: float, method: str) -> Any:
    size = ops.shape(volume)[axis]
    if isinstance(size, int):
        places = ops.convert_to_tensor(np.linspace(0, size - 1, int(size * factor)).astype(np.float32))
    else:
        count = ops.cast(ops.cast(size, "float64") * factor, "int32")
        spacing = as_float(size - 1) / as_float(at_least(count - 1, 1))
        places = ops.arange(count, dtype="float32") * spacing
    if method == "nearest":
        return ops.take(volume, ops.cast(ops.round(places), "int32"), axis=axis)
    low = ops.clip(ops.floor(places), 0, as_float(at_least(size - 2, 0)))
    start, fraction = ops.cast(low, "int32"), ops.cast(places - low, volume.dtype)
    if keras.backend.backend() == "jax":
        return _resize_on_jax(volume, axis, size, start, fraction)
    fraction = ops.reshape(fraction, [-1 if place == axis else 1 for place in range(len(volume.shape))])
    first = ops.take(volume, start, axis=axis)
    second = ops.take(volume, start + at_most(size - 1, 1), axis=axis)
    return first * (1 - fraction) + second * fraction
