"""Find the box of each hippocampus: given ones, masks, or by registration to a template."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.models.hsf.ants import ants_boxes
from kerasneuro.models.hsf.boxes import Box, boxes_from_labels, read_boxes, triple
from kerasneuro.models.hsf.masks import Masks, boxes_from_masks
from kerasneuro.models.hsf.template import template_labels
from kerasneuro.volume import Volume, to_axcodes
from kerasneuro.volume import load as load_volume

if TYPE_CHECKING:
    from kerasneuro.tasks import Task

MARGIN = (16, 4, 16)
"""Voxels added along each axis by HSF's default; its guide names 8, 8, 8 for T1w and isotropic T2w scans."""
METHODS = ("template", "synthmorph", "ants")
CONTRASTS = ("t1", "t2")
ROLE = "localisation"
SAME_PLACE = 0.1  # mm


class Offsets(TypedDict):
    """Voxels by which the box of each side is moved."""

    right_offset: Sequence[int]
    left_offset: Sequence[int]


def locate(
    image: Volume,
    *,
    roi: str = "template",
    boxes: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    masks: Masks | None = None,
    mask: str | os.PathLike[str] | Volume | None = None,
    contrast: str = "t2",
    margin: Sequence[int] | None = None,
    right_offset: Sequence[int] = (0, 0, 0),
    left_offset: Sequence[int] = (0, 0, 0),
    bet: bool = False,
    needs: Mapping[str, Callable[[], Task]] | None = None,
) -> dict[str, Box]:
    """Find the box of each hippocampus.

    Given boxes win over given masks, and these over registration.

    Parameters
    ----------
    image : Volume
        A head in RAS+ orientation.
    roi : {"template", "synthmorph", "ants"}
        How a template is registered to the image: by our own affine registration (SimpleITK), by
        SynthMorph's affine network, or by ANTs as in the original.
    boxes : path or mapping, optional
        See `read_boxes`.
    masks : path, Volume or mapping, optional
        Masks of the hippocampi or a segmentation that shows them; see `boxes_from_masks`.
    mask : path or Volume, optional
        Brain mask of the image, in any orientation; registration looks at these voxels only.
    contrast : {"t1", "t2"}
        Contrast of the image, which chooses the template.
    margin : sequence of int, optional
        Voxels of the image added along each axis; default (16, 4, 16).
    right_offset, left_offset : sequence of int
        Voxels by which the box of a side is moved.
    bet : bool
        Register the brain-extracted template; for images without skull.
    needs : mapping, optional
        Role -> function that loads a task; ``roi="synthmorph"`` calls ``needs["localisation"]``.

    Returns
    -------
    dict of str to Box
        "right" before "left".

    Raises
    ------
    InvalidOption
        If an option is unknown or malformed, or a given box does not fit the image.
    InvalidImage
        If a mask or a label of a hippocampus is missing, or the registration failed.
    MissingDependency
        If SimpleITK, or ANTs, is not installed.
    """
    offsets = Offsets(right_offset=right_offset, left_offset=left_offset)
    _check(roi, contrast)
    if boxes is not None:
        return read_boxes(boxes, image.shape)
    margins = triple(MARGIN if margin is None else margin, "margin", least=0)
    if masks is not None:
        return boxes_from_masks(masks, image, margins, **offsets)
    inside = None if mask is None else read_mask(mask, image)
    if roi == "ants":
        return ants_boxes(image, contrast=contrast, margin=margins, bet=bet, mask=inside, **offsets)
    network = _network(needs) if roi == "synthmorph" else None
    labels = template_labels(image, contrast=contrast, bet=bet, mask=inside, network=network)
    return boxes_from_labels(labels, margins, **offsets)


def read_mask(mask: str | os.PathLike[str] | Volume, image: Volume) -> np.ndarray:
    """Read a mask of an image and turn it as the image.

    Parameters
    ----------
    mask : path or Volume
        In any orientation, of the same voxels.
    image : Volume
        In RAS+ orientation.

    Returns
    -------
    ndarray (X, Y, Z)
        True inside.

    Raises
    ------
    InvalidImage
        If the mask is empty or lies on another grid.
    """
    read = load_volume(mask, dtype=None, check_constant=False)
    turned, _ = to_axcodes(read)
    if turned.shape != image.shape or not np.allclose(turned.affine, image.affine, rtol=0, atol=SAME_PLACE):
        raise InvalidImage(
            f"{read.path or 'mask'}: expected a mask of the voxels of the image ({image.shape} in RAS+ "
            f"orientation, at the same place), found {turned.shape}; give a mask of this image, or none"
        )
    inside = turned.array != 0
    if not inside.any():
        raise InvalidImage(f"{read.path or 'mask'}: expected a brain mask, found no voxel other than 0")
    return inside


def _network(needs: Mapping[str, Callable[[], Task]] | None) -> Callable[[], Task]:
    if not needs or ROLE not in needs:
        raise InvalidOption(f"roi='synthmorph' needs a registration task as {ROLE!r}; use roi='template'")
    return needs[ROLE]


def _check(roi: str, contrast: str) -> None:
    if roi not in METHODS:
        raise InvalidOption(f"roi must be one of {', '.join(METHODS)}, found {roi!r}")
    if contrast not in CONTRASTS:
        raise InvalidOption(f"contrast must be one of {', '.join(CONTRASTS)}, found {contrast!r}")
