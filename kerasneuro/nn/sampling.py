"""Sample a volume at arbitrary places: linear and nearest, batched, in any dimension.

The rules are those of ``interpn`` (adalca/neurite@7c4b05e, ``neurite/tf/utils/utils.py``) and of the
resampling of images in freesurfer/surfa@14d8583, ``surfa/image/interp.pyx``. They differ in which places
count as outside, see `DOMAINS`.

A field of vectors is read by one index per corner for all its components: the volume is seen as a table of
voxels whose rows are the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import keras
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.nn import sampling_torch

METHODS = ("linear", "nearest")
DOMAINS = {
    "centres": "[0, n - 1], between the centres of the first and last voxel; ties go to the even neighbour",
    "voxels": "[0, n), as far as one voxel past the last centre; ties go away from zero",
}


def sample(
    volume: Any,
    places: Any,
    method: str = "linear",
    fill_value: float | None = None,
    domain: str = "centres",
) -> Any:
    """Sample a volume at a list or grid of places.

    Parameters
    ----------
    volume : tensor (B, X, Y, Z, C) or (B, X, Y, C)
        What is sampled; any dtype for "nearest".
    places : tensor (B, ..., N)
        Zero-based voxel coordinates along the N axes of the volume. A batch of 1 serves for all volumes.
    method : {"linear", "nearest"}
    fill_value : float, optional
        Value outside the domain; None repeats the border.
    domain : {"centres", "voxels"}
        What counts as outside and where ties go, see `DOMAINS`; only with a fill value, except for ties.

    Returns
    -------
    tensor (B, ..., C)

    Raises
    ------
    InvalidOption
        If `method` or `domain` is none of these.
    """
    places = ops.convert_to_tensor(places)
    axes = [places[..., axis] for axis in range(places.shape[-1])]
    return sample_axes(volume, axes, method, fill_value, domain)


def sample_axes(
    volume: Any,
    places: Sequence[Any],
    method: str = "linear",
    fill_value: float | None = None,
    domain: str = "centres",
) -> Any:
    """Sample a volume as `sample`, from one tensor of coordinates ``(B, ...)`` per axis."""
    places = tuple(ops.convert_to_tensor(place) for place in places)
    return _run(_sample, volume, places, len(places[0].shape), method, fill_value, domain)


def sample_displaced(
    volume: Any,
    displacement: Any,
    method: str = "linear",
    fill_value: float | None = None,
    domain: str = "centres",
) -> Any:
    """Sample a volume as `sample`, at ``x + u(x)`` for the voxels x of a displacement (B, X', Y', Z', N)."""
    displacement = ops.convert_to_tensor(displacement)
    return _run(_displace, volume, displacement, len(displacement.shape), method, fill_value, domain)


def spatial_sizes(volume: Any) -> list[Any]:
    """Return the lengths of the spatial axes of ``(B, ..., C)``: integers, or tensors if still unknown."""
    return list(ops.shape(volume)[1:-1])


def grid_axes(sizes: Sequence[Any]) -> list[Any]:
    """Return the voxel indices along each of N axes, float32, shaped to broadcast over ``(B, ...)``."""
    rank = len(sizes)
    return [
        ops.reshape(
            ops.arange(size, dtype="float32"), [-1 if place == axis else 1 for place in range(-1, rank)]
        )
        for axis, size in enumerate(sizes)
    ]


def component_major(volume: Any) -> Any:
    """Store the channels of (B, ..., C) one after the other where PyTorch computes faster so; no new axes."""
    if keras.backend.backend() != "torch":
        return volume
    return volume.movedim(-1, 1).contiguous().movedim(1, -1)


def displaced(displacement: Any, first: Sequence[int] = ()) -> list[Any]:
    """Return ``x + u(x)`` as one tensor of coordinates (B, X, Y, Z) per axis; x begins at `first`, or 0."""
    axes = grid_axes(spatial_sizes(displacement))
    for axis, start in enumerate(first):
        axes[axis] = axes[axis] + start
    return [place + displacement[..., axis] for axis, place in enumerate(axes)]


def _run(
    function: Callable[..., Any],
    volume: Any,
    where: Any,
    rank: int,
    method: str,
    fill_value: float | None,
    domain: str,
) -> Any:
    if method not in METHODS:
        raise InvalidOption(f"method is 'linear' or 'nearest', found {method!r}")
    if domain not in DOMAINS:
        raise InvalidOption(f"domain is 'centres' or 'voxels', found {domain!r}")
    volume = ops.convert_to_tensor(volume)
    compiled = _compiled(function, len(volume.shape), volume.shape[-1], rank)
    return compiled(volume, where, method, fill_value, domain)


@cache
def _compiled(function: Callable[..., Any], rank: int, channels: int, other_rank: int) -> Callable[..., Any]:
    """Fuse the many small steps of sampling into one pass over memory, where the backend has a compiler.

    TensorFlow gets a function for each set of ranks: one for all would lose track of them.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False, jit_compile=True, reduce_retracing=True)
    if backend == "jax":
        import jax

        return jax.jit(function, static_argnums=(2, 3, 4))
    return function


def _displace(volume: Any, displacement: Any, method: str, fill_value: float | None, domain: str) -> Any:
    if keras.backend.backend() != "torch" or sampling_torch.is_differentiated(volume, displacement):
        return _sample(volume, displaced(displacement), method, fill_value, domain)
    if method == "linear" and fill_value is None and displacement.shape[-1] in (2, 3):
        return sampling_torch.displace_linear(volume, displacement)

    def sample_tile(tile: Any, first: tuple[int, int]) -> Any:
        return _sample(volume, displaced(tile, first), method, fill_value, domain)

    return sampling_torch.displace(volume, displacement, sample_tile)


def _sample(volume: Any, places: Sequence[Any], method: str, fill_value: float | None, domain: str) -> Any:
    sizes = spatial_sizes(volume)
    if method == "nearest":
        result = _nearest(volume, places, sizes, domain)
    elif keras.backend.backend() == "torch" and len(sizes) in (2, 3):
        result = sampling_torch.sample_linear(volume, places, sizes)
    else:
        result = _linear(volume, places, sizes)
    if fill_value is None:
        return result
    inside = _inside(places, sizes, domain)
    return ops.where(inside[..., None], result, ops.cast(fill_value, result.dtype))


def _linear(volume: Any, places: Sequence[Any], sizes: Sequence[Any]) -> Any:
    """Blend the 2**N voxels around each place; the border repeats outside."""
    index: Any = 0
    fractions, steps = [], []
    for axis, (place, size) in enumerate(zip(places, sizes, strict=True)):
        low = ops.clip(ops.floor(place), 0, as_float(at_least(size - 2, 0)))
        fraction = ops.clip(place, 0, as_float(size - 1)) - low
        fractions.append(ops.cast(fraction, volume.dtype)[..., None])
        index = index * size + ops.cast(low, "int32")
        steps.append(at_most(size - 1, 1) * _product(sizes[axis + 1 :]))
    table, index = _table(volume, index, sizes)

    def blend(axis: int, index: Any) -> Any:
        if axis == len(sizes):
            return _rows(table, index)
        if isinstance(steps[axis], int) and steps[axis] == 0:
            return blend(axis + 1, index)
        fraction = fractions[axis]
        return blend(axis + 1, index) * (1 - fraction) + blend(axis + 1, index + steps[axis]) * fraction

    return blend(0, index)


def _nearest(volume: Any, places: Sequence[Any], sizes: Sequence[Any], domain: str) -> Any:
    index: Any = 0
    for place, size in zip(places, sizes, strict=True):
        if domain == "centres":
            closest = ops.round(place)
        else:  # place + 0.5 would be rounded itself
            floor = ops.floor(place)
            closest = floor + ops.cast(place - floor >= 0.5, place.dtype)
        index = index * size + ops.cast(ops.clip(closest, 0, as_float(size - 1)), "int32")
    return _rows(*_table(volume, index, sizes))


def _inside(places: Sequence[Any], sizes: Sequence[Any], domain: str) -> Any:
    inside: Any = None
    for place, size in zip(places, sizes, strict=True):
        below = place <= as_float(size - 1) if domain == "centres" else place < as_float(size)
        here = ops.logical_and(place >= 0, below)
        inside = here if inside is None else ops.logical_and(inside, here)
    return inside


def _table(volume: Any, index: Any, sizes: Sequence[Any]) -> tuple[Any, Any]:
    """See the volumes of a batch as one table of voxels; move the indices to the rows of their volume."""
    batch = ops.shape(volume)[0]
    table = ops.reshape(volume, (-1, volume.shape[-1]))
    if isinstance(batch, int) and batch == 1:
        return table, index
    first = ops.arange(batch, dtype="int32") * _product(sizes)
    return table, index + ops.reshape(first, (-1, *[1] * len(index.shape[1:])))


def _rows(table: Any, index: Any) -> Any:
    """Read the rows of a table ``(rows, C)``; all indices are valid."""
    if keras.backend.backend() == "jax":
        return table.at[index].get(mode="clip")  # `take` would look for places to fill with NaN
    return ops.take(table, index, axis=0)


def as_float(size: Any) -> Any:
    """Return the length of an axis as a float: a number, or a scalar tensor."""
    return float(size) if isinstance(size, int) else ops.cast(size, "float32")


def at_least(size: Any, least: int) -> Any:
    """Return the larger of a length and a number."""
    return max(size, least) if isinstance(size, int) else ops.maximum(size, least)


def at_most(size: Any, most: int) -> Any:
    """Return the smaller of a length and a number."""
    return min(size, most) if isinstance(size, int) else ops.minimum(size, most)


def _product(sizes: Sequence[Any]) -> Any:
    product: Any = 1
    for size in sizes:
        product = product * size
    return product
