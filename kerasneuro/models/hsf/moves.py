"""Where the voxels of a turned or bent crop come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Turn:
    """Scale, rotate and shift about the centre.

    Attributes
    ----------
    scales : tuple of float
        Factors along the world's axes.
    degrees : tuple of float
        Angles about the world's axes (RAS).
    translation : tuple of float
        mm along the world's axes (RAS).
    """

    scales: tuple[float, float, float]
    degrees: tuple[float, float, float]
    translation: tuple[float, float, float]

    fill = 0.0
    """Probability of every class where a copy shows nothing."""

    def matrix(self, centre: np.ndarray) -> np.ndarray:
        """Return the transform of LPS points, ``(4, 4)``: ``p -> S (R (p - c) + t) + c``."""
        x, y, z = np.deg2rad(self.degrees) * (-1.0, -1.0, 1.0)
        about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
        about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
        about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
        scales = np.diag(self.scales)
        result = np.eye(4)
        result[:3, :3] = scales @ about_z @ about_x @ about_y
        shift = scales @ (np.array(self.translation) * (-1.0, -1.0, 1.0))
        result[:3, 3] = centre + shift - result[:3, :3] @ centre
        return result

    def places(
        self, axes: Sequence[np.ndarray], shape: Sequence[int], affine: np.ndarray, *, back: bool
    ) -> np.ndarray:
        """See `places`."""
        to_world = LPS @ affine
        centre = to_world[:3, :3] @ ((np.array(shape) - 1) / 2) + to_world[:3, 3]
        turn = self.matrix(centre)
        pull = np.linalg.inv(to_world) @ (turn if back else np.linalg.inv(turn)) @ to_world
        grid = np.ix_(*axes)
        return np.stack([sum((row[i] * grid[i] for i in range(3)), row[3]) for row in pull[:3]])

    def describe(self) -> str:
        """State the parameters in words."""
        named = (("scales", self.scales), ("degrees", self.degrees), ("mm", self.translation))
        return ", ".join(f"{name} {' '.join(f'{value:.4f}' for value in values)}" for name, values in named)


@dataclass(frozen=True, eq=False)
class Bend:
    """Move every point by a cubic B-spline.

    Attributes
    ----------
    control_points : ndarray (N, N, N, 3)
        Displacements in mm (LPS); the first three axes run along the world's.
    """

    control_points: np.ndarray

    fill = None

    def places(
        self, axes: Sequence[np.ndarray], shape: Sequence[int], affine: np.ndarray, *, back: bool
    ) -> np.ndarray:
        """See `places`; the way back is that of the opposite displacements, which is near the inverse."""
        to_world = LPS @ affine
        order, reverse = lattice_axes(to_world, shape)
        tables: list[np.ndarray] = [np.zeros(0)] * 3
        for lattice_axis, axis in enumerate(order):
            indices, n = axes[axis], shape[axis]
            counted = n - 1 - indices if reverse[lattice_axis] else indices
            tables[lattice_axis] = spline_table(counted, n, self.control_points.shape[lattice_axis])
        # The axes of the lattice lie along those of the crop, so the spline is a product of three lines.
        field = np.einsum("ai,ijkc->ajkc", tables[0], self.control_points, optimize=True)
        field = np.einsum("bj,ajkc->abkc", tables[1], field, optimize=True)
        field = np.einsum("dk,abkc->abdc", tables[2], field, optimize=True)
        field = field.transpose(*(order.index(axis) for axis in range(3)), 3)
        steps = field @ np.linalg.inv(to_world[:3, :3]).T
        grid = np.ix_(*axes)
        sign = -1.0 if back else 1.0
        return np.stack([grid[i] + sign * steps[..., i] for i in range(3)])

    def describe(self) -> str:
        """State the size of the bending in words; the seed gives the displacements."""
        largest = float(np.linalg.norm(self.control_points, axis=-1).max())
        points = " x ".join(map(str, self.control_points.shape[:3]))
        return f"bent by {points} control points, each by at most {largest:.4f} mm"


Move = Turn | Bend


def places(
    move: Move, axes: Sequence[np.ndarray], shape: Sequence[int], affine: np.ndarray, *, back: bool = False
) -> np.ndarray:
    """Return where the voxels of a moved crop come from, or those of the crop on the way back.

    Parameters
    ----------
    move : Move
        The transform.
    axes : sequence of ndarray
        Indices of the voxels asked for along each axis.
    shape : sequence of int
        Shape of the padded crop.
    affine : ndarray (4, 4)
        Its voxels to world (RAS+).
    back : bool
        Undo the move.

    Returns
    -------
    ndarray (3, x, y, z)
        Continuous voxel indices, float64.
    """
    return move.places(axes, shape, affine, back=back)


def lattice_axes(to_world: np.ndarray, shape: Sequence[int]) -> tuple[list[int], list[bool]]:
    """Lay the lattice of control points along the edges of a crop, as SimpleITK does.

    The lattice begins at the corner nearest to the lowest corner of the crop's bounding box in the world, and
    its axes are the edges most parallel to the world's.

    Parameters
    ----------
    to_world : ndarray (4, 4)
        Voxels to LPS.
    shape : sequence of int
        Shape of the crop.

    Returns
    -------
    order : list of int
        Axis of the crop for each axis of the lattice.
    reverse : list of bool
        Whether the lattice runs against it.
    """
    ends = np.array(list(np.ndindex(2, 2, 2)))
    corners = (ends * np.array(shape)) @ to_world[:3, :3].T
    first = ends[np.argmin(np.linalg.norm(corners - corners.min(axis=0), axis=1))]
    directions = to_world[:3, :3] / np.linalg.norm(to_world[:3, :3], axis=0)
    order: list[int] = []
    for world_axis in range(3):
        left = [axis for axis in range(3) if axis not in order]
        order.append(max(left, key=lambda axis: abs(directions[world_axis, axis])))
    return order, [bool(first[axis]) for axis in order]


def spline_table(indices: np.ndarray, n: int, count: int) -> np.ndarray:
    """Return the weights of `count` control points at voxels of an axis of `n` voxels.

    The cells of the lattice cover half a voxel and an eighth more on both sides.

    Returns
    -------
    ndarray (voxels, count)
        float64; each row has four weights.
    """
    place = (indices + 0.625) / (n + 0.25) * (count - 3)
    cell = np.floor(place).astype(int)
    f = place - cell
    weights = np.stack(
        [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], axis=1
    )
    table = np.zeros((len(place), count))
    for i in range(4):
        table[np.arange(len(place)), cell + i] = weights[:, i] / 6
    return table
