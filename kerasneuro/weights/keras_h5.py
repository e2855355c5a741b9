"""Read Keras 2 weight files (``.h5``): a whole saved model or its weights alone.

The layout is that of keras-team/keras@v2.15.0, keras/src/saving/legacy/hdf5_format.py: the attribute
``layer_names`` lists the layers, the attribute ``weight_names`` of each layer's group lists its arrays. Only
these two give the order; HDF5 itself lists names alphabetically. The stored model configuration is text and
is never interpreted here.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.weights.hdf5_guard import lazy_array, read_names, read_text
from kerasneuro.weights.store import LazyArray, WeightStore

# Weights owned by the model itself, outside every layer; usually empty, and not in `layer_names`.
TOP_LEVEL = "top_level_model_weights"
TEXTS = ("model_config", "keras_version", "backend")
NATIVE_MARKS = ("_layer_checkpoint_dependencies", "layers", "vars")


def open_keras(file: Any, path: Path) -> WeightStore:
    """List the arrays of a Keras 2 file.

    Parameters
    ----------
    file : h5py.File
        From `hdf5_guard.open_guarded`; closed with the store.
    path : Path
        The file, for messages.

    Returns
    -------
    WeightStore
        Keys ``<layer>/<weight>``, e.g. ``conv3d_1/kernel``, or ``model_1/conv3d/kernel`` in nested models.

    Raises
    ------
    WeightsCorrupt
        If it is not such a file, or it is not complete.
    """
    group, layer_names = _find_layers(file, path)
    arrays: dict[str, LazyArray] = {}
    layers: list[tuple[str, tuple[str, ...]]] = []
    for layer in layer_names:
        found = _layer_arrays(group, layer, path)
        if arrays.keys() & found.keys():
            raise WeightsCorrupt(f"{path}: the arrays of layer {layer!r} are named as those of another layer")
        arrays.update(found)
        if found:
            layers.append((layer, tuple(found)))
    texts = {name: read_text(file.attrs, name, path) or read_text(group.attrs, name, path) for name in TEXTS}
    attributes = {name: text for name, text in texts.items() if text is not None}
    return WeightStore(
        path, "keras-h5", arrays, layers=tuple(layers), attributes=attributes, close=file.close
    )


def _find_layers(file: Any, path: Path) -> tuple[Any, list[str]]:
    """Return the group that holds the layers, and their names in the order of the network."""
    import h5py

    group = file
    if read_names(file.attrs, "layer_names", path) is None and "model_weights" in file:
        group = file["model_weights"]
    layer_names = read_names(group.attrs, "layer_names", path) if isinstance(group, h5py.Group) else None
    if layer_names is None:
        raise WeightsCorrupt(_describe_other(file, path))
    if TOP_LEVEL in group and TOP_LEVEL not in layer_names:
        layer_names.append(TOP_LEVEL)
    if len(set(layer_names)) != len(layer_names):
        repeated = Counter(layer_names).most_common(1)[0][0]
        raise WeightsCorrupt(f"{path}: the layer {repeated!r} is listed twice in layer_names")
    return group, layer_names


def _describe_other(file: Any, path: Path) -> str:
    if any(mark in file for mark in NATIVE_MARKS):
        return (
            f"{path} has the Keras 3 native layout (.weights.h5), which names objects by position; expected "
            "a Keras 2 file with layer_names: load it with Keras, or give the original weight file"
        )
    return f"{path} is an HDF5 file without layer_names, expected the weights of a Keras 2 model"


def _layer_arrays(group: Any, layer: str, path: Path) -> dict[str, LazyArray]:
    """Return the arrays of one layer under their short keys, in the order of ``weight_names``."""
    import h5py

    folder = group.get(layer)
    if not isinstance(folder, h5py.Group):
        raise WeightsCorrupt(f"{path}: the layer {layer!r} of layer_names has no group")
    names = read_names(folder.attrs, "weight_names", path)
    if names is None:
        raise WeightsCorrupt(f"{path}: the layer {layer!r} has no attribute weight_names")
    keys = [short_key(layer, name) for name in names]
    if len(set(keys)) != len(keys):
        keys = [f"{layer}/{name.removesuffix(':0')}" for name in names]
    if len(set(keys)) != len(keys):
        raise WeightsCorrupt(f"{path}: the layer {layer!r} names an array twice")
    arrays = {}
    for key, name in zip(keys, names, strict=True):
        dataset = folder.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise WeightsCorrupt(
                f"{path}: the array {name!r} of layer {layer!r} is missing; fetch the file again"
            )
        arrays[key] = lazy_array(key, dataset, path)
    return arrays


def short_key(layer: str, weight: str) -> str:
    """Name an array by its layer and what follows the layer's own name.

    Parameters
    ----------
    layer, weight : str
        As in ``layer_names`` and ``weight_names``.

    Returns
    -------
    str
        ("conv3d", "unet/conv3d/kernel:0") -> "conv3d/kernel";
        ("model_1", "conv3d/bias:0") -> "model_1/conv3d/bias".
    """
    own = layer.split("/")
    parts = weight.removesuffix(":0").split("/")
    for start in range(len(parts) - len(own) - 1, -1, -1):
        if parts[start : start + len(own)] == own:
            parts = parts[start + len(own) :]
            break
    return "/".join([layer, *parts])
