"""What was found in both crops: images as HSF names them, volumes, colours, doubts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasneuro.models.hsf.boxes import Box, border_warnings
from kerasneuro.tasks.result import Closeup, Result
from kerasneuro.tasks.sanity import touches_border
from kerasneuro.tasks.segmentation import volume_rows
from kerasneuro.volume import ColourTable, Volume, to_image

CODES = {"right": 100, "left": 200}
"""Added to the labels of a side where both sides are in one image."""
COLOURS = (
    (255, 90, 54), (53, 182, 255), (255, 210, 63), (61, 220, 132), (215, 123, 255), (255, 143, 184),
    (0, 213, 200), (255, 166, 0),
)  # fmt: skip
PLAUSIBLE_CM3 = (0.8, 8.0)  # one hippocampus, without or with all that touches it

Restore = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Finding:
    """The result of one side, on the grid of its crop.

    Attributes
    ----------
    box : Box
        Place of the crop in the image in RAS+ orientation.
    crops : tuple of Volume
        One for each contrast, as read.
    labels : ndarray (x, y, z)
        uint8.
    uncertainty : ndarray (x, y, z) or None
        Nats, float64; None if there was one prediction only.
    copies : tuple of str
        How each augmented copy was made.
    count : int
        Predictions that voted.
    """

    box: Box
    crops: tuple[Volume, ...]
    labels: np.ndarray
    uncertainty: np.ndarray | None
    copies: tuple[str, ...]
    count: int


def conclude(
    scan: Volume,
    images: Sequence[Volume],
    restore: Restore,
    found: Mapping[str, Finding],
    names: Sequence[str],
    provenance: Mapping[str, Any],
    notes: tuple[str, ...],
    outputs: Mapping[str, str],
    *,
    registered: bool = False,
) -> Result:
    """Put both sides into images on the grids of the crops and of the scan, with all that is told of them.

    Parameters
    ----------
    scan : Volume
        As read.
    images : sequence of Volume
        The contrasts in RAS+ orientation.
    restore : callable
        Takes an array in RAS+ orientation to the grid of the scan.
    found : mapping of str to Finding
        Side to finding.
    names : sequence of str
        Of the labels, background first.
    provenance : mapping
        Goes into the result.
    notes : tuple of str
        Further warnings.
    outputs : mapping of str to str
        Everything that the task may write.
    registered : bool
        The second contrast was moved to the grid of the scan, and is written.
    """
    shape = images[0].shape
    native, labels, uncertainty = native_images(found, scan, shape, restore)
    made = {**crop_images(found), **native}
    if registered:
        moved = images[1].replace(header=None)
        made["second-contrast_registered"] = to_image(moved, moved, dtype=np.float32)
    written = {*made, "labels", "table", "colours", "provenance"}
    written |= {"uncertainty"} if uncertainty is not None else set()
    border = border_warnings({side: finding.box for side, finding in found.items()}, shape)
    return Result(
        labels=labels,
        uncertainty=uncertainty,
        images=made,
        table=measure(found, names),
        colours=colour_table(names),
        closeups=closeups(found),
        provenance=provenance,
        warnings=(*scan.warnings, *notes, *border, *doubts(found)),
        input=scan,
        outputs={name: end for name, end in outputs.items() if name in written},
        main_output="labels",
    )


def crop_images(found: Mapping[str, Finding]) -> dict[str, Any]:
    """Make the images that stay on the grids of the crops, by the original's names."""
    images = {}
    for side, finding in found.items():
        crop, *others = (crop.replace(header=None) for crop in finding.crops)
        images[f"{side}_hippocampus"] = to_image(crop, crop, dtype=np.float32)
        images[f"{side}_hippocampus_seg_crop"] = to_image(finding.labels, crop, dtype=np.uint8)
        if finding.uncertainty is not None:
            images[f"{side}_hippocampus_unc_crop"] = to_image(finding.uncertainty, crop, dtype=np.float64)
        for other in others:
            images[f"second-contrast_{side}_hippocampus"] = to_image(other, other, dtype=np.float32)
    return images


