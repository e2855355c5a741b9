"""Let a task that segments judge labelled scans, and compare what it finds with the labels."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.errors import InvalidOption

if TYPE_CHECKING:
    from kerasneuro.tasks import Result, Task
    from kerasneuro.training.scans.class_table import ClassTable
    from kerasneuro.training.scans.pairs import Pair

SCORES = ("dice", "jaccard", "hd95_mm", "asd_mm", "volume_error")


def evaluate_segmentation(
    task: Task | str | os.PathLike[str],
    pairs: Any,
    *,
    classes: Any = None,
    channels: tuple[str, ...] = (),
    labels: str = "",
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Compare the segmentations of a task with label maps, class by class and scan by scan.

    Parameters
    ----------
    task : Task, str or path
        A loaded task, a registry name, or the folder of a saved model.
    pairs : list of (image, labels), CSV file or BIDS folder
        As for `kerasneuro.finetune`.
    classes : optional
        Meaning of the values of the label maps and of the task's labels; None: those that the task was
        trained with, or for a mask every value other than 0.
    channels, labels
        Columns of the CSV, as for `kerasneuro.training.data.find_pairs`.
    say : callable
        Told a line for each scan.
    **options
        Passed to the task.

    Returns
    -------
    list of dict
        For each scan and class but the background: ``subject``, ``image``, ``class``, ``value``, ``dice``,
        ``jaccard``, ``hd95_mm`` (95th percentile of the surface distances), ``asd_mm`` (their mean),
        ``volume_error`` ((found - true) / true), ``true_mm3``, ``found_mm3``. NaN where a number is not
        defined, such as the Dice of a class that neither has.

    Raises
    ------
    InvalidOption, InvalidImage
        If the scans cannot be used, or the task does not segment.
    """
    from kerasneuro.load import load
    from kerasneuro.tasks import Task
    from kerasneuro.training.scans.pairs import find_pairs

    found = task if isinstance(task, Task) else load(task)
    if found.card.task != "segmentation":
        raise InvalidOption(f"{found.card.name} does {found.card.task}; expected a task that segments")
    table = _classes(found, classes)
    rows: list[dict[str, Any]] = []
    for pair in find_pairs(pairs, channels=channels, labels=labels):
        if pair.labels is None:
            raise InvalidOption(f"subject {pair.subject} has no label map; leave the scan out")
        result = found(*pair.images, **options)
        new = compare(pair, result, table)
        known = [row["dice"] for row in new if math.isfinite(row["dice"])]
        say(
            f"{pair.subject}: Dice {float(np.mean(known)):.3f}"
            if known
            else f"{pair.subject}: no class found"
        )
        rows += new
    return rows


def _classes(task: Task, classes: Any) -> ClassTable:
    """Return the classes that are compared."""
    from kerasneuro.training.scans.class_table import ClassTable, LabelClass

    if classes is not None:
        return ClassTable.of(classes, others=0)
    own: tuple[Mapping[str, Any], ...] = tuple(task.saved["classes"]) if task.saved else ()
    settings: Mapping[str, Any] = (task.saved or {}).get("training", {}).get("data", {})
    if stated := settings.get("classes"):
        return ClassTable.of(stated, others=0)
    if own:
        return ClassTable(tuple(LabelClass(row["name"], (row["value"],)) for row in own), others=0)
    return ClassTable.of("binary")


def compare(pair: Pair, result: Result, table: ClassTable) -> list[dict[str, Any]]:
    """Score each class of one scan; distances and volumes are in mm and mm3 of its grid."""
    from kerasneuro.training.metrics.class_overlap import class_overlap
    from kerasneuro.training.metrics.surface import hausdorff_95, surface_distance, volume_error
    from kerasneuro.volume import load

    assert pair.labels is not None
    given = load(pair.labels, dtype=None, check_constant=False)
    truth = table.encode(given.array, f"the label map {pair.labels}")
    found = predicted_classes(result, table)
    if found.shape != truth.shape:
        raise InvalidOption(
            f"the result for {pair.subject} has shape {found.shape}, its label map {truth.shape}; options "
            "that change the grid cannot be used here"
        )
    overlap, voxel = class_overlap(truth, found, len(table)), float(np.prod(given.zooms))
    rows = []
    for index, each in list(enumerate(table.classes))[1:]:
        one, other = truth == index, found == index
        rows.append(
            {
                "subject": pair.subject,
                "image": pair.images[0].name,
                "class": each.name,
                "value": each.values[0],
                "dice": float(overlap.dice[index]),
                "jaccard": float(overlap.jaccard[index]),
                "hd95_mm": hausdorff_95(one, other, given.zooms),
                "asd_mm": surface_distance(one, other, given.zooms),
                "volume_error": volume_error(one, other),
                "true_mm3": float(one.sum()) * voxel,
                "found_mm3": float(other.sum()) * voxel,
            }
        )
    return rows


def predicted_classes(result: Result, table: ClassTable) -> np.ndarray:
    """Return the class index of every voxel of a result: of its label map, or of its mask."""
    image = result.labels if result.labels is not None else result.mask
    if image is None:
        raise InvalidOption("the task makes neither labels nor a mask, so nothing can be compared")
    values = np.asarray(image.dataobj)
    values = values.reshape(values.shape[:3])
    if result.labels is None:
        return np.asarray(values > 0, np.uint8)
    return table.encode(values, "the predicted label map")


def mean_scores(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Average the scores of each class over the scans in which they are finite."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(row["class"] for row in rows):
        for score in SCORES:
            values = [row[score] for row in rows if row["class"] == name and math.isfinite(row[score])]
            found.setdefault(name, {})[score] = float(np.mean(values)) if values else math.nan
    return found
