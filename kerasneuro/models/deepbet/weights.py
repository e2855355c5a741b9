"""Which array of deepbet's TorchScript archives goes to which variable of the graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.weights import Entry, Original, kernel_entry

if TYPE_CHECKING:
    import keras

    from kerasneuro.weights import LazyArray, WeightStore

ANCHOR = "init.0.weight"
"""An array of every file; what stands before it in a training checkpoint is not part of the names."""

LAYER = re.compile(
    r"(?P<stage>init|conv|tp_conv1|tp_conv2|(?:up|down)\d+)"
    r"(?:_(?P<inner>block\d_double_conv|block\d_downsample|conv1|conv2|tp_conv))?"
    r"(?:_(?P<index>\d))?"
)


FIRST_OF_STAGE = re.compile(r"down\d\.block1\.double_conv\.0\.weight")
MIRRORED = (2, 3, 4, 0, 1)
"""(in, out, x, y, z) of a transposed convolution of stride 1 to (x, y, z, in, out) of a convolution."""


def mirror_kernel(array: np.ndarray) -> np.ndarray:
    """Turn the kernel of a transposed convolution of stride 1 into that of a convolution."""
    return array[:, :, ::-1, ::-1, ::-1].transpose(MIRRORED)


def restore_mirrored(array: np.ndarray) -> np.ndarray:
    """Undo `mirror_kernel`."""
    return array.transpose(np.argsort(MIRRORED))[:, :, ::-1, ::-1, ::-1]


def original_name(layer: str) -> str:
    """Name a layer as the original does: ``down0_block1_double_conv_0`` -> ``down0.block1.double_conv.0``."""
    found = LAYER.fullmatch(layer)
    if found is None:
        raise ValueError(f"{layer!r} is not a layer of deepbet")
    inner = re.sub(r"^(block\d)_", r"\1.", found["inner"] or "")
    return ".".join(part for part in (found["stage"], inner, found["index"]) if part)


def infer_config(store: WeightStore) -> dict[str, Any]:
    """Read the widths off the shapes of an archive.

    Parameters
    ----------
    store : WeightStore
        The arrays of a file.

    Returns
    -------
    dict
        Arguments for `graph.build`; only those that the file tells.
    """
    shapes = {key: tuple(array.shape) for key, array in store.items()}
    stages = sorted(key for key in shapes if FIRST_OF_STAGE.fullmatch(key))
    config: dict[str, Any] = {}
    if stages:
        config["widths"] = tuple(shapes[key][0] for key in stages)
    if "tp_conv1.0.weight" in shapes:
        config["head_width"] = shapes["tp_conv1.0.weight"][1]
    if "tp_conv2.weight" in shapes:
        config["classes"] = shapes["tp_conv2.weight"][1]
    return config


def table(store: Mapping[str, LazyArray], model: keras.Model) -> Mapping[str, Entry | str]:
    """Name the file's array, and its change of axes, for each variable of the graph.

    Parameters
    ----------
    store : WeightStore
        The arrays of a file; they tell the shapes. The names do not depend on it.
    model : keras.Model
        From `graph.build`.

    Returns
    -------
    mapping of str to Entry or str
        Variable path -> key of the file, for `kerasneuro.weights.assign`, in the order of the file.
    """
    last_stage = sum(layer.name.endswith("_tp_conv_0") for layer in model.layers) - 1
    entries: dict[str, Entry | str] = {}
    for variable in model.variables:
        layer, kind = variable.path.split("/")[-2:]
        if kind == "bias":
            entries[variable.path] = f"{original_name(layer)}.bias"
            continue
        key = f"{original_name(layer)}.weight"
        mirrored = layer == f"up{last_stage}_tp_conv_0"
        entries[variable.path] = mirrored_entry(store, key) if mirrored else kernel_entry(store, key, rank=5)
    return entries


def original(model: keras.Model) -> Original:
    """Describe the state dict of the original network.

    Parameters
    ----------
    model : keras.Model
        From `graph.build`.

    Returns
    -------
    Original
        For `kerasneuro.weights.write_original`.
    """
    return Original("torch", table({}, model))


def mirrored_entry(store: Mapping[str, LazyArray], key: str) -> Entry:
    """Describe the kernel of a transposed convolution of stride 1."""
    shape = tuple(store[key].shape) if key in store else ()
    known = tuple(shape[axis] for axis in MIRRORED) if len(shape) == 5 else None
    return Entry((key,), mirror_kernel, known, restore_mirrored)
