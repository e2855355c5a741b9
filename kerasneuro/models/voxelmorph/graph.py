"""VxmDense and HyperVxmDense: a U-Net gives a velocity, its integral warps one image onto the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from kerasneuro.errors import InvalidOption
from kerasneuro.models.voxelmorph.fields import Resolutions, add_fields, check
from kerasneuro.models.voxelmorph.unet import hyper_convolution, plain_convolution, widths
from kerasneuro.nn.spatial_layers import SpatialTransformer

REGULARISED = ("svf", "preintegrated", "postintegrated", "warp")


def build(
    inshape: Sequence[int | None] = (None, None, None),
    nb_unet_features: int | Sequence[Sequence[int]] | None = None,
    nb_unet_levels: int | None = None,
    unet_feat_mult: float = 1,
    nb_unet_conv_per_level: int = 1,
    int_steps: int = 7,
    svf_resolution: float = 1,
    int_resolution: float = 2,
    int_downsize: float | None = None,
    bidir: bool = False,
    use_probs: bool = False,
    src_feats: int = 1,
    trg_feats: int = 1,
    unet_half_res: bool = False,
    fill_value: float | None = None,
    reg_field: str = "preintegrated",
    hyper: Hypernetwork | Mapping[str, int] | None = None,
    name: str = "vxm_dense",
) -> keras.Model:
    """Build VxmDense with random weights; the options are those of the original's constructor.

    Parameters
    ----------
    inshape : sequence of int or None
        Spatial shape, 2 or 3 axes; multiples of 2 to the power of the number of poolings, or None for
        free axes.
    nb_unet_features : int or pair of sequences of int, optional
        Channels of encoder and decoder, or of the first level; by default those of the published T1 model.
    nb_unet_levels, unet_feat_mult, nb_unet_conv_per_level
        See `kerasneuro.models.voxelmorph.unet.widths`.
    int_steps : int
        Squarings of the integration; 0 takes the velocity as displacement.
    svf_resolution, int_resolution : float
        How much coarser than the images the velocity and its integration are.
    int_downsize : float, optional
        Older name of `int_resolution`.
    bidir : bool
        Warp the target onto the source, too.
    use_probs : bool
        Draw the velocity from a normal distribution whose deviation is computed, too.
    src_feats, trg_feats : int
        Channels of source and target.
    unet_half_res : bool
        Older name of ``svf_resolution=2``.
    fill_value : float, optional
        Value of the warped images outside; None repeats the border.
    reg_field : {"svf", "preintegrated", "postintegrated", "warp"}
        Field that the last output gives, for the regularisation.
    hyper : Hypernetwork or mapping of its fields, optional
        Compute the kernels of the U-Net from a further input (B, P), the last one.
    name : str
        Name of the model, and start of all layer names.

    Returns
    -------
    keras.Model
        Maps source and target ``(B, X, Y, Z, C)`` in [0, 1] to the warped source, (the warped target,) and
        the regularised field (if `use_probs`, the parameters of its distribution), float32.

    Raises
    ------
    InvalidOption
        If the options describe no network.

    References
    ----------
    G. Balakrishnan et al. (2019), doi:10.1109/TMI.2019.2897538; M. Hoffmann et al. (2022),
    doi:10.1109/TMI.2021.3116879; voxelmorph/voxelmorph@ca28315, voxelmorph/tf/networks.py.

    Examples
    --------
    >>> model = build((16, 32, 16), nb_unet_features=((4, 4), (4, 4, 4)))
    >>> [output.shape for output in model.outputs]
    [(None, 16, 32, 16, 1), (None, 8, 16, 8, 3)]
    """
    if reg_field not in REGULARISED:
        raise InvalidOption(f"reg_field is one of {', '.join(REGULARISED)}; found {reg_field!r}")
    shape = tuple(inshape)
    plan = widths(nb_unet_features, nb_unet_levels, unet_feat_mult, nb_unet_conv_per_level)
    resolutions = Resolutions(
        shape, 2 if unet_half_res else svf_resolution, int_downsize or int_resolution, int_steps
    )
    check(plan, resolutions)
    source = keras.Input((*shape, src_feats), name=f"{name}_source_input")
    target = keras.Input((*shape, trg_feats), name=f"{name}_target_input")
    inputs, convolve = [source, target], plain_convolution(len(shape))
    if hyper is not None:
        hyper = Hypernetwork(**hyper) if isinstance(hyper, Mapping) else hyper
        hyper_input, hyper_output = hyper.add(name)
        inputs.append(hyper_input)
        convolve = hyper_convolution(hyper_output)
    fields = add_fields(source, target, plan, resolutions, convolve, bidir, use_probs, name)
    move: dict[str, Any] = {"interp_method": "linear", "fill_value": fill_value}
    outputs = [SpatialTransformer(**move, name=f"{name}_transformer")([source, fields.warp])]
    if bidir:
        outputs.append(SpatialTransformer(**move, name=f"{name}_neg_transformer")([target, fields.inverse]))
    regularised = getattr(fields, reg_field) if fields.parameters is None else fields.parameters
    return keras.Model(inputs, [*outputs, regularised], name=name)


@dataclass(frozen=True)
class Hypernetwork:
    """The dense layers that compute kernels from hyperparameters."""

    parameters: int = 1
    layers: int = 6
    units: int = 128

    def add(self, name: str) -> tuple[Any, Any]:
        """Add an input (B, P) and the layers to a graph; returns the input and the last tensor (B, H)."""
        inputs = x = keras.Input((self.parameters,), name=f"{name}_hyp_input")
        for index in range(1, self.layers + 1):
            x = layers.Dense(self.units, activation="relu", name=f"{name}_hyp_dense_{index}")(x)
        return inputs, x


def build_hyper(
    inshape: Sequence[int | None] = (None, None, None),
    nb_hyp_params: int = 1,
    nb_hyp_layers: int = 6,
    nb_hyp_units: int = 128,
    name: str = "hyper_vxm_dense",
    **options: Any,
) -> keras.Model:
    """Build HyperVxmDense with random weights: VxmDense whose U-Net has kernels from a hypernetwork.

    Parameters
    ----------
    inshape : sequence of int or None
        As in `build`.
    nb_hyp_params : int
        Hyperparameters P, a third input (B, P).
    nb_hyp_layers, nb_hyp_units : int
        Dense layers, and units of each.
    name : str
        Name of the model, and start of all layer names.
    **options
        See `build`.

    Returns
    -------
    keras.Model
        As `build`, with the inputs source, target and hyperparameters.

    References
    ----------
    A. Hoopes et al. (2022), doi:10.59275/j.melba.2022-74f1.
    """
    hyper = Hypernetwork(nb_hyp_params, nb_hyp_layers, nb_hyp_units)
    return build(inshape, hyper=hyper, name=name, **options)


def registration_model(model: keras.Model) -> keras.Model:
    """Return the part of a graph that gives the displacement alone, with the same inputs.

    Parameters
    ----------
    model : keras.Model
        From `build` or `build_hyper`.

    Returns
    -------
    keras.Model
        Maps the inputs to the displacement (B, X, Y, Z, N), in voxels: where the warped source takes its
        values.
    """
    transformer = model.get_layer(f"{model.name}_transformer")
    return keras.Model(model.inputs, transformer.input[1], name=f"{model.name}_registration")
