"""Pictures of a heat map: slices in three planes with the map laid over the scan."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.report.figure import (
    INCHES_PER_SLICE,
    INK,
    PLANES,
    SLICES,
    draw_slice,
    intensity_window,
    new_figure,
    row_heights,
    slice_positions,
    to_png,
)
from kerasneuro.report.quality import MASK_COLOUR, Region, Scene
from kerasneuro.tasks.result import RESEARCH_USE
from kerasneuro.volume import Volume, load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Image = str | os.PathLike[str] | nibabel.spatialimages.SpatialImage
STRONGEST_TINT = 0.7  # so that the scan stays visible below
COLOURS, SIGNED_COLOURS = "inferno", "coolwarm"
CAPTION_INCHES = 0.35
SIGNED_PERCENTILE = 99.5


def draw_montage(image: Image | Volume, heat: Any, *, threshold: float = 0.5, title: str = "") -> bytes:
    """Draw axial, coronal and sagittal slices of a scan with a heat map over them.

    The slices go through the region above the threshold, whose border is outlined.

    Parameters
    ----------
    image : path, nibabel image or Volume
        The scan.
    heat : nibabel image or ndarray
        The map on the grid of the scan, as `to_native` makes it; a signed map gets two colours.
    threshold : float
        Part of the largest absolute value, 0 < threshold < 1.
    title : str
        Written above the slices.

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

    Examples
    --------
    >>> Path("heat.png").write_bytes(draw_montage("T1.nii.gz", heat))  # doctest: +SKIP
    """
    scene, values = make_scene(image, heat, threshold)
    heights = row_heights(scene)
    rows = sum(heights) * INCHES_PER_SLICE
    figure = new_figure(SLICES * INCHES_PER_SLICE, rows + CAPTION_INCHES)
    panels = figure.subplots(len(PLANES), SLICES, squeeze=False, height_ratios=heights)
    top = rows / (rows + CAPTION_INCHES)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=top, wspace=0.03, hspace=0.03)
    window = intensity_window(scene.scan)
    limits = value_limits(values)
    for row, plane in zip(panels, PLANES, strict=True):
        positions = slice_positions(scene, PLANES[plane][0])
        for column, panel in enumerate(row):
            panel.set_axis_off()
            if column < len(positions):
                draw_slice(panel, scene, plane, positions[column], window, lettered=column == 0)
                _lay_over(panel, scene, values, plane, positions[column], limits)
    caption = f"{title}   " if title else ""
    note = f"{caption}{limits[0]:.3g} to {limits[1]:.3g}, outline at {threshold:.0%}. {RESEARCH_USE}"
    figure.text(0.005, 1 - 0.3 * (1 - top), note, color=INK, fontsize=8, va="top")
    return to_png(figure)


def make_scene(image: Image | Volume, heat: Any, threshold: float) -> tuple[Scene, np.ndarray]:
    """Turn scan and map to RAS+ and outline what is above the threshold; returns the map too."""
    if not 0 < threshold < 1:
        raise InvalidOption(f"threshold must lie between 0 and 1; got {threshold!r}")
    scan = load(image, check_constant=False)
    values = np.asanyarray(heat.dataobj if hasattr(heat, "dataobj") else heat, dtype=np.float32)
    if values.shape != scan.shape or not np.isfinite(values).all():
        raise InvalidOption(
            f"the heat map must be finite and on the grid of the scan {scan.shape}, found {values.shape}; "
            "bring it there with to_native"
        )
    scan_image, heat_image = (
        nibabel.as_closest_canonical(nibabel.Nifti1Image(array, scan.affine))
        for array in (scan.array, values)
    )
    values = np.asarray(heat_image.dataobj)
    zooms = tuple(float(zoom) for zoom in np.linalg.norm(heat_image.affine[:3, :3], axis=0))
    hot = (np.abs(values) >= threshold * np.abs(values).max()) & (values != 0)
    count = int(hot.sum())
    volume = count * float(np.prod(zooms)) / 1000.0
    regions = (Region(1, "heat", MASK_COLOUR, count, volume),) if count else ()
    labels = hot.astype(np.int64) if count else None
    shown = np.asarray(scan_image.dataobj, dtype=np.float32)
    return Scene(shown, labels, (zooms[0], zooms[1], zooms[2]), regions), values


def value_limits(values: np.ndarray) -> tuple[float, float]:
    """Return the values at both ends of the colours: symmetric for a signed map."""
    if values.min() >= 0:
        return 0.0, float(values.max()) or 1.0
    largest = float(np.percentile(np.abs(values[values != 0]), SIGNED_PERCENTILE))
    return -largest, largest


def tint(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Colour values ``(...)`` as RGBA ``(..., 4)``: the larger the less transparent."""
    from matplotlib import colormaps

    low, high = limits
    colours = colormaps[SIGNED_COLOURS if low < 0 else COLOURS](np.clip((values - low) / (high - low), 0, 1))
    colours[..., 3] = STRONGEST_TINT * np.clip(np.abs(values) / high, 0, 1)
    return np.asarray(colours)


def _lay_over(
    panel: Axes,
    scene: Scene,
    values: np.ndarray,
    plane: str,
    position: int,
    limits: tuple[float, float],
) -> None:
    """Lay the map over a drawn slice, in mm."""
    axis, right, up, _ = PLANES[plane]
    extent = (0, values.shape[right] * scene.zooms[right], 0, values.shape[up] * scene.zooms[up])
    colours = tint(values.take(position, axis).T, limits)
    panel.imshow(colours, origin="lower", extent=extent, aspect="equal", interpolation="nearest")
