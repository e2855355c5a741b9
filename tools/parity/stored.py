"""Worker: compare every model of the registry with stored outputs of its original, under KERAS_BACKEND.

The outputs were computed by the original code (tests/data/NOTICE); ``tests/data/zoo/NAME.json`` says which
file goes into which network, and how far the answer may be. One JSON line for each comparison.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy.special import softmax

import kerasneuro
from kerasneuro.inference import Engine

DATA = Path(__file__).resolve().parents[2] / "tests" / "data"


def references(name: str) -> Iterator[dict[str, Any]]:
    """Yield what is stored of a model whose weights are stored, too."""
    record = json.loads((DATA / "zoo" / f"{name}.json").read_text(encoding="utf-8"))
    if "like" in record:
        record = json.loads((DATA / "zoo" / f"{record['like']}.json").read_text(encoding="utf-8"))
    parts = kerasneuro.info(name).parts
    for reference in record["references"]:
        if reference["weights"] and (parts or not reference["part"]):
            yield reference
        elif reference["weights"]:  # of a bag; this model has one network
            yield {**reference, "part": "", "weights": {"": reference["weights"][reference["part"]]}}


def as_batch(array: np.ndarray) -> np.ndarray:
    """Make a batch of an image that is stored in 8 bits, with or without its axis of channels."""
    return (array if array.ndim == 4 else array[..., None])[None].astype(np.float32) / 255


def output_of(model: Any, arrays: Any, reference: dict[str, Any]) -> np.ndarray:
    """Run one network on what is stored."""
    if not isinstance(reference["x"], list):
        return Engine(model)(arrays[reference["x"]])
    found = model([as_batch(arrays[key]) for key in reference["x"]], training=False)
    return np.asarray(keras.ops.convert_to_numpy(keras.tree.flatten(found)[0]))


def compare(name: str, reference: dict[str, Any]) -> dict[str, Any]:
    """Measure one difference."""
    weights = {part: DATA / path for part, path in reference["weights"].items()}
    model = kerasneuro.load(name, weights=weights).models[reference["part"]]
    arrays = np.load(DATA / reference["arrays"])
    output = output_of(model, arrays, reference)
    if reference.get("softmax"):
        output = softmax(output, axis=-1)
    step = slice(None, None, reference.get("stride", 1))
    output = output[(slice(None), *(step,) * min(3, output.ndim - 2))]
    difference = float(np.abs(output - arrays[reference["y"]]).max())
    part = f"part {reference['part']}, " if reference["part"] else ""
    return {
        "model": name,
        "kind": "stored",
        "title": f"{part}{reference['arrays']}: {reference['y']}",
        "difference": difference,
        "size": int(output.size),
        "tolerance": reference["tolerance"],
        "within": difference <= reference["tolerance"],
    }


def main() -> None:
    """Print a line for each comparison."""
    for name in kerasneuro.list_models():
        for reference in references(name):
            row = compare(name, reference)
            print(json.dumps({"backend": keras.backend.backend(), **row}), flush=True)


if __name__ == "__main__":
    main()
