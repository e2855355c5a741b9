"""Draw parts of a scan enlarged: the outlines of what was found, and its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kerasneuro.report.figure import (
    INK,
    PAPER,
    PLANES,
    draw_slice,
    intensity_window,
    row_heights,
    slice_panels,
    slice_positions,
    to_png,
)
from kerasneuro.report.quality import Scene, find_regions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kerasneuro.tasks.result import Closeup
    from kerasneuro.volume import ColourTable

TEMPLATE = "closeup.html.j2"
MOST_OPAQUE = 0.85


def draw_closeups(closeups: Sequence[Closeup], colours: ColourTable | None) -> tuple[bytes, float | None]:
    """Draw every close-up in three planes, first with outlines and then with its uncertainty.

    Parameters
    ----------
    closeups : sequence of Closeup
        At least one.
    colours : ColourTable, optional
        Names and colours of the labels.

    Returns
    -------
    png : bytes
        A PNG file.
    brightest : float or None
        Uncertainty that is drawn brightest; None if there is none.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    scenes = [make_scene(closeup, colours) for closeup in closeups]
    maps = [closeup.uncertainty for closeup in closeups if closeup.uncertainty is not None]
    brightest = max((float(values.max()) for values in maps), default=None)
    rows = [
        (closeup, scene, plane, height, doubt)
        for closeup, scene in zip(closeups, scenes, strict=True)
        for plane, height in zip(PLANES, row_heights(scene), strict=True)
        for doubt in ((False, True) if closeup.uncertainty is not None else (False,))
    ]
    figure, panels = slice_panels([height for *_, height, _ in rows])
    for row, (closeup, scene, plane, _, doubt) in zip(panels, rows, strict=True):
        shown = Scene(scene.scan, None, scene.zooms, ()) if doubt else scene
        window = intensity_window(scene.scan)
        for column, position in enumerate(slice_positions(scene, PLANES[plane][0])):
            draw_slice(row[column], shown, plane, position, window, lettered=column == 0)
            if doubt and closeup.uncertainty is not None:
                draw_uncertainty(row[column], closeup.uncertainty, scene, plane, position, brightest or 1.0)
        _name(row[1], f"{closeup.name}: {'uncertainty' if doubt else 'labels'}")
    return to_png(figure), brightest


def make_scene(closeup: Closeup, colours: ColourTable | None) -> Scene:
    """Say what the slices of a close-up show."""
    labels, zooms = closeup.labels.astype(np.int64), closeup.scan.zooms
    scan = closeup.scan.array.astype(np.float32)
    return Scene(scan, labels, zooms, find_regions(labels, zooms, None, single=False, table=colours))


def draw_uncertainty(
    panel: Axes, values: np.ndarray, scene: Scene, plane: str, position: int, brightest: float
) -> None:
    """Lay the uncertainty of one slice over it: clear where it is 0, bright and dense where it is large."""
    from matplotlib import colormaps

    axis, right, up, _ = PLANES[plane]
    part = np.clip(values.take(position, axis).T / brightest, 0, 1)
    colours = colormaps["inferno"](part)
    colours[..., 3] = MOST_OPAQUE * part
    extent = (0, values.shape[right] * scene.zooms[right], 0, values.shape[up] * scene.zooms[up])
    panel.imshow(colours, origin="lower", extent=extent, aspect="equal", interpolation="nearest")


def _name(panel: Axes, text: str) -> None:
    from matplotlib.patheffects import withStroke

    panel.text(
        0.02,
        0.98,
        text,
        ha="left",
        va="top",
        fontsize=7,
        color=INK,
        transform=panel.transAxes,
        path_effects=[withStroke(linewidth=2, foreground=PAPER)],
    )
