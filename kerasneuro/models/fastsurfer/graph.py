"""The network of FastSurferCNN: a U-Net of competitive dense blocks, one for each plane of view.

Dense connections and skip connections compete: the larger of two values goes on, nothing is concatenated.
The decoder puts each value back where the encoder's pooling found its maximum. Layer names are those of the
original with "_" for ".".

Source: Deep-MI/FastSurfer@070647d; L. Henschel et al., NeuroImage 219 (2020) 117012,
doi:10.1016/j.neuroimage.2020.117012.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from kerasneuro.errors import InvalidOption
from kerasneuro.nn.activation import Maxout, ScalarPReLU
from kerasneuro.nn.initializers import HostFanOutNormal, HostUniform
from kerasneuro.nn.pooling import ArgmaxPooling2D, ArgmaxUnpooling2D

FILTERS = 64
CLASSES = 79
KERNEL = (5, 5)
CHANNELS = 7
"""A slice and three neighbours on either side."""
LEVELS = 4
MULTIPLE = 2**LEVELS
"""Height and width must be multiples of this."""


def convolve(x: Any, filters: int, kernel: tuple[int, int], name: str) -> Any:
    """Convolution with bias, on the same grid."""
    fan_in = kernel[0] * kernel[1] * x.shape[-1]
    return layers.Conv2D(
        filters,
        kernel,
        padding="same",
        kernel_initializer=HostFanOutNormal(),
        bias_initializer=HostUniform(fan_in**-0.5),
        name=name,
    )(x)


def normalise(x: Any, name: str) -> Any:
    """Batch normalisation with the constants of the original."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def unit(x: Any, filters: int, kernel: tuple[int, int], block: str, index: int) -> Any:
    """Convolution ``conv<index>``, then its normalisation ``bn<index + 1>``."""
    x = convolve(x, filters, kernel, f"{block}_conv{index}")
    return normalise(x, f"{block}_bn{index + 1}")


def input_block(x: Any, filters: int, kernel: tuple[int, int], name: str) -> Any:
    """First block: normalises the slices, and does not let them compete with the first convolution."""
    prelu = ScalarPReLU(name=f"{name}_prelu")
    first = unit(normalise(x, f"{name}_bn0"), filters, kernel, name, 0)
    second = unit(prelu(first), filters, kernel, name, 1)
    x = Maxout(name=f"{name}_maxout2")([second, first])
    return unit(prelu(x), filters, (1, 1), name, 2)


def dense_block(x: Any, filters: int, kernel: tuple[int, int], name: str) -> Any:
    """Two convolutions, each competing with what came before, then a pointwise one."""
    prelu = ScalarPReLU(name=f"{name}_prelu")
    for index in (0, 1):
        new = unit(prelu(x), filters, kernel, name, index)
        x = Maxout(name=f"{name}_maxout{index + 1}")([new, x])
    return unit(prelu(x), filters, (1, 1), name, 2)


def build(
    *,
    filters: int = FILTERS,
    classes: int = CLASSES,
    kernel_height: int = KERNEL[0],
    kernel_width: int = KERNEL[1],
    channels: int = CHANNELS,
    input_shape: tuple[int | None, int | None] | None = None,
    name: str = "fastsurfer",
) -> keras.Model:
    """Build the network of one plane.

    Parameters
    ----------
    filters : int
        Channels of every block.
    classes : int
        Output channels: 79 for axial and coronal slices, 51 for sagittal ones, whose classes have no side.
    kernel_height, kernel_width : int
        Kernel of the first two convolutions of a block, odd.
    channels : int
        Slices in the input.
    input_shape : tuple of int or None, optional
        Height and width, multiples of 16; None for any.
    name : str
        Name of the model.

    Returns
    -------
    keras.Model
        Float32 (B, H, W, channels) in [0, 1] to float32 (B, H, W, classes) **logits**.

    Raises
    ------
    InvalidOption
        If a number is not positive, a kernel even, or a size no multiple of 16.
    """
    plane = (None, None) if input_shape is None else tuple(input_shape)
    kernel = (kernel_height, kernel_width)
    _check(filters, classes, channels, kernel, plane)
    slices = keras.Input((*plane, channels), name="slices")

    x, skips = slices, []
    for level in range(1, LEVELS + 1):
        block = input_block if level == 1 else dense_block
        skip = block(x, filters, kernel, f"encode{level}")
        x, place = ArgmaxPooling2D(name=f"encode{level}_pool")(skip)
        skips.append((skip, place))

    x = dense_block(x, filters, kernel, "bottleneck")

    for level in range(LEVELS, 0, -1):
        skip, place = skips.pop()
        x = ArgmaxUnpooling2D(name=f"decode{level}_unpool")([x, place])
        x = Maxout(name=f"decode{level}_maxout0")([x, skip])
        x = dense_block(x, filters, kernel, f"decode{level}")

    logits = convolve(x, classes, (1, 1), "classifier_conv")
    return keras.Model(slices, logits, name=name)


def _check(
    filters: int, classes: int, channels: int, kernel: tuple[int, int], plane: tuple[int | None, ...]
) -> None:
    if min(filters, classes, channels) < 1:
        raise InvalidOption(
            f"filters, classes and channels must be at least 1; got {filters}, {classes} and {channels}."
        )
    if any(size < 1 or size % 2 == 0 for size in kernel):
        raise InvalidOption(f"kernel_height and kernel_width must be odd; got {kernel[0]} and {kernel[1]}.")
    if len(plane) != 2 or any(size is not None and (size < 1 or size % MULTIPLE) for size in plane):
        raise InvalidOption(
            f"input_shape must be height and width, each a multiple of {MULTIPLE} or None; got {plane}."
        )
