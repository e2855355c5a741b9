"""Turn a network that gives a displacement into a graph that is trained on images, labels and smoothness."""

from __future__ import annotations

import keras

from kerasneuro.errors import InvalidOption
from kerasneuro.nn.spatial_layers import SpatialTransformer


def training_model(
    network: keras.Model, *, images: bool = True, labels: int = 0, moving: int = 0
) -> keras.Model:
    """Build the graph of the losses around a registration network; it shares the network's weights.

    The outputs are, in this order, what was asked for of: the moved image, the moved one-hot labels, and the
    field that is kept smooth. Each gets a loss of its own in ``compile(loss=[...])``.

    Source: voxelmorph/voxelmorph@ca28315, ``scripts/tf/train_synthmorph.py``.

    Parameters
    ----------
    network : keras.Model
        Its first output is a displacement ``(B, X, Y, Z, N)`` on the grid of the images, in voxels; its last
        output (the same, if there is one only) the field that is kept smooth.
    images : bool
        Give the moved image.
    labels : int
        Number of labels; above 0, the moving one-hot labels ``(B, X, Y, Z, labels)`` are a further input, the
        last one, and the moved ones an output.
    moving : int
        Place of the moving image among the inputs.

    Returns
    -------
    keras.Model
        Named after the network.

    Raises
    ------
    InvalidOption
        If neither images nor labels are compared.

    Examples
    --------
    >>> from kerasneuro.models.voxelmorph.graph import build, registration_model
    >>> network = build((16, 16), nb_unet_features=((4, 4), (4, 4, 4)))
    >>> model = training_model(registration_model(network), labels=3)
    >>> [output.shape for output in model.outputs]
    [(None, 16, 16, 1), (None, 16, 16, 3), (None, 16, 16, 2)]
    """
    if not images and labels < 1:
        raise InvalidOption("a registration is trained on images, on labels or on both; found neither")
    displacement, field = network.outputs[0], network.outputs[-1]
    inputs, outputs = list(network.inputs), []
    if images:
        outputs.append(SpatialTransformer(name="moved_image")([inputs[moving], displacement]))
    if labels > 0:
        maps = keras.Input((*inputs[moving].shape[1:-1], labels), name="moving_labels")
        outputs.append(SpatialTransformer(name="moved_labels")([maps, displacement]))
        inputs.append(maps)
    return keras.Model(inputs, [*outputs, field], name=f"{network.name}_training")
