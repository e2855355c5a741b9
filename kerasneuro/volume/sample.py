"""Sample an image on another grid, by the rules of the sampler that SynthMorph writes its images with."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kerasneuro.errors import InvalidOption

Method = Literal["linear", "nearest"]
Coordinates = Sequence[np.ndarray]
"""Three arrays of one shape, float32: the voxel index along each axis."""
# Lower (0) or upper (1) voxel along x, y and z.
CORNERS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 0), (1, 1, 1))
Block = tuple[slice, slice, slice]
MOST_THREADS = 8
BLOCK = (32, 32, 64)  # voxels computed at once, so that all that belongs to them stays in the cache


def sample_grid(
    frames: np.ndarray,
    shape: Sequence[int],
    *,
    matrix: np.ndarray | None = None,
    displacement: np.ndarray | None = None,
    method: Method = "linear",
    fill: float = 0.0,
) -> np.ndarray:
    """Sample an image at the place that each voxel of a new grid is pulled from.

    Voxel ``x`` takes the value at ``matrix @ x`` or at ``x + displacement[x]``, computed in float32. A place
    counts as inside the image up to one voxel past the last centre, ``0 <= p < n``, where the last voxel is
    repeated; outside the value is `fill`. "nearest" rounds halves up.

    Parameters
    ----------
    frames
        Shape ``(X, Y, Z, F)``, any real type; all frames are sampled at the same places.
    shape
        The new grid, ``(x, y, z)``.
    matrix
        Shape ``(4, 4)``: voxel of the new grid to voxel of the image.
    displacement
        Shape ``(x, y, z, 3)``, float32, in voxels of the image; give this or `matrix`.
    method
        "linear" or "nearest".
    fill
        Value outside the image.

    Returns
    -------
    ndarray
        Shape ``(x, y, z, F)``: float32 if linear, the type of `frames` if nearest.

    Raises
    ------
    InvalidOption
        If the method is unknown, or a nearest `fill` does not fit the type of the image.

    Notes
    -----
    The rules are those of ``surfa/image/interp.pyx`` (freesurfer/surfa 0.6.3).
    """
    if (matrix is None) == (displacement is None):
        raise InvalidOption("sample_grid needs either a matrix or a displacement")
    dtype = np.dtype(np.float32) if method == "linear" else frames.dtype.newbyteorder("=")
    check_fill(fill, dtype)
    source = Source.of(frames)
    axes = source.order
    laid_out = np.empty((source.count, *(shape[axis] for axis in axes)), dtype)

    def fill_block(block: Block) -> None:
        grid = _grid(block, axes)
        if displacement is None:
            assert matrix is not None
            places = _multiply(matrix, grid)
        else:
            field = displacement.transpose(*axes, 3)[block]
            places = [axis + field[..., i] for i, axis in enumerate(grid)]
        sample_places(source, places, laid_out[:, *block], method=method, fill=fill)

    each_block(laid_out.shape[1:], fill_block)
    return laid_out.transpose(*(1 + axes.index(axis) for axis in range(3)), 0)


def check_fill(fill: float, dtype: np.dtype[Any]) -> None:
    """Refuse a value that a type of voxels cannot hold."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not (limits.min <= fill <= limits.max and fill == int(fill)):
            raise InvalidOption(f"the fill value {fill:g} does not fit voxels of the type {dtype.name}")


def each_block(shape: Sequence[int], work: Callable[[Block], None]) -> None:
    """Do work on every block of a grid, on several processors where there are many.

    The blocks are small along every axis, so that neighbouring voxels share what is read. As many threads
    run as there are processors, at most `MOST_THREADS`, or ``OMP_NUM_THREADS`` if that is set lower.
    """
    steps = [range(0, n, step) for n, step in zip(shape, BLOCK, strict=True)]
    blocks = [
        (
            slice(x, min(x + BLOCK[0], shape[0])),
            slice(y, min(y + BLOCK[1], shape[1])),
            slice(z, min(z + BLOCK[2], shape[2])),
        )
        for x, y, z in itertools.product(*steps)
    ]
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    threads = min(os.cpu_count() or 1, MOST_THREADS, int(allowed) if allowed.isdigit() else MOST_THREADS)
    if threads < 2 or len(blocks) < 2 * threads:
        for block in blocks:
            work(block)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, blocks):
            pass


def _grid(block: Sequence[slice], axes: Sequence[int]) -> list[np.ndarray]:
    """Return the indices along x, y and z of a block whose axes stand in the order `axes`."""
    grid = []
    for axis in range(3):
        place = list(axes).index(axis)
        index = np.arange(block[place].start, block[place].stop, dtype=np.float32)
        grid.append(index.reshape([-1 if i == place else 1 for i in range(3)]))
    return grid


