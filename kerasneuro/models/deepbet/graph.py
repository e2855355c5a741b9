"""The network of deepbet: a residual encoder and a LinkNet decoder with summed skip connections.

Both stages (finding the head's box at 128^3, outlining the brain at 256^3) use this graph with their own
weights. Layer names are those of the original with "_" for "."; a container's name is the name of its last
layer.

Source: wwu-mmll/deepbet@9ad3f99; L. Fisch et al., Computers in Biology and Medicine 179 (2024) 108845,
doi:10.1016/j.compbiomed.2024.108845; LinkNet: A. Chaurasia and E. Culurciello, arXiv:1707.03718.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from kerasneuro.nn.convolution import DoublingConv3DTranspose, padded_convolution
from kerasneuro.nn.halving import HalvingConv3D, HalvingMaxPooling3D
from kerasneuro.nn.normalization import InstanceNormalization

WIDTHS = (16, 32, 64, 128)
HEAD_WIDTH = 8
CLASSES = 2
INIT_KERNEL = 7
SQUEEZE = 4
"""The decoder works on a quarter of its input channels."""
MULTIPLE = 32
"""Every spatial size must be a multiple of this."""


def normalise(x: Any, name: str, activation_name: str | None = None) -> Any:
    """Instance normalisation, then ReLU where it is named."""
    x = InstanceNormalization(name=name)(x)
    return x if activation_name is None else layers.ReLU(name=activation_name)(x)


def residual_block(x: Any, filters: int, *, strides: int = 1, name: str) -> Any:
    """Two 3^3 convolutions beside the identity, or a strided 1^3 convolution where the shape changes."""
    skip = x
    if strides != 1 or x.shape[-1] != filters:
        skip = padded_convolution(x, filters, 1, strides=strides, name=f"{name}_downsample_0")
        skip = normalise(skip, f"{name}_downsample_1")
    conv = f"{name}_double_conv"
    x = padded_convolution(x, filters, 3, strides=strides, name=f"{conv}_0")
    x = normalise(x, f"{conv}_1", f"{conv}_2")
    x = padded_convolution(x, filters, 3, name=f"{conv}_3")
    x = normalise(x, f"{conv}_4")
    return layers.ReLU(name=name)(layers.Add(name=f"{name}_sum")([x, skip]))


def encoder_stage(x: Any, filters: int, *, strides: int = 2, name: str) -> Any:
    """Two residual blocks; the first one halves the grid."""
    x = residual_block(x, filters, strides=strides, name=f"{name}_block1")
    return residual_block(x, filters, name=f"{name}_block2")


def decoder_stage(x: Any, filters: int, *, strides: int = 2, name: str) -> Any:
    """Squeeze the channels, double the grid (or keep it), widen to `filters`."""
    squeezed = x.shape[-1] // SQUEEZE
    x = padded_convolution(x, squeezed, 1, name=f"{name}_conv1_0")
    x = normalise(x, f"{name}_conv1_1", f"{name}_conv1")
    if strides == 1:
        # A transposed convolution of stride 1 is a convolution with the mirrored kernel (see weights.py).
        x = padded_convolution(x, squeezed, 3, name=f"{name}_tp_conv_0")
    else:
        x = DoublingConv3DTranspose(squeezed, 3, use_bias=False, name=f"{name}_tp_conv_0")(x)
    x = normalise(x, f"{name}_tp_conv_1", f"{name}_tp_conv")
    x = padded_convolution(x, filters, 1, name=f"{name}_conv2_0")
    return normalise(x, f"{name}_conv2_1", f"{name}_conv2")


def build(
    *,
    widths: tuple[int, ...] = WIDTHS,
    head_width: int = HEAD_WIDTH,
    classes: int = CLASSES,
    input_shape: tuple[int | None, int | None, int | None] = (None, None, None),
    channels: int = 1,
    name: str = "deepbet",
) -> keras.Model:
    """Build the network.

    Parameters
    ----------
    widths : tuple of int
        Channels of the encoder stages; the published networks have (16, 32, 64, 128).
    head_width : int
        Channels of the last two layers before the output.
    classes : int
        Output channels: background and brain.
    input_shape : tuple of int or None
        Spatial shape (X, Y, Z) in RAS order, each a multiple of 32 (of 4 * 2 ** (stages - 1)), or None for
        any.
    channels : int
        Input channels; the published networks have 1.
    name : str
        Name of the model.

    Returns
    -------
    keras.Model
        Float32 (B, X, Y, Z, channels), intensities normalised to mean 0.449 and standard deviation 0.226, to
        float32 (B, X, Y, Z, classes) **logits**; their softmax is the probability.
    """
    scan = keras.Input((*input_shape, channels), name="image")

    wide = HalvingConv3D(widths[0], INIT_KERNEL, name="init_0")(scan)
    # The original normalises, rectifies, then pools. Both rise with their argument, so pooling first gives
    # the same numbers, and leaves an eighth of the voxels.
    x = HalvingMaxPooling3D(name="init_3")(wide)
    x = InstanceNormalization(name="init_1")(x, statistics_of=wide)
    x = layers.ReLU(name="init")(x)

    skips = [x]
    for level, filters in enumerate(widths):
        x = encoder_stage(x, filters, strides=1 if level == 0 else 2, name=f"down{level}")
        skips.append(x)

    skips.pop()
    for level, skip in enumerate(reversed(skips)):
        strides = 1 if level == len(widths) - 1 else 2
        x = decoder_stage(x, skip.shape[-1], strides=strides, name=f"up{level}")
        x = layers.Add(name=f"up{level}_sum")([x, skip])

    x = DoublingConv3DTranspose(head_width, 3, name="tp_conv1_0")(x)
    x = normalise(x, "tp_conv1_1", "tp_conv1")
    x = padded_convolution(x, head_width, 3, use_bias=True, name="conv_0")
    x = normalise(x, "conv_1", "conv")
    logits = DoublingConv3DTranspose(classes, 2, name="tp_conv2")(x)
    return keras.Model(scan, logits, name=name)
