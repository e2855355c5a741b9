"""Which array of a FastSurferCNN checkpoint goes to which variable of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kerasneuro.errors import WeightsMismatch
from kerasneuro.weights import Entry, Original, kernel_entry

if TYPE_CHECKING:
    import keras

    from kerasneuro.weights import LazyArray, WeightStore

ANCHOR = "encode1.conv0.weight"
"""An array of every file; what stands before it in a training checkpoint is not part of the names."""
CLASSIFIER = "classifier.conv.weight"
FASTSURFER_2 = "inp_block."
"""Only the networks of version 2 have this block."""
IGNORED = ("*.num_batches_tracked",)
PLANES = {79: ("axial", "coronal"), 51: ("sagittal",)}
"""Published class counts, and the planes they belong to."""
LAYERS = ("conv0", "conv1", "conv2", "bn0", "bn1", "bn2", "bn3", "prelu", "conv")
"""Of a block, in the order of the file."""
LEAVES = {
    "kernel": "weight",
    "alpha": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def infer_config(store: WeightStore) -> dict[str, Any]:
    """Read the configuration of the network off the shapes in its file.

    Parameters
    ----------
    store : WeightStore
        The arrays of the network, without what a checkpoint puts before their names.

    Returns
    -------
    dict
        ``filters``, ``classes``, ``kernel_height``, ``kernel_width`` and ``channels`` of `graph.build`.

    Raises
    ------
    WeightsMismatch
        If the file holds another network.
    """
    if any(key.startswith(FASTSURFER_2) for key in store):
        raise WeightsMismatch(
            f"{store.path} holds a network of FastSurfer 2, expected FastSurferCNN of version 1 (the file "
            "Epoch_30_training_state.pkl of this plane); give that file"
        )
    if not all(key in store and len(store[key].shape) == 4 for key in (ANCHOR, CLASSIFIER)):
        raise WeightsMismatch(
            f"{store.path} is not a FastSurferCNN checkpoint: expected the 4-D arrays {ANCHOR} and "
            f"{CLASSIFIER}, found {', '.join(store.roots[:5]) or 'nothing'}; give the file of this model"
        )
    filters, channels, height, width = store[ANCHOR].shape
    return {
        "filters": int(filters),
        "classes": int(store[CLASSIFIER].shape[0]),
        "kernel_height": int(height),
        "kernel_width": int(width),
        "channels": int(channels),
    }


def check_part(store: WeightStore, part: str, config: Mapping[str, Any]) -> None:
    """Refuse the checkpoint of another plane, known by its number of classes.

    Parameters
    ----------
    store : WeightStore
        The opened checkpoint.
    part : str
        The plane it was given for.
    config : mapping
        From `infer_config`.

    Raises
    ------
    WeightsMismatch
        If the number of classes is that of another plane.
    """
    planes = PLANES.get(config["classes"], (part,))
    if part not in planes:
        wanted = next(classes for classes, names in PLANES.items() if part in names)
        raise WeightsMismatch(
            f"{store.path} has {config['classes']} classes, those of the {' or '.join(planes)} network, but "
            f"was given for the {part} plane, which has {wanted}; give each plane its own checkpoint"
        )


def table(store: Mapping[str, LazyArray], model: keras.Model) -> Mapping[str, Entry | str]:
    """Name the file's array, and its change of axes, for each variable of the graph.

    Parameters
    ----------
    store : WeightStore
        The arrays of the network; they tell the shapes. The names do not depend on it.
    model : keras.Model
        From `graph.build`.

    Returns
    -------
    mapping of str to Entry or str
        Variable path -> key of the file, for `kerasneuro.weights.assign`, in the order of the file.
    """
    entries: dict[str, Entry | str] = {}
    for variable in in_file_order(model):
        layer, leaf = variable.path.split("/")[-2:]
        key = f"{layer.replace('_', '.')}.{LEAVES.get(leaf, leaf)}"
        entries[variable.path] = kernel_entry(store, key, rank=4) if leaf == "kernel" else key
    return entries


def in_file_order(model: keras.Model) -> list[Any]:
    """List the variables block by block, and in each block by kind of layer."""
    names = {variable.path: variable.path.split("/")[-2].split("_") for variable in model.variables}
    blocks = list(dict.fromkeys(block for block, _ in names.values()))

    def place(variable: Any) -> tuple[int, int]:
        block, layer = names[variable.path]
        return blocks.index(block), LAYERS.index(layer)

    return sorted(model.variables, key=place)


def original(model: keras.Model) -> Original:
    """Describe the checkpoint of the original network.

    Parameters
    ----------
    model : keras.Model
        From `graph.build`.

    Returns
    -------
    Original
        For `kerasneuro.weights.write_original`.
    """
    return Original("torch", table({}, model), root="model_state_dict")
