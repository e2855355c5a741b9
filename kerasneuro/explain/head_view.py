"""A view of the head from outside, with the heat map shining through the skin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kerasneuro.explain.figures import (
    Image,
    make_scene,
    tint,
    value_limits,
)
from kerasneuro.report.figure import INK, intensity_window, new_figure, to_png
from kerasneuro.report.quality import Scene
from kerasneuro.tasks.result import RESEARCH_USE
from kerasneuro.volume import Volume

# Title -> where the viewer stands: degrees to the right of the nose, degrees above the ears.
VIEWS = {
    "from the left": (-90.0, 0.0),
    "from front and left": (-40.0, 25.0),
    "from the front": (0.0, 0.0),
    "from the right": (90.0, 0.0),
    "from above": (0.0, 90.0),
}
SAMPLES, MARGIN = 112, 1.25  # along each axis of the rendered cube, and its edge over that of the scan
SKIN = 0.15  # part of the bright end of the intensity window where the head begins
INCHES_PER_VIEW, CAPTION_INCHES = 2.8, 0.5
AMBIENT, BRIGHTEST = 0.15, 0.55  # the head stays dark, so that the map shows


def draw_head(image: Image | Volume, heat: Any, *, threshold: float = 0.5, title: str = "") -> bytes:
    """Draw the surface of the head from five sides, with the thresholded heat map seen through it.

    Parameters
    ----------
    image : path, nibabel image or Volume
        The scan.
    heat : nibabel image or ndarray
        The map on the grid of the scan, as `to_native` makes it.
    threshold : float
        Part of the largest absolute value below which the map is not shown, 0 < threshold < 1.
    title : str
        Written above the views.

    Returns
    -------
    bytes
        A PNG file.

    Raises
    ------
    InvalidOption
        If the map is not on the grid of the scan, or the threshold is out of range.
    MissingDependency
        If matplotlib is not installed (extra ``report``).
    """
    scene, values = make_scene(image, heat, threshold)
    figure = new_figure(len(VIEWS) * INCHES_PER_VIEW, INCHES_PER_VIEW + CAPTION_INCHES)
    limits = value_limits(values)
    hot = values if scene.labels is None else np.where(scene.labels != 0, values, 0)
    skin = SKIN * intensity_window(scene.scan)[1]
    scene = smooth(scene)
    panels = figure.subplots(1, len(VIEWS))
    top = INCHES_PER_VIEW / (INCHES_PER_VIEW + CAPTION_INCHES)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=top, wspace=0.03)
    for panel, (name, (azimuth, elevation)) in zip(panels, VIEWS.items(), strict=True):
        directions = view_directions(azimuth, elevation)
        shade, seen = render(scene, hot, directions, skin)
        panel.imshow(shade.T, cmap="gray", origin="lower", vmin=0, vmax=1)
        panel.imshow(tint(seen.T, limits), origin="lower")
        panel.set_axis_off()
        panel.set_title(name, color=INK, fontsize=8, pad=2)
    note = f"{title}   above {threshold:.0%} of the largest value. {RESEARCH_USE}".strip()
    figure.text(0.005, 0.99, note, color=INK, fontsize=8, va="top")
    return to_png(figure)


def view_directions(azimuth: float, elevation: float) -> np.ndarray:
    """Return the world directions of the picture's axes: right, away from the viewer, up.

    Parameters
    ----------
    azimuth, elevation : float
        Where the viewer stands, in degrees: to the right of the nose, above the ears.

    Returns
    -------
    ndarray
        Shape ``(3, 3)``; the rows are unit vectors in RAS+.
    """
    turn, rise = np.radians((azimuth, elevation))
    away = -np.array([np.sin(turn) * np.cos(rise), np.cos(turn) * np.cos(rise), np.sin(rise)])
    # From straight above, "up" is where the nose points.
    up = np.array([np.sin(turn) * -np.sin(rise), np.cos(turn) * -np.sin(rise), np.cos(rise)])
    up = -up if elevation >= 90 else up
    return np.stack([np.cross(away, up), away, up])


def render(
    scene: Scene, heat: np.ndarray, directions: np.ndarray, skin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Look at a head: shaded surface and the strongest heat along each line of sight.

    Parameters
    ----------
    scene : Scene
        The scan in RAS+ axis order.
    heat : ndarray
        Shape ``(X, Y, Z)``, on the grid of the scan.
    directions : ndarray
        As from `view_directions`.
    skin : float
        Intensity where the head begins.

    Returns
    -------
    shade, heat : ndarray
        Both ``(right, up)``, `shade` in [0, 1].
    """
    from scipy import ndimage

    zooms, shape, step = np.asarray(scene.zooms), np.asarray(scene.scan.shape), step_of(scene)
    matrix = directions.T * step / zooms[:, None]
    offset = (shape - 1) / 2 - matrix @ np.full(3, (SAMPLES - 1) / 2)
    grid = {"offset": offset, "output_shape": (SAMPLES,) * 3, "order": 1}
    head = ndimage.affine_transform(scene.scan, matrix, **grid)
    hot = ndimage.affine_transform(heat, matrix, **grid)
    strongest = np.take_along_axis(hot, np.abs(hot).argmax(axis=1)[:, None], axis=1)[:, 0]
    return _shade(head > skin), strongest


def step_of(scene: Scene) -> float:
    """Return the edge of a rendered voxel in mm, so that a turned head fits into the cube."""
    return float(np.linalg.norm(np.multiply(scene.zooms, scene.scan.shape))) / np.sqrt(3) * MARGIN / SAMPLES


def smooth(scene: Scene) -> Scene:
    """Smooth the scan to the size of a rendered voxel; else noise of the background would look like skin."""
    from scipy import ndimage

    widths = np.maximum(step_of(scene) / np.asarray(scene.zooms) / 2, 0.5)
    return replace(scene, scan=ndimage.gaussian_filter(scene.scan, widths))


def _shade(inside: np.ndarray) -> np.ndarray:
    """Light the surface that a viewer sees along the second axis."""
    from scipy import ndimage

    hit = inside.any(axis=1)
    depth = np.where(hit, inside.argmax(axis=1), inside.shape[1]).astype(np.float64)
    slope_right, slope_up = np.gradient(ndimage.gaussian_filter(depth, 1.0))
    facing = 1 / np.sqrt(1 + slope_right**2 + slope_up**2)
    return np.where(hit, AMBIENT + (BRIGHTEST - AMBIENT) * facing, 0.0)
