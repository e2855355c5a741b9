"""Draw slices of a scan in three planes, with the outline of what was found."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.errors import MissingDependency
from kerasneuro.report.quality import Region, Scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SLICES = 7
INCHES_PER_SLICE = 2.0
DPI = 110
MOST_OUTLINES, TINT = 20, 0.45  # beyond so many regions, areas are tinted instead
PAPER, INK = "#101418", "#e8edf2"
# Plane -> axis that is cut, axis to the right, axis to the top, letters (left, right, bottom, top) in RAS.
PLANES = {
    "axial": (2, 0, 1, ("L", "R", "P", "A")),
    "coronal": (1, 0, 2, ("L", "R", "I", "S")),
    "sagittal": (0, 1, 2, ("P", "A", "I", "S")),
}

# Where the four letters stand in a slice: x, y, alignment.
EDGES = (
    (0.02, 0.5, "left", "center"),
    (0.98, 0.5, "right", "center"),
    (0.5, 0.02, "center", "bottom"),
    (0.5, 0.98, "center", "top"),
)


def draw(scene: Scene) -> bytes:
    """Draw axial, coronal and sagittal slices through the extent of the outlined region.

    Parameters
    ----------
    scene : Scene
        Scan and labels on one RAS grid.

    Returns
    -------
    bytes
        A PNG file.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    figure, panels = slice_panels(row_heights(scene))
    window = intensity_window(scene.scan)
    for row, plane in zip(panels, PLANES, strict=True):
        positions = slice_positions(scene, PLANES[plane][0])
        for column, position in enumerate(positions):
            draw_slice(row[column], scene, plane, position, window, lettered=column == 0)
    return to_png(figure)


def slice_panels(heights: Sequence[float]) -> tuple[Figure, Any]:
    """Make a figure with `SLICES` empty panels in each row; heights are relative to a panel's width."""
    figure = new_figure(SLICES * INCHES_PER_SLICE, sum(heights) * INCHES_PER_SLICE + 0.1)
    panels = figure.subplots(len(heights), SLICES, squeeze=False, height_ratios=list(heights))
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.99, wspace=0.03, hspace=0.03)
    for panel in panels.flat:
        panel.set_axis_off()
    return figure, panels


def new_figure(width: float, height: float, *, paper: str = PAPER, layout: Any = None) -> Figure:
    """Make a figure that draws without a display.

    Parameters
    ----------
    width, height : float
        Inches.
    paper : str
        Colour of the background.
    layout : str, optional
        How matplotlib places the panels.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(
            "pictures need matplotlib; install it with: pip install 'kerasneuro[report]'"
        ) from error
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=paper, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor="auto")
    return stream.getvalue()


def slice_positions(scene: Scene, axis: int) -> list[int]:
    """Choose planes along an axis, spread evenly through the outlined region (or the whole scan)."""
    extent = scene.scan.shape[axis]
    first, last = 0, extent - 1
    if scene.labels is not None and scene.labels.any():
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero((scene.labels != 0).any(axis=others))
        first, last = int(found[0]), int(found[-1])
    inner = np.linspace(first, last, SLICES + 2)[1:-1]
    return sorted(set(np.rint(inner).astype(int).tolist()))


def intensity_window(scan: np.ndarray) -> tuple[float, float]:
    """Choose black and white so that a few very bright voxels do not darken the picture."""
    values = scan[scan != 0]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(edge) for edge in np.percentile(values, (1.0, 99.5)))
    low = min(low, 0.0) if scan.min() >= 0 else low
    return (low, high) if high > low else (low, low + 1.0)


def row_heights(scene: Scene) -> list[float]:
    """Give every row the height that its slices need, relative to the width of a panel."""
    lengths = [count * zoom for count, zoom in zip(scene.scan.shape, scene.zooms, strict=True)]
    ratios = [lengths[up] / lengths[right] for _, right, up, _ in PLANES.values()]
    return [min(max(ratio, 0.4), 1.6) for ratio in ratios]


def draw_slice(
    panel: Axes, scene: Scene, plane: str, position: int, window: tuple[float, float], *, lettered: bool
) -> None:
    """Draw one slice in mm, first axis to the right and second axis to the top."""
    axis, right, up, letters = PLANES[plane]
    width = scene.scan.shape[right] * scene.zooms[right]
    height = scene.scan.shape[up] * scene.zooms[up]
    panel.imshow(
        scene.scan.take(position, axis).T,
        cmap="gray",
        origin="lower",
        extent=(0, width, 0, height),
        vmin=window[0],
        vmax=window[1],
        aspect="equal",
        interpolation="nearest",
    )
    if scene.labels is not None:
        labels = scene.labels.take(position, axis).T
        if len(scene.regions) > MOST_OUTLINES:
            _draw_areas(panel, labels, (width, height), scene.regions)
        else:
            _draw_outlines(panel, labels, (scene.zooms[right], scene.zooms[up]), scene.regions)
    panel.set_xlim(0, width)
    panel.set_ylim(0, height)
    _letter(panel, letters if lettered else None, f"{plane} {position}")


def _letter(panel: Axes, letters: tuple[str, str, str, str] | None, name: str) -> None:
    """Write the directions and the name of a slice, readable on dark and on bright voxels."""
    from matplotlib.patheffects import withStroke

    note: dict[str, Any] = {
        "transform": panel.transAxes,
        "color": INK,
        "path_effects": [withStroke(linewidth=2, foreground=PAPER)],
    }
    panel.text(0.98, 0.02, name, ha="right", va="bottom", fontsize=7, **note)
    if letters is not None:
        for letter, (x, y, horizontal, vertical) in zip(letters, EDGES, strict=True):
            panel.text(x, y, letter, ha=horizontal, va=vertical, weight="bold", fontsize=9, **note)


def _draw_areas(
    panel: Axes, labels: np.ndarray, size: tuple[float, float], regions: tuple[Region, ...]
) -> None:
    """Tint every label of a slice in its colour; so many outlines would hide the scan."""
    from matplotlib.colors import to_rgba

    tints = np.zeros((int(labels.max(initial=0)) + 1, 4), np.float32)
    for region in regions:
        if 0 <= region.label < len(tints):
            tints[region.label] = to_rgba(region.colour, TINT)
    extent = (0, size[0], 0, size[1])
    panel.imshow(tints[labels], origin="lower", extent=extent, aspect="equal", interpolation="nearest")


def _draw_outlines(
    panel: Axes, labels: np.ndarray, steps: tuple[float, float], regions: tuple[Region, ...]
) -> None:
    """Draw the border of every label of a slice, in the label's colour."""
    # One more voxel of background around the slice closes the outlines at its border.
    padded = np.pad(labels, 1)
    x = (np.arange(padded.shape[1]) - 0.5) * steps[0]
    y = (np.arange(padded.shape[0]) - 0.5) * steps[1]
    present = set(np.unique(labels).tolist())
    for region in regions:
        if region.label in present:
            inside = (padded == region.label).astype(np.float32)
            panel.contour(x, y, inside, levels=[0.5], colors=[region.colour], linewidths=0.9)
