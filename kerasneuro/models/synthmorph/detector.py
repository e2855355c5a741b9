"""VxmAffineFeatureDetector: one network sees both images; its features' centres of mass give the matrix.

Source: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/networks.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from kerasneuro.errors import InvalidOption
from kerasneuro.models.synthmorph.fit import fit_matrices
from kerasneuro.models.synthmorph.layers import DenseOnGrid, FitMatrices, HalveGrid, Names, ScaleMatrix
from kerasneuro.nn.initializers import HostGlorotUniform
from kerasneuro.nn.spatial_layers import ComposeTransform, SpatialTransformer

__all__ = ["NEGATIVE_SLOPE", "TOWER", "add_tower", "build_detector", "check_shape", "fit_matrices"]

NEGATIVE_SLOPE = 0.2
TOWER = "feature_tower"  # name of the network within the graph


def add_tower(
    in_shape: Sequence[int | None],
    num_chan: int,
    num_feat: int,
    enc_nf: Sequence[int],
    dec_nf: Sequence[int],
    add_nf: Sequence[int],
    per_level: int,
    dropout: float,
) -> keras.Model:
    """Build the network that sees one image; see `build_detector` for the options."""
    if len(dec_nf) > len(enc_nf):
        raise InvalidOption(
            f"dec_nf needs at most as many levels as enc_nf, found {len(dec_nf)} and {len(enc_nf)}"
        )
    least = 2 ** len(enc_nf)
    if any(size is not None and size < least for size in in_shape):
        raise InvalidOption(
            f"a network of {len(enc_nf)} levels needs at least {least} voxels along each axis of its own "
            f"grid, found {tuple(in_shape)}; give it larger images"
        )
    rank, names = len(in_shape), Names()

    def convolve(x: Any, filters: int, activation: str | None = None) -> Any:
        kind = getattr(layers, f"Conv{rank}D")
        kernel, name = HostGlorotUniform(), names(f"conv{rank}d")
        return kind(filters, 3, padding="same", activation=activation, kernel_initializer=kernel, name=name)(
            x
        )

    def block(x: Any, filters: int) -> Any:
        x = convolve(x, filters)
        if dropout:
            x = getattr(layers, f"SpatialDropout{rank}D")(dropout, name=names(f"spatial_dropout{rank}d"))(x)
        return layers.LeakyReLU(negative_slope=NEGATIVE_SLOPE, name=names("leaky_re_lu"))(x)

    inputs = x = keras.Input((*in_shape, num_chan), name="image")
    skips = []
    for filters in enc_nf:
        for _ in range(per_level):
            x = block(x, filters)
        skips.append(x)
        x = getattr(layers, f"MaxPooling{rank}D")(2, name=names(f"max_pooling{rank}d"))(x)
    for filters in dec_nf:
        for _ in range(per_level):
            x = block(x, filters)
        x = getattr(layers, f"UpSampling{rank}D")(2, name=names(f"up_sampling{rank}d"))(x)
        x = layers.Concatenate(name=names("concatenate"))([x, skips.pop()])
    for filters in add_nf:
        x = block(x, filters)
    return keras.Model(inputs, convolve(x, num_feat, "relu"), name=TOWER)


def build_detector(
    in_shape: Sequence[int | None] = (None, None, None),
    num_chan: int = 1,
    num_feat: int = 64,
    enc_nf: Sequence[int] = (256,) * 4,
    dec_nf: Sequence[int] = (),
    add_nf: Sequence[int] = (256,) * 4,
    per_level: int = 1,
    dropout: float = 0.0,
    half_res: bool = True,
    weighted: bool = True,
    rigid: bool = False,
    make_dense: bool = True,
    bidir: bool = False,
    return_trans_to_mid_space: bool = False,
    return_trans_to_half_res: bool = False,
    return_moved: bool = False,
    return_feat: bool = False,
    name: str = "vxm_affine_feature_detector",
) -> keras.Model:
    """Build the affine or rigid network with random weights; the options are those of the original.

    Parameters
    ----------
    in_shape : sequence of int or None
        Spatial shape of the images, 2 or 3 axes; None for free axes.
    num_chan, num_feat : int
        Channels of an image, and of its features.
    enc_nf, dec_nf, add_nf : sequence of int
        Channels of the convolutions by level: before each pooling, before each upsampling, and after.
    per_level : int
        Convolutions of each level of encoder and decoder.
    dropout : float
        Rate at which channels are dropped in training.
    half_res : bool
        Show every second voxel to the network.
    weighted, rigid
        See `fit_matrices`.
    make_dense : bool
        Return displacements instead of matrices.
    bidir : bool
        Return the second transform, too (and the second of every further pair).
    return_trans_to_mid_space : bool
        The transforms end half-way.
    return_trans_to_half_res : bool
        The transforms begin on a grid of half the resolution; only with `half_res`.
    return_moved, return_feat : bool
        Return the moved images, and the features.
    name : str
        Name of the model.

    Returns
    -------
    keras.Model
        Maps image 1 ("moving") and 2 ("fixed") ``(B, X, Y, Z, C)`` in [0, 1] to one output, or a list:
        transforms 1, 2 (displacements (B, X, Y, Z, 3) or matrices (B, 3, 4), zero-based voxels), moved
        images 1, 2, features 1, 2.

    Raises
    ------
    InvalidOption
        If the options describe no network.
    """
    if return_trans_to_half_res and not half_res:
        raise InvalidOption("return_trans_to_half_res needs half_res=True")
    shape = check_shape(in_shape)
    images = [keras.Input((*shape, num_chan), name=f"image_{index}") for index in (1, 2)]
    halves = [HalveGrid(name=f"half_{i}")(image) for i, image in enumerate(images, 1)] if half_res else images
    inner = tuple(halves[0].shape[1:-1])
    tower = add_tower(inner, num_chan, num_feat, enc_nf, dec_nf, add_nf, per_level, dropout)
    features = [tower(half) for half in halves]
    fit = FitMatrices(rigid, weighted, return_trans_to_mid_space, name="fit_matrices")
    matrices = list(fit([*features, images[0]]))
    grids = halves if return_trans_to_half_res else images
    # The original moves its images by the matrices of the full grid, also on the half one.
    moved = [
        move(*parts, f"moved_{i}") for i, parts in enumerate(zip(images, matrices, grids, strict=True), 1)
    ]
    if return_trans_to_half_res:
        double = ScaleMatrix(2.0, name="double")(images[0])
        matrices = [
            ComposeTransform(shift_center=False, name=f"to_half_{i}")([matrix, double])
            for i, matrix in enumerate(matrices, 1)
        ]
    if make_dense:
        matrices = [
            DenseOnGrid(name=f"dense_{i}")([matrix, grid])
            for i, (matrix, grid) in enumerate(zip(matrices, grids, strict=True), 1)
        ]
    outputs = [*matrices, *(moved if return_moved else ()), *(features if return_feat else ())]
    return keras.Model(images, only(outputs[:: 1 if bidir else 2]), name=name)


def move(image: Any, matrix: Any, grid: Any, name: str) -> Any:
    """Add the image moved by a matrix onto the grid of a volume, 0 outside."""
    displacement = DenseOnGrid(name=f"{name}_grid")([matrix, grid])
    return SpatialTransformer(fill_value=0.0, name=name)([image, displacement])


def only(outputs: list[Any]) -> Any:
    """Return the output of a list of one, else the list."""
    return outputs if len(outputs) > 1 else outputs[0]


def check_shape(in_shape: Sequence[int | None]) -> tuple[int | None, ...]:
    """Return the spatial shape.

    Raises
    ------
    InvalidOption
        If it has not 2 or 3 axes.
    """
    shape = tuple(in_shape)
    if len(shape) not in (2, 3):
        raise InvalidOption(f"in_shape has 2 or 3 axes, found {shape}")
    return shape