def _multiply(matrix: np.ndarray, grid: Sequence[np.ndarray]) -> list[np.ndarray]:
    x, y, z = grid
    rows = matrix[:3].astype(np.float32)
    # Summed in this order, because the last bit decides whether a place at the border is inside.
    return [((row[0] * x + row[1] * y) + row[2] * z) + row[3] for row in rows]


@dataclass(frozen=True)
class Source:
    """An image as one run of memory.

    Attributes
    ----------
    frames : tuple of ndarray
        One-dimensional views that begin with the first voxel of each frame.
    strides : tuple of int
        Steps from a voxel to the next one along x, y and z.
    shape : tuple of int
        ``(X, Y, Z)``.
    order : tuple of int
        The axes from the one with the largest stride to that with the smallest.
    """

    frames: tuple[np.ndarray, ...]
    strides: tuple[int, int, int]
    shape: tuple[int, int, int]
    order: tuple[int, int, int]

    @classmethod
    def of(cls, frames: np.ndarray) -> Source:
        """Flatten an array ``(X, Y, Z, F)``, without a copy if it is contiguous in either order."""
        x, y, z, count = frames.shape
        if frames.flags.f_contiguous:
            flat = frames.reshape(-1, order="F")
            views = tuple(flat[i * x * y * z :] for i in range(count))
            return cls(views, (1, x, x * y), (x, y, z), (2, 1, 0))
        flat = np.ascontiguousarray(frames).reshape(-1)
        strides = (y * z * count, z * count, count)
        return cls(tuple(flat[i:] for i in range(count)), strides, (x, y, z), (0, 1, 2))

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.frames)


def sample_places(
    source: Source,
    places: Coordinates,
    out: np.ndarray,
    *,
    method: Method = "linear",
    fill: float | None = 0.0,
) -> None:
    """Sample every frame of an image at some places.

    Parameters
    ----------
    source
        The image.
    places
        Voxel indices, float32.
    out
        Written to: shape ``(F, *shape of the places)``.
    method
        "linear" or "nearest".
    fill
        Value outside the image; None repeats the border instead.
    """
    if method not in ("linear", "nearest"):
        raise InvalidOption(f"method is 'linear' or 'nearest', found {method!r}")
    if fill is None:
        places = [_clamp(place, n) for place, n in zip(places, source.shape, strict=True)]
    inside: np.ndarray | None = None
    for place, n in zip(places, source.shape, strict=True):
        within = (place >= 0) & (place < n)
        inside = within if inside is None else np.logical_and(inside, within, out=inside)
    assert inside is not None
    if not inside.any():
        out[...] = fill
        return
    if method == "linear":
        _linear(source, places, out)
    else:
        _nearest(source, places, out)
    if not inside.all():
        out[:, ~inside] = fill


def _clamp(place: np.ndarray, n: int) -> np.ndarray:
    """Bring places into the image; fmin and fmax take NaN to the first voxel."""
    return np.fmin(np.fmax(place, np.float32(0)), np.float32(n - 1))


def _linear(source: Source, places: Coordinates, out: np.ndarray) -> None:
    """Weigh the eight voxels around each place, in the order of the original, so that no bit differs."""
    floors = [np.floor(place) for place in places]
    # Where a last voxel is repeated the eight are not always the same steps apart, which costs more.
    repeats = any(bool((floor == n - 1).any()) for floor, n in zip(floors, source.shape, strict=True))
    index: np.ndarray | int = 0
    upper_weights, above = [], []
    for place, floor, n, stride in zip(places, floors, source.shape, source.strides, strict=True):
        with np.errstate(invalid="ignore"):  # Infinite places are outside and filled later.
            upper_weights.append(place - floor)
        lower = _clamp(floor, n if repeats else n - 1).astype(np.intp)
        above.append(np.where(lower < n - 1, stride, 0) if repeats else stride)
        index = index + lower * stride
    weights = [(np.float32(1) - weight, weight) for weight in upper_weights]
    out[...] = 0
    for x, y, z in CORNERS:
        weight = weights[0][x] * weights[1][y]
        weight *= weights[2][z]
        step = x * above[0] + y * above[1] + z * above[2]
        for frame, result in zip(source.frames, out, strict=True):
            values = (
                frame.take(index + step, mode="clip") if repeats else frame[step:].take(index, mode="clip")
            )
            with np.errstate(invalid="ignore", over="ignore"):  # Of voxels that are not finite.
                result += values.astype(np.float32, copy=False) * weight


def _nearest(source: Source, places: Coordinates, out: np.ndarray) -> None:
    index: np.ndarray | int = 0
    for place, n, stride in zip(places, source.shape, source.strides, strict=True):
        floor = np.floor(place)
        with np.errstate(invalid="ignore"):
            floor += place - floor >= 0.5  # Adding 0.5 first would round the number below a half up, too.
        index = index + _clamp(floor, n).astype(np.intp) * stride
    assert isinstance(index, np.ndarray)
    for frame, result in zip(source.frames, out, strict=True):
        result[...] = frame.take(index, mode="clip")
