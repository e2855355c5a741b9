"""HyperVxmJoint: an affine step, then a symmetric deformable one at half the resolution; or the latter alone.

Source: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/networks.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kerasneuro.errors import InvalidOption
from kerasneuro.models.synthmorph.detector import add_tower, check_shape, move, only
from kerasneuro.models.synthmorph.hyper_unet import build_velocity_network
from kerasneuro.models.synthmorph.layers import (
    DenseOnGrid,
    FitMatrices,
    HalfDifference,
    HalveGrid,
    ScaleMatrix,
)
from kerasneuro.nn.spatial_layers import ComposeTransform, Negate, SpatialTransformer, VecInt

# Options of the detector that a joint network takes; the others follow from its own.
DETECTOR_DEFAULTS: dict[str, Any] = {
    "num_feat": 64,
    "enc_nf": (256,) * 4,
    "dec_nf": (),
    "add_nf": (256,) * 4,
    "per_level": 1,
    "dropout": 0.0,
    "weighted": True,
    "rigid": False,
}

Pair = list[Any]


def build_joint(
    in_shape: Sequence[int | None] = (None, None, None),
    num_chan: int = 1,
    hyp_num: int = 1,
    hyp_units: Sequence[int] = (32,) * 4,
    enc_nf: Sequence[int] = (256,) * 4,
    dec_nf: Sequence[int] = (256,) * 4,
    add_nf: Sequence[int] = (256,) * 4,
    per_level: int = 1,
    int_steps: int = 7,
    bidir: bool = False,
    skip_affine: bool = False,
    mid_space: bool = False,
    return_trans_to_half_res: bool = False,
    return_tot: bool = True,
    return_def: bool = False,
    return_aff: bool = False,
    return_svf: bool = False,
    return_moved: bool = False,
    affine: Mapping[str, Any] | None = None,
    name: str = "hyper_vxm_joint",
) -> keras.Model:
    """Build the joint or the deformable network with random weights; the options are those of the original.

    Parameters
    ----------
    in_shape : sequence of int or None
        Spatial shape of the images, 2 or 3 axes; None for free axes. Half of each size is a multiple of 2 to
        the power of the number of levels.
    num_chan, hyp_num, hyp_units, enc_nf, dec_nf, add_nf, per_level
        See `kerasneuro.models.synthmorph.hyper_unet.build_velocity_network`.
    int_steps : int
        Squarings of the integration; 0 takes the velocity as displacement.
    bidir : bool
        Return the second transform, too (and the second of every further pair).
    skip_affine : bool
        Deformable step alone.
    mid_space : bool
        Deform both images half-way between them.
    return_trans_to_half_res : bool
        The transforms begin on the grid of half the resolution.
    return_tot, return_def, return_aff, return_svf, return_moved : bool
        What to return: the whole displacements, those of the deformable step, matrices of the affine step
        (into the mid-space, where there is one), velocities, moved images.
    affine : mapping, optional
        Options of the affine step, see `DETECTOR_DEFAULTS` and
        `kerasneuro.models.synthmorph.detector.build_detector`.
    name : str
        Name of the model.

    Returns
    -------
    keras.Model
        Maps (hyperparameters (B, P) in (0, 1) and) image 1 ("moving") and 2 ("fixed") ``(B, X, Y, Z, C)`` in
        [0, 1] to one output, or a list, in the order of the options, each pair together. Displacements
        ``(B, X, Y, Z, 3)`` are in voxels: where image 1 (2) takes its value for a voxel of the other's grid.

    Raises
    ------
    InvalidOption
        If the options describe no network.
    """
    shape = check_shape(in_shape)
    images = [keras.Input((*shape, num_chan), name=f"image_{index}") for index in (1, 2)]
    hyper = [keras.Input((hyp_num,), name="hyper")] if hyp_num else []
    halves = [HalveGrid(name=f"half_{i}")(image) for i, image in enumerate(images, 1)]
    double, halve = ScaleMatrix(2.0, name="double")(images[0]), ScaleMatrix(0.5, name="halve")(images[0])
    if skip_affine:
        matrices, moved = [double, double], halves
    else:
        matrices = add_affine_step(halves, num_chan, mid_space, double, affine or {})
        moved = [
            move(image, matrix, half, f"affine_moved_{i}")
            for i, (image, matrix, half) in enumerate(zip(images, matrices, halves, strict=True), 1)
        ]
        moved = moved if mid_space else [moved[0], halves[1]]
    network = build_velocity_network(
        tuple(halves[0].shape[1:-1]), num_chan, hyp_num, hyp_units, enc_nf, dec_nf, add_nf, per_level
    )
    velocities = add_velocities(network, hyper, moved)
    warps = velocities
    if int_steps:
        warps = [VecInt(int_steps, name=f"vec_int_{i}")(v) for i, v in enumerate(velocities, 1)]
    through_mid_space = mid_space and not skip_affine
    totals = [
        compose(f"half_tot_{i}", matrix, warp, *((halve, matrix) if through_mid_space else ()))
        for i, (matrix, warp) in enumerate(zip(matrices, warps, strict=True), 1)
    ]
    if not return_trans_to_half_res:
        totals, warps, matrices = to_full_grid(images[0], totals, warps, matrices, double, halve)
    outputs = [
        *(totals if return_tot else ()),
        *(warps if return_def else ()),
        *(matrices if return_aff else ()),
        *(velocities if return_svf else ()),
        *(resample(images, totals) if return_moved else ()),
    ]
    if not outputs:
        raise InvalidOption("the network returns nothing; set one of return_tot, return_def, ... to True")
    return keras.Model([*hyper, *images], only(outputs[:: 1 if bidir else 2]), name=name)


def add_affine_step(
    halves: Pair, num_chan: int, mid_space: bool, double: Any, options: Mapping[str, Any]
) -> Pair:
    """Add the affine step; returns the matrices from the half grid to the voxels of the images."""
    unknown = sorted(set(options) - set(DETECTOR_DEFAULTS))
    if unknown:
        raise InvalidOption(
            f"the affine step has no option {', '.join(unknown)}; it has {', '.join(DETECTOR_DEFAULTS)}"
        )
    merged = {**DETECTOR_DEFAULTS, **options}
    fit = FitMatrices(merged.pop("rigid"), merged.pop("weighted"), mid_space, name="fit_matrices")
    tower = add_tower(tuple(halves[0].shape[1:-1]), num_chan, **merged)
    matrices = fit([*(tower(half) for half in halves), halves[0]])
    return [compose(f"affine_{i}", double, matrix) for i, matrix in enumerate(matrices, 1)]


def add_velocities(network: keras.Model, hyper: list[Any], moved: Pair) -> Pair:
    """Add the velocity, averaged over both orders of the images, and its negative."""
    flows = []
    for name, pair in (("pair", moved), ("swapped_pair", moved[::-1])):
        joined = keras.layers.Concatenate(name=name)(pair)
        flows.append(network([*hyper, joined] if hyper else joined))
    velocity = HalfDifference(name="svf_1")(flows)
    return [velocity, Negate(name="svf_2")(velocity)]


def to_full_grid(
    image: Any, totals: Pair, warps: Pair, matrices: Pair, double: Any, halve: Any
) -> tuple[Pair, Pair, Pair]:
    """Bring the transforms from the half grid to that of the images."""
    down = DenseOnGrid(name="down")([halve, image])
    return (
        [compose(f"tot_{i}", total, down) for i, total in enumerate(totals, 1)],
        [compose(f"def_{i}", double, warp, down) for i, warp in enumerate(warps, 1)],
        [compose(f"aff_{i}", matrix, halve) for i, matrix in enumerate(matrices, 1)],
    )


def compose(name: str, *transforms: Any) -> Any:
    """Add a composition of transforms of zero-based voxels, the last one first."""
    return ComposeTransform(shift_center=False, name=name)(list(transforms))


def resample(images: Pair, transforms: Pair) -> Pair:
    """Add the images moved by displacements, 0 outside."""
    pairs = enumerate(zip(images, transforms, strict=True), 1)
    return [
        SpatialTransformer(fill_value=0.0, name=f"moved_{i}")([image, warp]) for i, (image, warp) in pairs
    ]
