"""Draw the slices of a registration: scans, difference, checkerboard, grid of the warp, Jacobian."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.report.figure import INCHES_PER_SLICE, INK, PAPER, PLANES, new_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kerasneuro.report.registration import Pair

TILES = 8  # of the checkerboard along the longer side
LINES = 24  # of the warp's grid along the longer side
MOST_CHANGE = 2.0  # factors of two that the colours of the Jacobian reach
FOLDED = "#ff2bd6"
GRID = "#7fe3ff"
HEADINGS = ("fixed", "moving, before", "moved", "difference", "checkerboard", "warp", "Jacobian")


@dataclass(frozen=True)
class Slices:
    """One slice in each plane, through the middle of what is not background.

    Attributes
    ----------
    positions : mapping of str to int
        Plane -> index along the axis that is cut.
    zooms : tuple of float
        Voxel size in mm.
    """

    positions: Mapping[str, int]
    zooms: tuple[float, float, float]

    @classmethod
    def through(cls, scan: np.ndarray, zooms: tuple[float, float, float]) -> Slices:
        """Choose the slices of a scan ``(X, Y, Z)``."""
        low, high = window(scan)
        bright = scan > low + 0.1 * (high - low)
        positions = {}
        for plane, (axis, *_) in PLANES.items():
            found = np.flatnonzero(bright.any(axis=tuple(other for other in range(3) if other != axis)))
            inside = found if found.size else np.arange(scan.shape[axis])
            positions[plane] = int(inside[0] + inside[-1]) // 2
        return cls(positions, zooms)

    def cut(self, array: np.ndarray, plane: str) -> np.ndarray:
        """Return a slice of ``(X, Y, Z)``, first axis upwards."""
        return array.take(self.positions[plane], PLANES[plane][0]).swapaxes(0, 1)

    def size(self, shape: tuple[int, ...], plane: str) -> tuple[float, float]:
        """Return width and height of a slice in mm."""
        _, right, up, _ = PLANES[plane]
        return shape[right] * self.zooms[right], shape[up] * self.zooms[up]

    def height(self, shape: tuple[int, ...], plane: str) -> float:
        """Return the height of a panel by its width, within what a page can show."""
        width, height = self.size(shape, plane)
        return min(max(height / width, 0.4), 1.6)


def draw_registration(pair: Pair, slices: Slices) -> bytes:
    """Draw a row for each plane and a column for each look at the pair.

    Returns
    -------
    bytes
        A PNG file.
    """
    shape = pair.fixed.shape
    heights = [slices.height(shape, plane) for plane in PLANES]
    figure = new_figure(len(HEADINGS) * INCHES_PER_SLICE, sum(heights) * INCHES_PER_SLICE + 0.35)
    panels = figure.subplots(len(PLANES), len(HEADINGS), squeeze=False, height_ratios=heights)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.955, wspace=0.03, hspace=0.03)
    scans = {name: scaled(getattr(pair, name)) for name in ("fixed", "before", "moved")}
    for row, plane in zip(panels, PLANES, strict=True):
        draw_row(row, {name: slices.cut(scan, plane) for name, scan in scans.items()}, pair, slices, plane)
    for panel, heading in zip(panels[0], HEADINGS, strict=True):
        panel.set_title(heading, color=INK, fontsize=10, pad=4)
    return to_png(figure)


def draw_row(
    panels: Sequence[Axes], cuts: Mapping[str, np.ndarray], pair: Pair, slices: Slices, plane: str
) -> None:
    """Draw one plane, in the order of `HEADINGS`."""
    size = slices.size(pair.fixed.shape, plane)
    fixed, before, moved = cuts["fixed"], cuts["before"], cuts["moved"]
    for panel, image in zip(panels, (fixed, before, moved), strict=False):
        show(panel, image, size)
    show(panels[3], moved - fixed, size, cmap="RdBu_r", limits=(-1, 1))
    show(panels[4], checkerboard(fixed, moved, size), size)
    show_grid(panels[5], pair, slices, plane, fixed)
    show_jacobian(panels[6], pair, slices, plane)
    for panel in panels:
        panel.set_axis_off()
        panel.set_xlim(0, size[0])
        panel.set_ylim(0, size[1])
    note(panels[0], f"{plane} {slices.positions[plane]}")


def draw_toggle(scan: np.ndarray, slices: Slices) -> str:
    """Draw one slice of a scan in each plane, side by side, as one picture of an animation.

    Returns
    -------
    str
        A PNG file in base64.
    """
    shape = scan.shape
    sizes = [slices.size(shape, plane) for plane in PLANES]
    ratios = [width / height for width, height in sizes]
    figure = new_figure(min(max(4.0 * sum(ratios), 2.0), 20.0), 4.0)
    panels = figure.subplots(1, len(PLANES), squeeze=False, width_ratios=ratios)[0]
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0.01)
    whole = scaled(scan)
    for panel, plane, size in zip(panels, PLANES, sizes, strict=True):
        panel.set_axis_off()
        show(panel, slices.cut(whole, plane), size)
    return base64.b64encode(to_png(figure)).decode("ascii")


def scaled(scan: np.ndarray) -> np.ndarray:
    """Bring a scan to black 0 and white 1."""
    low, high = window(scan)
    return np.clip((scan - low) / (high - low), 0, 1)


def window(scan: np.ndarray) -> tuple[float, float]:
    """Choose black and white so that neither background nor a few bright voxels hide the contrast."""
    low, high = (float(edge) for edge in np.percentile(scan, (1.0, 99.5)))
    if high > low:
        return low, high
    least, most = float(scan.min()), float(scan.max())
    return least, most if most > least else least + 1.0


def show(
    panel: Axes,
    image: np.ndarray,
    size: tuple[float, float],
    cmap: Any = "gray",
    limits: tuple[float, float] = (0, 1),
) -> None:
    """Show a slice in mm."""
    panel.imshow(
        image,
        cmap=cmap,
        origin="lower",
        extent=(0, size[0], 0, size[1]),
        vmin=limits[0],
        vmax=limits[1],
        aspect="equal",
        interpolation="nearest",
    )


def checkerboard(one: np.ndarray, other: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Take tiles from two slices in turn."""
    side = max(size) / TILES
    up, right = (
        ((np.arange(count) + 0.5) * length / count // side).astype(int)
        for count, length in zip(one.shape, size[::-1], strict=True)
    )
    return np.where((up[:, None] + right[None, :]) % 2 == 0, one, other)


def show_grid(panel: Axes, pair: Pair, slices: Slices, plane: str, fixed: np.ndarray) -> None:
    """Show the lines of equal source coordinates: where a straight grid on the moving scan goes."""
    size = slices.size(pair.fixed.shape, plane)
    show(panel, 0.45 * fixed, size)
    if pair.places is None:
        note(panel, "no transform")
        return
    _, right, up, _ = PLANES[plane]
    step = max(size) / LINES
    for axis in (right, up):
        places = slices.cut(pair.places[..., axis], plane)
        height, width = places.shape
        if min(height, width) < 2 or not np.ptp(places) > 0:
            continue
        x = (np.arange(width) + 0.5) * size[0] / width
        y = (np.arange(height) + 0.5) * size[1] / height
        first, last = np.ceil(places.min() / step), np.floor(places.max() / step)
        levels = np.arange(first, min(last, first + 4 * LINES) + 1) * step
        if levels.size:
            panel.contour(x, y, places, levels=levels, colors=[GRID], linewidths=0.6, linestyles="solid")


def show_jacobian(panel: Axes, pair: Pair, slices: Slices, plane: str) -> None:
    """Show the Jacobian determinant on a logarithmic scale about 1; folded voxels in their own colour."""
    from matplotlib import colormaps

    size = slices.size(pair.fixed.shape, plane)
    if pair.jacobian is None:
        show(panel, np.zeros((1, 1)), size)
        note(panel, "no field")
        return
    values = slices.cut(pair.jacobian, plane)
    change = np.log2(np.where(values > 0, values, 1))
    colours = colormaps["RdBu_r"]((np.clip(change, -MOST_CHANGE, MOST_CHANGE) / MOST_CHANGE + 1) / 2)
    red, green, blue = (int(FOLDED[start : start + 2], 16) / 255 for start in (1, 3, 5))
    colours[values <= 0] = (red, green, blue, 1)
    show(panel, colours, size)


def note(panel: Axes, text: str) -> None:
    """Write into the corner of a panel, readable on dark and on bright voxels."""
    from matplotlib.patheffects import withStroke

    effects = [withStroke(linewidth=2, foreground=PAPER)]
    panel.text(
        0.98,
        0.02,
        text,
        transform=panel.transAxes,
        color=INK,
        fontsize=7,
        ha="right",
        va="bottom",
        path_effects=effects,
    )
