"""What the originals hand over to the comparison: a folder of files and a list of cases.

Standard library and NumPy alone, because the originals run in environments of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

CASES = "cases.json"
RETURNED = "returned.json"


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes
    ----------
    kind : str
        "network": one array through one network; "pipeline": one scan through the whole tool; "score": a loss
        or a metric of arrays ``truth`` and ``predicted``. Every network
        case is also a "returned" one: kerasneuro converts the weights and writes them back, and the original
        runs again on what it is given.
    model : str
        Registry name; of a score, its name in `kerasneuro.training`.
    title : str
        What is compared, for the table.
    weights : dict of str to str
        Part -> weight file that the original wrote, relative to the folder.
    expected : str
        File with the original's answer: arrays ``x`` and ``y`` (npz; of a score ``y`` is the number), or a
        mask (NIfTI).
    image : str
        The scan of a pipeline case.
    options : dict
        Keywords of the task's call, or of the loss or metric.
    part : str
        The part that a network case runs.
    tolerance : float
        Largest difference allowed: absolute for networks, voxels for pipelines, relative for scores.
    softmax : bool
        The original's network ends with a softmax that our graph leaves to the task.
    """

    kind: str
    model: str
    title: str
    weights: dict[str, str]
    expected: str
    tolerance: float
    image: str = ""
    options: dict[str, object] = field(default_factory=dict)
    part: str = ""
    softmax: bool = False


def write_cases(folder: Path, cases: list[Case], versions: dict[str, str]) -> None:
    """Write the list beside the files."""
    record = {"versions": versions, "cases": [asdict(case) for case in cases]}
    (folder / CASES).write_text(json.dumps(record, indent=1), encoding="utf-8")


def read_cases(folder: Path) -> tuple[list[Case], dict[str, str]]:
    """Read the list that an original wrote, and the versions it ran with."""
    record = json.loads((folder / CASES).read_text(encoding="utf-8"))
    return [Case(**case) for case in record["cases"]], record["versions"]


def write_returned(folder: Path, files: dict[str, str]) -> None:
    """Write which file kerasneuro made for which case: title -> name."""
    (folder / RETURNED).write_text(json.dumps(files, indent=1), encoding="utf-8")


def compare_returned(folder: Path, predict: Callable[[Case, Path, np.ndarray], np.ndarray]) -> None:
    """Print one JSON line per returned file: how far the original's answer moved, which should be nothing."""
    files = json.loads((folder / RETURNED).read_text(encoding="utf-8"))
    for case in read_cases(folder)[0]:
        if case.title not in files or case.kind != "network":
            continue
        arrays = np.load(folder / case.expected)
        output = predict(case, folder / files[case.title], arrays["x"])
        difference = float(np.abs(output - arrays["y"]).max())
        row = {
            "backend": "original",
            "model": case.model,
            "kind": "returned",
            "title": case.title,
            "difference": difference,
            "size": int(output.size),
            "tolerance": 0.0,
            "within": difference == 0.0,
        }
        print(json.dumps(row), flush=True)
