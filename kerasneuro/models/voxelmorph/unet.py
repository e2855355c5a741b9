"""The U-Net of VoxelMorph, with the layer names of the original.

Source: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/networks.py`` (`Unet`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kerasneuro.errors import InvalidOption
from kerasneuro.nn.hyper_convolution import HyperConvFromDense

NEGATIVE_SLOPE = 0.2
# Encoder, then decoder; the decoder's surplus over the encoder are convolutions at the last resolution.
DEFAULT_FEATURES = ((16, 32, 32, 32), (32, 32, 32, 32, 32, 16, 16))
LARGEST_SEED = 10**9

Convolve = Callable[[Any, int, str], Any]


@keras.saving.register_keras_serializable(package="kerasneuro")
class HostHeNormal(keras.initializers.Initializer):
    """Draw from a normal distribution of standard deviation sqrt(2 / fan_in), by NumPy.

    Keras's own is compiled for each shape on JAX. See K. He et al., arXiv:1502.01852.

    Parameters
    ----------
    seed : int, optional
        Seed of the generator.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = random.randint(1, LARGEST_SEED) if seed is None else seed

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Draw a kernel of shape (..., inputs, outputs)."""
        deviation = math.sqrt(2 / math.prod(shape[:-1]))
        values = np.random.default_rng(self.seed).normal(0.0, deviation, shape).astype(np.float32)
        return ops.cast(ops.convert_to_tensor(values), dtype or keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the initialiser."""
        return {"seed": self.seed}


@dataclass(frozen=True)
class Widths:
    """Channels of the convolutions of a U-Net.

    Attributes
    ----------
    encoder, decoder : tuple of tuple of int
        By level, from the first to the last computed.
    final : tuple of int
        Convolutions after the last level.
    """

    encoder: tuple[tuple[int, ...], ...]
    decoder: tuple[tuple[int, ...], ...]
    final: tuple[int, ...]

    @property
    def levels(self) -> int:
        """Number of poolings."""
        return len(self.encoder)


def widths(
    features: int | Sequence[Sequence[int]] | None,
    levels: int | None = None,
    multiplier: float = 1,
    per_level: int = 1,
) -> Widths:
    """Read the options of VxmDense that describe the U-Net.

    Parameters
    ----------
    features : int or pair of sequences of int, optional
        Encoder and decoder channels, or those of the first level.
    levels : int, optional
        Resolutions, only with a single number of channels.
    multiplier : float
        Ratio of the channels of one level to those of the level before, only with a single number.
    per_level : int
        Convolutions of each level.

    Raises
    ------
    InvalidOption
        If they do not describe a U-Net.
    """
    if features is None:
        features = DEFAULT_FEATURES
    if isinstance(features, int):
        if levels is None or levels < 2:
            raise InvalidOption(
                f"a single nb_unet_features needs nb_unet_levels of 2 or more, found {levels}"
            )
        all_levels = [round(features * multiplier**level) for level in range(levels)]
        encoder = [width for width in all_levels[:-1] for _ in range(per_level)]
        decoder = [width for width in reversed(all_levels) for _ in range(per_level)]
    elif levels is not None:
        raise InvalidOption("nb_unet_levels goes with a single number of nb_unet_features, not with lists")
    else:
        encoder, decoder = (list(part) for part in features)
    if not encoder or len(encoder) % per_level or len(decoder) < len(encoder):
        raise InvalidOption(
            f"nb_unet_features needs {per_level} or a multiple of it encoder channels, and at least as many "
            f"decoder channels; found {len(encoder)} and {len(decoder)}"
        )

    def by_level(flat: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(flat[start : start + per_level]) for start in range(0, len(flat), per_level))

    count = len(encoder)
    return Widths(by_level(encoder), by_level(decoder[:count]), tuple(decoder[count:]))


def plain_convolution(rank: int) -> Convolve:
    """Return a function that adds a convolution of kernel 3 in 2 or 3 dimensions to a graph."""
    kind = getattr(layers, f"Conv{rank}D")

    def convolve(x: Any, filters: int, name: str) -> Any:
        return kind(filters, 3, padding="same", kernel_initializer=HostHeNormal(), name=name)(x)

    return convolve


def hyper_convolution(hyper: Any) -> Convolve:
    """Return a function that adds a convolution with kernels from the tensor (B, H) of a hypernetwork."""

    def convolve(x: Any, filters: int, name: str) -> Any:
        return HyperConvFromDense(filters, name=name)([x, hyper])

    return convolve


def add_unet(x: Any, plan: Widths, upsamplings: int, convolve: Convolve, name: str) -> Any:
    """Add a U-Net to a graph.

    Parameters
    ----------
    x : tensor (B, X, Y, Z, C)
    plan : Widths
    upsamplings : int
        How many levels the decoder goes back up; skip connections beyond are unused.
    convolve : callable
        Adds a convolution: ``convolve(x, filters, name)``.
    name : str
        Start of all layer names.

    Returns
    -------
    tensor (B, X', Y', Z', F)
    """
    rank = len(x.shape) - 2

    def block(x: Any, filters: int, block_name: str) -> Any:
        x = convolve(x, filters, block_name)
        return layers.LeakyReLU(negative_slope=NEGATIVE_SLOPE, name=f"{block_name}_activation")(x)

    skips = []
    for level, channels in enumerate(plan.encoder):
        for index, filters in enumerate(channels):
            x = block(x, filters, f"{name}_enc_conv_{level}_{index}")
        skips.append(x)
        x = getattr(layers, f"MaxPooling{rank}D")(2, name=f"{name}_enc_pooling_{level}")(x)
    for step, channels in enumerate(plan.decoder):
        level = plan.levels - 1 - step
        for index, filters in enumerate(channels):
            x = block(x, filters, f"{name}_dec_conv_{level}_{index}")
        if step < upsamplings:
            upsample = f"{name}_dec_upsample_{level}"
            x = getattr(layers, f"UpSampling{rank}D")(2, name=upsample)(x)
            x = layers.Concatenate(name=f"{upsample}_concat")([x, skips.pop()])
    for index, filters in enumerate(plan.final):
        x = block(x, filters, f"{name}_dec_final_conv_{index}")
    return x
