"""Worker: kerasneuro loads what the originals wrote and predicts, under the backend of KERAS_BACKEND."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import nibabel as nib
import numpy as np
from cases import Case, read_cases
from scipy.special import softmax

import kerasneuro
from kerasneuro.inference import Engine
from kerasneuro.training.losses.by_name import get_loss
from kerasneuro.training.metrics import overlap as overlap_metrics
from kerasneuro.training.metrics import surface as surface_metrics


def compare(folder: Path, case: Case) -> dict[str, object]:
    """Run one case and measure the largest difference from the original."""
    if case.kind == "score":
        difference, size = score(folder, case)
    else:
        difference, size = model(folder, case)
    return {
        "model": case.model,
        "kind": case.kind,
        "title": case.title,
        "difference": difference,
        "size": size,
        "tolerance": case.tolerance,
        "within": bool(difference <= case.tolerance),
    }


def model(folder: Path, case: Case) -> tuple[float, int]:
    """Load a model from the original's files and run it."""
    weights: object = {part: folder / path for part, path in case.weights.items()}
    if list(case.weights) == [""]:
        weights = folder / case.weights[""]
    task = kerasneuro.load(case.model, weights=weights)
    return (network if case.kind == "network" else pipeline)(folder, case, task)


def score(folder: Path, case: Case) -> tuple[float, int]:
    """Return the relative difference of a loss or a metric, and the number of voxels it is of."""
    arrays = np.load(folder / case.expected)
    pair = arrays["truth"], arrays["predicted"]
    if hasattr(surface_metrics, case.model):
        found = getattr(surface_metrics, case.model)(*pair, **case.options)
    elif hasattr(overlap_metrics, case.model):
        metric = getattr(overlap_metrics, case.model)(**case.options)
        metric.update_state(*pair)
        found = metric.result()
    else:
        found = get_loss(case.model, **case.options)(*pair)
    expected = float(arrays["y"])
    return abs(float(found) - expected) / abs(expected), int(pair[0].size)


def network(folder: Path, case: Case, task: kerasneuro.Task) -> tuple[float, int]:
    """Return the largest absolute difference of an output, and the number of its values."""
    arrays = np.load(folder / case.expected)
    output = Engine(task.models[case.part])(arrays["x"])
    if case.softmax:
        output = softmax(output, axis=-1)
    return float(np.abs(output - arrays["y"]).max()), int(output.size)


def pipeline(folder: Path, case: Case, task: kerasneuro.Task) -> tuple[float, int]:
    """Return the number of voxels that differ, and the number of voxels in the original's mask."""
    options = {key: tuple(item) if isinstance(item, list) else item for key, item in case.options.items()}
    result = task(folder / case.image, **options)
    expected = np.asarray(nib.load(folder / case.expected).dataobj) != 0
    found = np.asarray(result.mask.dataobj) != 0
    return float((expected != found).sum()), int(expected.sum())


def main(folders: list[Path]) -> None:
    """Print one JSON line per case."""
    for folder in folders:
        for case in read_cases(folder)[0]:
            row = {"backend": keras.backend.backend(), **compare(folder, case)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
