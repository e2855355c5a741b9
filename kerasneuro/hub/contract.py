"""What the description of a third party's model says about the images that go in and come out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from kerasneuro.errors import InvalidOption

ORIENTATION = re.compile(r"as stored|(?=.*[LR])(?=.*[AP])(?=.*[IS])[LRAPIS]{3}")
HSF_CONTRACT: Mapping[str, Any] = {"augmented_copies": 0}
HSF_MULTIPLE = 8
ONNX_CONTRACT: Mapping[str, Any] = {
    "images": ["image"],
    "orientation": "as stored",
    "normalise": "zscore",
    "block_shape": None,
    "kind": "probability",
}


def is_whole(value: Any, least: int) -> bool:
    """Say whether a value is a whole number that is large enough."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_orientation(value: Any) -> bool:
    """Say whether a value names an orientation."""
    return isinstance(value, str) and ORIENTATION.fullmatch(value) is not None


def is_block(value: Any) -> bool:
    """Say whether a value is the shape of a block, or None."""
    return value is None or (
        isinstance(value, list) and len(value) == 3 and all(is_whole(size, 1) for size in value)
    )


def is_names(value: Any) -> bool:
    """Say whether a value is a list of different names."""
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        return False
    return all(name.strip() for name in value) and len(set(value)) == len(value)


# Key -> whether a value is allowed, and what is.
RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "augmented_copies": (lambda value: is_whole(value, 0), "a whole number of at least 0"),
    "images": (is_names, "a list with a name for each channel"),
    "orientation": (is_orientation, "'as stored' or axis codes such as RAS"),
    "normalise": (("zscore", "quantiles", "none").__contains__, "zscore, quantiles or none"),
    "block_shape": (is_block, "three whole numbers of at least 1"),
    "kind": (("probability", "logits").__contains__, "probability or logits"),
}


def check_keys(found: Any, allowed: tuple[str, ...], required: tuple[str, ...], where: str) -> None:
    """Refuse what is no mapping, has unknown keys, or lacks some.

    Raises
    ------
    InvalidOption
        With the first unknown key, or all that are missing.
    """
    if not isinstance(found, Mapping):
        raise InvalidOption(f"{where} must hold keys and their values, found {str(found)[:60]!r}")
    unknown = [str(key) for key in found if key not in allowed]
    if unknown:
        raise InvalidOption(f"{where} has the unknown key {unknown[0]!r}; known are {', '.join(allowed)}")
    missing = [key for key in required if found.get(key) in (None, "", [], {})]
    if missing:
        raise InvalidOption(f"{where} lacks {', '.join(missing)}")


def read_contract(given: Any, family: str, where: str) -> dict[str, Any]:
    """Check what a description says about images in and out, and complete it.

    Raises
    ------
    InvalidOption
        With the first thing that is unknown or not allowed.
    """
    defaults = HSF_CONTRACT if family == "hsf" else ONNX_CONTRACT
    check_keys(given, tuple(defaults), (), where)
    for key, value in given.items():
        allowed, told = RULES[key]
        if not allowed(value):
            raise InvalidOption(f"{where}: {key} is {told}, found {value!r}")
    return {**defaults, **given}


def input_of(contract: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Return what a card says about the input."""
    if family == "hsf":
        return {
            "images": ["T1w or T2w"],
            "array": "(B, X, Y, Z, 1) float32, standard scores of one hippocampus crop",
            "multiple": HSF_MULTIPLE,
            "orientation": "RAS",
            "preprocessing": "crop around each hippocampus, standard score over the crop, zero padding",
            "augmented_copies": contract["augmented_copies"],
        }
    channels = len(contract["images"])
    block = {} if contract["block_shape"] is None else {"block_shape": contract["block_shape"]}
    return {
        "images": contract["images"],
        "array": f"(B, X, Y, Z, {channels}) float32",
        "multiple": 1,
        "orientation": contract["orientation"],
        "preprocessing": f"each channel: {contract['normalise']}",
        "normalise": contract["normalise"],
        **block,
    }


def output_of(contract: Mapping[str, Any], family: str, labels: list[str]) -> dict[str, Any]:
    """Return what a card says about the output."""
    array = f"(B, X, Y, Z, {len(labels)}) float32"
    if family == "hsf":
        result = "labels of each hippocampus on the input grid, uncertainty on the crop"
        return {
            "array": array,
            "kind": "probability",
            "classes": len(labels),
            "labels": labels,
            "result": result,
        }
    classes = [{"index": index, "name": label, "value": index} for index, label in enumerate(labels)]
    result = "mask or labels on the grid of the scan"
    return {"array": array, "kind": contract["kind"], "classes": classes, "labels": labels, "result": result}
