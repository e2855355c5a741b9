"""The parts of VxmDense that inference runs one after the other, each with one input and one output.

Apart from each other they need less memory: the first convolutions, at the full resolution of the images, are
computed slab by slab where no later layer reads them; both directions use one velocity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasneuro.models.voxelmorph.unet import HostHeNormal
from kerasneuro.nn.hyper_convolution import HyperConvFromDense


@dataclass(frozen=True)
class Parts:
    """Networks that share the weights of one VxmDense.

    Attributes
    ----------
    head : keras.Model or None
        Both images (B, X, Y, Z, 2) to the first level after its pooling; None if a skip connection needs
        the full resolution.
    velocity : keras.Model
        From there (or from both images) to the velocity on the grid of the integration.
    displacement : keras.Model or None
        Velocity to displacement (B, X, Y, Z, 3) in voxels of the images; None if they are the same.
    """

    head: keras.Model | None
    velocity: keras.Model
    displacement: keras.Model | None


def divide(model: keras.Model) -> Parts:
    """Divide a network into its parts.

    Parameters
    ----------
    model : keras.Model
        From `graph.build`, without a hypernetwork.
    """
    names = {layer.name for layer in model.layers}
    prefix = model.name
    both = model.get_layer(f"{prefix}_unet_input_concat").output
    full = model.get_layer(f"{prefix}_transformer").input[1]
    integral = f"{prefix}_flow_int"
    velocity = model.get_layer(integral).input if integral in names else full
    head, start = None, both
    if f"{prefix}_unet_dec_upsample_0" not in names:
        start = model.get_layer(f"{prefix}_unet_enc_pooling_0").output
        head = keras.Model(both, start, name=f"{prefix}_head")
    return Parts(
        head,
        keras.Model(start, velocity, name=f"{prefix}_velocity"),
        None if velocity is full else keras.Model(velocity, full, name=f"{prefix}_displacement"),
    )


def head_reach(model: keras.Model) -> int:
    """Count the convolutions of the first level: by so many voxels each voxel sees its neighbours."""
    level = f"{model.name}_unet_enc_conv_0_"
    return sum(layer.name.startswith(level) and bool(layer.weights) for layer in model.layers)


def specialise(model: keras.Model, hyperparameters: Sequence[float]) -> keras.Model:
    """Compute the kernels of a HyperVxmDense once, and return the VxmDense that has them.

    Parameters
    ----------
    model : keras.Model
        From `graph.build` with a hypernetwork.
    hyperparameters : sequence of float
        P values.

    Returns
    -------
    keras.Model
        Of the same sizes, with the inputs source and target alone.
    """
    # In NumPy, since each backend would compile for the shape of every kernel.
    units = np.asarray(list(hyperparameters), np.float32)
    count = sum(layer.name.startswith(f"{model.name}_hyp_dense_") for layer in model.layers)
    for index in range(1, count + 1):
        kernel, bias = model.get_layer(f"{model.name}_hyp_dense_{index}").get_weights()
        units = np.maximum(units @ kernel + bias, 0)
    plain = without_hypernetwork(model)
    for layer in plain.layers:
        source = model.get_layer(layer.name)
        if not isinstance(source, HyperConvFromDense):
            layer.set_weights(source.get_weights())
            continue
        weights = {variable.name: ops.convert_to_numpy(variable) for variable in source.weights}
        kernel = units @ weights["hyperkernel_kernel"] + weights["hyperkernel_bias"]
        bias = units @ weights["hyperbias_kernel"] + weights["hyperbias_bias"]
        layer.set_weights([kernel.reshape(layer.kernel.shape), bias])
    return plain


def without_hypernetwork(model: keras.Model) -> keras.Model:
    """Copy a HyperVxmDense with plain convolutions, of new weights, in the place of the computed ones."""

    def copy(layer: Any) -> Any:
        # Keras's own initialisers are compiled for each shape on JAX.
        start = {"kernel_initializer": HostHeNormal()}
        if not isinstance(layer, HyperConvFromDense):
            return layer.__class__.from_config(layer.get_config() | (start if layer.weights else {}))
        kind = getattr(keras.layers, f"Conv{len(layer.output.shape) - 2}D")
        return kind(layer.filters, layer.kernel_size, padding="same", name=layer.name, **start)

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(model.get_layer(layer.name), HyperConvFromDense):
            return layer(arguments[0][0])
        return layer(*arguments, **options)

    twin = keras.models.clone_model(model, clone_function=copy, call_function=call)
    return keras.Model(twin.inputs[:2], twin.outputs, name=model.name)