def native_images(
    found: Mapping[str, Finding], scan: Volume, shape: Sequence[int], restore: Restore
) -> tuple[dict[str, Any], Any, Any]:
    """Put labels and uncertainty on the grid of the scan.

    Parameters
    ----------
    found : mapping of str to Finding
        Side to finding.
    scan : Volume
        As read.
    shape : sequence of int
        Of the scan in RAS+ orientation.
    restore : callable
        Takes an array in RAS+ orientation to the grid of the scan.

    Returns
    -------
    images : dict
        Labels of each side, by the original's names.
    labels : nibabel image
        Both sides: those of the right plus 100, of the left plus 200.
    uncertainty : nibabel image or None
        Both sides, float32; 0 outside of the crops.
    """
    images = {}
    both, doubt = np.zeros(shape, np.uint16), np.zeros(shape, np.float32)
    for side, finding in found.items():
        labels = finding.box.paste(finding.labels, shape)
        images[f"{side}_hippocampus_seg"] = to_image(restore(labels), scan, dtype=np.uint8)
        free = (labels != 0) & (both == 0)
        both[free] = labels[free].astype(np.uint16) + CODES[side]
        if finding.uncertainty is not None:
            np.maximum(doubt, finding.box.paste(finding.uncertainty.astype(np.float32), shape), out=doubt)
    certain = any(finding.uncertainty is None for finding in found.values())
    uncertainty = None if certain else to_image(restore(doubt), scan, dtype=np.float32)
    return images, to_image(restore(both), scan), uncertainty


def measure(found: Mapping[str, Finding], names: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Make the table: voxels, mm3, and mean uncertainty where there is one, of each side and label."""
    rows = []
    for side, finding in found.items():
        for row in volume_rows(finding.labels, len(names), finding.crops[0]):
            more: dict[str, Any] = {}
            if finding.uncertainty is not None:
                inside = finding.labels == row["label"]
                mean = round(float(finding.uncertainty[inside].mean()), 6) if inside.any() else None
                more["mean_uncertainty"] = mean
            rows.append({"side": side, "label": row["label"], "name": names[row["label"]], **row, **more})
    return tuple(rows)


def colour_table(names: Sequence[str]) -> ColourTable:
    """Return names and colours: of the labels in the image of one side, and of those in that of both."""
    entries = {}
    for label, name in list(enumerate(names))[1:]:
        plain, colour = name.replace("/", "-").replace(" ", "-"), COLOURS[(label - 1) % len(COLOURS)]
        entries[label] = (plain, colour)
        for side, code in CODES.items():
            entries[label + code] = (f"{side.title()}-{plain}", colour)
    return ColourTable(entries)


def closeups(found: Mapping[str, Finding]) -> tuple[Closeup, ...]:
    """Return both crops with what was found there, for a quality page."""
    return tuple(
        Closeup(f"{side} hippocampus", finding.crops[0], finding.labels, finding.uncertainty)
        for side, finding in found.items()
    )


def doubts(found: Mapping[str, Finding]) -> tuple[str, ...]:
    """Say in plain words what speaks against the labels."""
    sentences = []
    for side, finding in found.items():
        voxels = int(np.count_nonzero(finding.labels))
        if not voxels:
            sentences.append(f"No voxel of the {side} crop has a label; check where its box lies.")
            continue
        if touches_border(finding.labels):
            sentences.append(
                f"The labels of the {side} side reach the border of their crop: part of the hippocampus may "
                "be cut off; a larger box or margin would show it."
            )
        volume = voxels * float(np.prod(finding.crops[0].zooms)) / 1000.0
        if not PLAUSIBLE_CM3[0] <= volume <= PLAUSIBLE_CM3[1]:
            low, high = PLAUSIBLE_CM3
            sentences.append(
                f"The labels of the {side} side fill {volume:.2f} cm3, outside {low:g} to {high:g} cm3; look "
                "at them."
            )
    if len(found) == 2:
        sentences += _overlap(*found.values())
    return tuple(sentences)


def _overlap(right: Finding, left: Finding) -> list[str]:
    """Count the voxels that both sides claim; in the image of both the right one has them."""
    low = np.maximum(right.box.low, left.box.low)
    high = np.minimum(right.box.high, left.box.high)
    if (low >= high).any():
        return []
    inside = [
        finding.labels[tuple(map(slice, low - finding.box.low, high - finding.box.low))] != 0
        for finding in (right, left)
    ]
    shared = int(np.count_nonzero(inside[0] & inside[1]))
    return [f"{shared} voxels have a label of both sides: the boxes overlap."] if shared else []
