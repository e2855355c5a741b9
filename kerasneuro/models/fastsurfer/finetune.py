"""Train FastSurferCNN as its authors did, and give a trained network another set of classes.

Source: Deep-MI/FastSurfer@070647d, ``FastSurferCNN/{train,models/solver}.py``; L. Henschel et al., NeuroImage
219 (2020) 117012, doi:10.1016/j.neuroimage.2020.117012.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasneuro.models.fastsurfer import graph, weights
from kerasneuro.training.losses.dice_cross_entropy import DiceCrossEntropy
from kerasneuro.training.optimisers.adam_l2 import AdamL2, StepDecay
from kerasneuro.training.transfer import copy_weights
from kerasneuro.weights import assign, read, restore_kernel, unwrap, write_flat

EPOCHS = 31
LEARNING_RATE = 0.01
L2 = 1e-4
DECAY = 0.3
EPOCHS_OF_A_RATE = 5
HEAD = "classifier_conv"


def compile_network(model: keras.Model, learning_rate: float = LEARNING_RATE, **options: Any) -> None:
    """Give a network the loss and the optimiser of the original.

    Soft Dice plus weighted cross entropy; Adam with an L2 term of 1e-4 on every weight. The original trains
    31 epochs of shuffled batches of 16 slices with the rates of `schedule`.

    Parameters
    ----------
    model : keras.Model
        From `graph.build`.
    learning_rate : float
        At the start; a tenth or less suits a network that is trained already.
    **options
        Passed to `keras.Model.compile`.
    """
    model.compile(optimizer=AdamL2(learning_rate, l2=L2), loss=DiceCrossEntropy(), **options)


def schedule(learning_rate: float = LEARNING_RATE) -> keras.callbacks.Callback:
    """Return the callback that multiplies the learning rate by 0.3 after every five epochs."""
    decay = StepDecay(learning_rate, factor=DECAY, every=EPOCHS_OF_A_RATE)
    return keras.callbacks.LearningRateScheduler(decay)


def with_classes(parent: keras.Model, classes: int, name: str = "fastsurfer") -> keras.Model:
    """Build a network for another set of classes that starts from the weights of a trained one.

    All layers but the classifier are copied by name; the classifier is drawn anew.

    Parameters
    ----------
    parent : keras.Model
        A trained network from `graph.build` or `read_network`.
    classes : int
        Number of classes, background included.
    name : str
        Name of the new network.

    Returns
    -------
    keras.Model
        Takes slices of any size.

    Raises
    ------
    WeightsMismatch
        If `parent` is another network.
    """
    height, width, channels, filters = parent.get_layer("encode1_conv0").kernel.shape
    model = graph.build(
        filters=filters,
        classes=classes,
        kernel_height=height,
        kernel_width=width,
        channels=channels,
        name=name,
    )
    copy_weights(parent, model, new=(HEAD,))
    return model


def read_network(path: str | Path, name: str = "fastsurfer") -> keras.Model:
    """Read the network of one plane: an original checkpoint, or a file of `write_network`.

    Parameters
    ----------
    path : str or Path
        Filters, classes and kernel sizes are taken from the shapes in it.
    name : str
        Name of the network.

    Returns
    -------
    keras.Model
        With the weights of the file.

    Raises
    ------
    WeightsMismatch, WeightsCorrupt
        If it holds another network, or is damaged.
    """
    with read(Path(path)) as file:
        store = unwrap(file, weights.ANCHOR)
        model = graph.build(**weights.infer_config(store), name=name)
        assign(model, store, weights.table(store, model), ignore=weights.IGNORED)
    return model


def write_network(model: keras.Model, path: str | Path, attributes: Mapping[str, str]) -> None:
    """Write the network of one plane, its arrays named and laid out as in the original checkpoints.

    `kerasneuro.load("fastsurfer-cnn", weights={...})` takes the file for its plane where it has the number of
    classes of that plane; `read_network` takes it with any.

    Parameters
    ----------
    model : keras.Model
        From `graph.build`.
    path : str or Path
        Target, ``.h5``; replaced once the new file is complete.
    attributes : mapping of str to str
        Texts of provenance: the parent, the classes, the licence.

    Raises
    ------
    OutputError
        If the file can not be written.
    """
    write_flat(path, original_arrays(model), attributes)


def original_arrays(model: keras.Model) -> Iterator[tuple[str, np.ndarray]]:
    """Give the weights of a network under the names, and in the axis order, of the original."""
    for variable in model.weights:
        layer, leaf = variable.path.split("/")[-2:]
        values = keras.ops.convert_to_numpy(variable)
        name = f"{layer.replace('_', '.')}.{weights.LEAVES.get(leaf, leaf)}"
        yield name, restore_kernel(values) if leaf == "kernel" else values
