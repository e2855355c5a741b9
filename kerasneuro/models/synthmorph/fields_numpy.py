"""The spatial steps between the networks in NumPy: `kerasneuro.models.synthmorph.fields` for OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kerasneuro.volume.sample import Source, sample_places

PLANES = 4  # of a grid at once, so that what belongs to them stays in the processor's cache


def sample(volume: np.ndarray, places: Sequence[np.ndarray]) -> np.ndarray:
    """Sample a volume (1, X, Y, Z, 1) at one array of coordinates (1, x, y, z) per axis; 0 outside."""
    return _sample(volume, [place[0] for place in places], fill=True)


def move(image: np.ndarray, matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Sample an image (1, X, Y, Z, 1) at the places of a grid under a matrix (3, 4); 0 outside."""
    return _sample(image, _places(_dense(matrix, shape)), fill=True)


def integrate(velocity: np.ndarray, steps: int, matrix: np.ndarray, halfway: bool) -> np.ndarray:
    """Integrate a velocity and bring the displacement to the full grid; see `fields.integrate`."""
    displacement = velocity[0] * np.float32(2.0**-steps)
    for _ in range(steps):
        displacement = displacement + _sample(displacement[None], _places(displacement))[0]
    if halfway:
        half = np.float32(0.5) * matrix
        right = _dense(half, displacement.shape[:3])
        displacement = right + _sample(displacement[None], _places(right))[0]
    return _dense(matrix, displacement.shape[:3], displacement)[None]


def bring(field: np.ndarray, first: np.ndarray, last: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Compose two matrices around a displacement from the half grid to the full one; see `fields.bring`."""
    right = _dense(first, shape)
    places = _places(right)
    largest = 2.0 * field.shape[1] - 1
    step = _sample(field, [np.float32(0.5) * place for place in places])[0]
    halves = np.stack([np.float32(0.5) * np.clip(place, 0.0, largest) for place in places], axis=-1)
    return _dense(last, shape, right + step - halves)[None]


def _sample(volume: np.ndarray, places: Sequence[np.ndarray], fill: bool = False) -> np.ndarray:
    """Sample (1, X, Y, Z, C) at coordinates (x, y, z); outside the centres the border repeats, or 0."""
    source = Source.of(volume[0])
    result = np.empty((source.count, *places[0].shape), np.float32)
    for start in range(0, len(places[0]), PLANES):
        part = [place[start : start + PLANES] for place in places]
        out = result[:, start : start + PLANES]
        sample_places(source, part, out, fill=None)
        if fill:
            sizes = zip(part, source.shape, strict=True)
            outside = np.logical_or.reduce([(place < 0) | (place > size - 1) for place, size in sizes])
            out[:, outside] = 0
    return np.moveaxis(result, 0, -1)[None]


def _grid(shape: Sequence[int]) -> list[np.ndarray]:
    axes = [np.arange(size, dtype=np.float32) for size in shape]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _places(displacement: np.ndarray) -> list[np.ndarray]:
    """Return ``x + u(x)``, one array (x, y, z) per axis."""
    grid = _grid(displacement.shape[:3])
    return [index + displacement[..., axis] for axis, index in enumerate(grid)]


def _dense(matrix: np.ndarray, shape: Sequence[int], right: np.ndarray | None = None) -> np.ndarray:
    """Return the displacement ``A (x + w) + t - x`` on a grid, w an earlier displacement."""
    rows, grid = matrix.astype(np.float32), _grid(shape)
    change = rows[:, :3] - np.eye(3, dtype=np.float32)
    result = np.empty((*shape, 3), np.float32)
    for axis in range(3):
        total = sum(change[axis, column] * grid[column] for column in range(3)) + rows[axis, 3]
        if right is not None:
            total = total + sum(rows[axis, column] * right[..., column] for column in range(3))
        result[..., axis] = total
    return result
