"""The deformable network of SynthMorph: a U-Net whose kernels a hypernetwork computes, or that are fixed.

Source: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/networks.py`` (`HyperVxmJoint`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from kerasneuro.errors import InvalidOption
from kerasneuro.models.synthmorph.detector import NEGATIVE_SLOPE
from kerasneuro.models.synthmorph.layers import Names
from kerasneuro.nn.hyper_convolution import HyperConvFromDense
from kerasneuro.nn.initializers import HostGlorotUniform

VELOCITY = "velocity_network"  # name of the network within the graph
CONVOLUTION = "hyper_conv_from_dense"

Convolve = Callable[[Any, int, str], Any]


def build_velocity_network(
    in_shape: Sequence[int | None] = (None, None, None),
    num_chan: int = 1,
    hyp_num: int = 1,
    hyp_units: Sequence[int] = (32,) * 4,
    enc_nf: Sequence[int] = (256,) * 4,
    dec_nf: Sequence[int] = (256,) * 4,
    add_nf: Sequence[int] = (256,) * 4,
    per_level: int = 1,
) -> keras.Model:
    """Build the network that gives the velocity for a pair of images in one channel-wise array.

    Parameters
    ----------
    in_shape : sequence of int or None
        Spatial shape of its grid, which is half that of the images; None for free axes.
    num_chan : int
        Channels of an image.
    hyp_num : int
        Hyperparameters P of the hypernetwork; 0 for kernels of its own (specialised).
    hyp_units : sequence of int
        Units of the hypernetwork's layers.
    enc_nf, dec_nf, add_nf : sequence of int
        Channels of the convolutions by level: before each pooling, before each upsampling, and after.
    per_level : int
        Convolutions of each level of encoder and decoder.

    Returns
    -------
    keras.Model
        Maps (hyperparameters (B, P) and) both images (B, X, Y, Z, 2 C) to the velocity (B, X, Y, Z, 3) in
        voxels of this grid. Sizes are multiples of 2 to the power of the number of levels.

    Raises
    ------
    InvalidOption
        If encoder and decoder differ in levels.
    """
    if len(enc_nf) != len(dec_nf):
        raise InvalidOption(
            f"enc_nf and dec_nf need as many levels as each other, found {len(enc_nf)} and {len(dec_nf)}"
        )
    multiple = 2 ** len(enc_nf)
    if any(size is not None and (size < multiple or size % multiple) for size in in_shape):
        raise InvalidOption(
            f"a network of {len(enc_nf)} levels needs sizes that are multiples of {multiple} on its half "
            f"grid, found {tuple(in_shape)}; give it images of twice such a size"
        )
    names, rank = Names(), len(in_shape)
    inputs = [keras.Input((*in_shape, 2 * num_chan), name="pair")]
    convolve = plain_convolution(rank)
    if hyp_num:
        inputs.insert(0, keras.Input((hyp_num,), name="hyper"))
        convolve = hyper_convolution(inputs[0], hyp_units, names)

    def blocks(x: Any, filters: int, count: int) -> Any:
        for _ in range(count):
            x = convolve(x, filters, names(CONVOLUTION))
            x = layers.LeakyReLU(negative_slope=NEGATIVE_SLOPE, name=names("leaky_re_lu"))(x)
        return x

    x, skips = inputs[-1], []
    for filters in enc_nf:
        x = blocks(x, filters, per_level)
        skips.append(x)
        x = getattr(layers, f"MaxPooling{rank}D")(2, name=names(f"max_pooling{rank}d"))(x)
    for filters in dec_nf:
        x = blocks(x, filters, per_level)
        x = getattr(layers, f"UpSampling{rank}D")(2, name=names(f"up_sampling{rank}d"))(x)
        x = layers.Concatenate(name=names("concatenate"))([x, skips.pop()])
    for filters in add_nf:
        x = blocks(x, filters, 1)
    return keras.Model(inputs, convolve(x, rank, names(CONVOLUTION)), name=VELOCITY)


def hyper_convolution(hyper: Any, units: Sequence[int], names: Names) -> Convolve:
    """Add the dense layers of the hypernetwork; return what adds a convolution with kernels from them."""
    hidden = hyper
    for count in units:
        kernel = HostGlorotUniform()
        hidden = layers.Dense(count, activation="relu", kernel_initializer=kernel, name=names("dense"))(
            hidden
        )
    return lambda x, filters, name: HyperConvFromDense(filters, name=name)([x, hidden])


def plain_convolution(rank: int) -> Convolve:
    """Return what adds a convolution with a kernel of its own, under the name of the computed one."""
    kind = getattr(layers, f"Conv{rank}D")

    def convolve(x: Any, filters: int, name: str) -> Any:
        return kind(filters, 3, padding="same", kernel_initializer=HostGlorotUniform(), name=name)(x)

    return convolve
