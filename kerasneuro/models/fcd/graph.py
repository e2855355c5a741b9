"""The network of the FCD classifier: MobileNetV3-Small in three dimensions, with a fusion of three views.

Layer names are those of the original with "_" for "."; the stages end in layers named ``stem``, ``block0`` to
``block7``, ``fusion``, ``conv_head``, ``pool`` and ``penultimate``.

Source: model card "MobileNetV3-Small-3D-FCD"; MobileNetV3: A. Howard et al., arXiv:1905.02244; stochastic
depth: G. Huang et al., arXiv:1603.09382.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from kerasneuro.errors import InvalidOption
from kerasneuro.nn.convolution import padded_convolution
from kerasneuro.nn.depthwise import DepthwiseConv3D
from kerasneuro.nn.halving import HalvingConv3D
from kerasneuro.nn.initializers import HostGlorotUniform
from kerasneuro.nn.squeeze_excite import SqueezeExcite
from kerasneuro.nn.stochastic_depth import StochasticDepth

IN_CHANNELS = 2
"""T1w, then FLAIR."""
CLASSES = 2
"""Control, then FCD."""
STEM_WIDTH = 16
HEAD_WIDTH = 576
HIDDEN_WIDTH = 256
VIEWS = {"axial": (3, 1, 1), "coronal": (1, 3, 1), "sagittal": (1, 1, 3)}
"""Kernels of the fusion; the views are named after the axes of the array as stored."""
RELU, HSWISH = "relu", "hard_swish"


@dataclass(frozen=True)
class Block:
    """An inverted residual block: output channels, kernel, stride, expansion, squeeze-excite, activation."""

    width: int
    kernel: int
    strides: int
    expansion: int
    squeeze: bool
    activation: str


BLOCKS = (
    Block(16, 3, 2, 1, True, RELU),
    Block(24, 3, 2, 4, False, RELU),
    Block(24, 3, 1, 3, False, RELU),
    Block(40, 5, 2, 3, True, HSWISH),
    Block(40, 5, 1, 3, True, HSWISH),
    Block(48, 5, 1, 3, True, HSWISH),
    Block(96, 5, 2, 6, True, HSWISH),
    Block(96, 5, 1, 6, True, HSWISH),
)


def scaled(channels: int, width: float) -> int:
    """Return a number of channels times the width of the network, rounded, at least 1."""
    return max(1, round(channels * width))


def normalise(x: Any, name: str) -> Any:
    """Batch normalisation with the constants of the original."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def inverted_residual(x: Any, block: Block, width: int, drop: float, index: int) -> Any:
    """Widen, convolve each channel, weigh the channels, narrow; add the input where the shape allows it."""
    step, skip, inputs = f"blocks_{index}_conv", x, x.shape[-1]
    position = 0
    if block.expansion != 1:
        x = padded_convolution(x, inputs * block.expansion, 1, name=f"{step}_0_0")
        x = normalise(x, f"{step}_0_1")
        x = layers.Activation(block.activation, name=f"{step}_0_2")(x)
        position = 1
    x = DepthwiseConv3D(block.kernel, block.strides, name=f"{step}_{position}")(x)
    x = normalise(x, f"{step}_{position + 1}")
    x = layers.Activation(block.activation, name=f"{step}_{position + 2}")(x)
    position += 3
    if block.squeeze:
        x = SqueezeExcite(name=f"{step}_{position}")(x)
        position += 1
    x = padded_convolution(x, width, 1, name=f"{step}_{position}")
    x = normalise(x, f"{step}_{position + 1}")
    if block.strides != 1 or inputs != width:
        return layers.Identity(name=f"block{index}")(x)
    if drop > 0:
        x = StochasticDepth(drop, name=f"blocks_{index}_drop")(x)
    return layers.Add(name=f"block{index}")([x, skip])


def fuse_views(x: Any) -> Any:
    """Convolve along each axis alone, and mix the three results."""
    views = [
        DepthwiseConv3D(kernel, use_bias=True, name=f"fusion_{view}")(x) for view, kernel in VIEWS.items()
    ]
    together = layers.Concatenate(name="fusion_views")(views)
    mixed = padded_convolution(together, x.shape[-1], 1, use_bias=True, name="fusion_fusion")
    return layers.Identity(name="fusion")(mixed)


def dense(x: Any, units: int, name: str) -> Any:
    """Dense layer with bias."""
    return layers.Dense(units, kernel_initializer=HostGlorotUniform(), name=name)(x)


def build(
    *,
    in_channels: int = IN_CHANNELS,
    classes: int = CLASSES,
    width: float = 1.0,
    dropout: float = 0.2,
    stochastic_depth: float = 0.2,
    input_shape: tuple[int | None, int | None, int | None] = (None, None, None),
    name: str = "fcd",
) -> keras.Model:
    """Build the network.

    Parameters
    ----------
    in_channels : int
        Images of one person: T1w and FLAIR, or one of them alone.
    classes : int
        Output classes: control and FCD.
    width : float
        Factor of all numbers of channels; the published network has 1.
    dropout : float
        Probability to drop a value before the last layer, in training.
    stochastic_depth : float
        Probability to drop the branch of the last block for a sample, in training; it grows from 0 at the
        first block. Only the three blocks with a residual (2, 4 and 7) can drop theirs.
    input_shape : tuple of int or None
        Spatial shape in the order of the stored array, or None for any.
    name : str
        Name of the model.

    Returns
    -------
    keras.Model
        Float32 (B, X, Y, Z, in_channels), each image scaled to [0, 1], to float32 (B, classes) **logits**;
        their softmax is the probability. Published size: 128^3; any size of at least one voxel works.

    Raises
    ------
    InvalidOption
        If a number is outside of its range.
    """
    _check(in_channels, classes, width, dropout, stochastic_depth, input_shape)
    images = keras.Input((*input_shape, in_channels), name="images")

    x = HalvingConv3D(scaled(STEM_WIDTH, width), 3, name="stem_0")(images)
    x = layers.Activation(HSWISH, name="stem")(normalise(x, "stem_1"))

    for index, block in enumerate(BLOCKS):
        drop = stochastic_depth * index / (len(BLOCKS) - 1)
        x = inverted_residual(x, block, scaled(block.width, width), drop, index)

    x = fuse_views(x)
    x = padded_convolution(x, scaled(HEAD_WIDTH, width), 1, name="conv_head_0")
    x = layers.Activation(HSWISH, name="conv_head")(normalise(x, "conv_head_1"))

    x = layers.GlobalAveragePooling3D(name="pool")(x)
    x = dense(x, scaled(HIDDEN_WIDTH, width), "classifier_0")
    x = layers.Activation(HSWISH, name="penultimate")(x)
    x = layers.Dropout(dropout, name="classifier_2")(x)
    logits = dense(x, classes, "classifier_3")
    return keras.Model(images, logits, name=name)


def _check(
    in_channels: int,
    classes: int,
    width: float,
    dropout: float,
    stochastic_depth: float,
    shape: tuple[int | None, ...],
) -> None:
    if in_channels < 1 or classes < 1 or not width > 0:
        raise InvalidOption(
            "in_channels and classes must be at least 1, and width above 0; "
            f"got {in_channels}, {classes} and {width}."
        )
    if not (0 <= dropout < 1 and 0 <= stochastic_depth < 1):
        raise InvalidOption(
            "dropout and stochastic_depth must be at least 0 and below 1; "
            f"got {dropout} and {stochastic_depth}."
        )
    if len(shape) != 3 or any(size is not None and size < 1 for size in shape):
        raise InvalidOption(f"input_shape must be three sizes of at least 1, or None; got {shape}.")
