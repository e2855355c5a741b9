"""The networks of SynthMorph by name, and the two parts of them that hold weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import keras

from kerasneuro.errors import InvalidOption
from kerasneuro.models.synthmorph.detector import TOWER, build_detector
from kerasneuro.models.synthmorph.fit import fit_matrices
from kerasneuro.models.synthmorph.hyper_unet import VELOCITY, build_velocity_network
from kerasneuro.models.synthmorph.joint import build_joint

__all__ = [
    "NETWORKS",
    "build",
    "build_velocity_network",
    "feature_tower",
    "fit_matrices",
    "velocity_network",
]

# What each network is in terms of the two builders.
NETWORKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "affine": (build_detector, {"rigid": False}),
    "rigid": (build_detector, {"rigid": True}),
    "deform": (build_joint, {"skip_affine": True}),
    "joint": (build_joint, {"skip_affine": False}),
}


def build(
    network: str = "joint",
    in_shape: Sequence[int | None] = (None, None, None),
    num_chan: int = 1,
    enc_nf: Sequence[int] | None = None,
    dec_nf: Sequence[int] | None = None,
    add_nf: Sequence[int] | None = None,
    per_level: int | None = None,
    bidir: bool | None = None,
    num_feat: int | None = None,
    dropout: float | None = None,
    half_res: bool | None = None,
    weighted: bool | None = None,
    make_dense: bool | None = None,
    hyp_num: int | None = None,
    hyp_units: Sequence[int] | None = None,
    specialised: bool = False,
    int_steps: int | None = None,
    mid_space: bool | None = None,
    affine: Mapping[str, Any] | None = None,
    return_trans_to_mid_space: bool | None = None,
    return_trans_to_half_res: bool | None = None,
    return_tot: bool | None = None,
    return_def: bool | None = None,
    return_aff: bool | None = None,
    return_svf: bool | None = None,
    return_moved: bool | None = None,
    return_feat: bool | None = None,
    name: str | None = None,
) -> keras.Model:
    """Build a network of SynthMorph with random weights.

    What is None has the default of the original; see
    `kerasneuro.models.synthmorph.detector.build_detector` for the options of "affine" and "rigid", and
    `kerasneuro.models.synthmorph.joint.build_joint` for those of "deform" and "joint".

    Parameters
    ----------
    network : {"joint", "deform", "affine", "rigid"}
    in_shape : sequence of int or None
        Spatial shape of the images, 2 or 3 axes; None for free axes.
    specialised : bool
        The deformable network has kernels of its own ("fixed"), and no input for hyperparameters; the same as
        ``hyp_num=0``.
    **options
        All others: see the builders.

    Returns
    -------
    keras.Model
        Maps (hyperparameters (B, P) and) two images ``(B, X, Y, Z, C)`` in [0, 1] to the transforms.

    Raises
    ------
    InvalidOption
        If there is no such network, or it has no such option.

    References
    ----------
    M. Hoffmann et al. (2024), doi:10.1162/imag_a_00197; voxelmorph/voxelmorph@ca28315,
    voxelmorph/tf/networks.py.

    Examples
    --------
    >>> model = build("deform", (16, 16, 16), enc_nf=(4,), dec_nf=(4,), add_nf=(4,), hyp_units=(3,))
    >>> [tensor.name for tensor in model.inputs], model.output_shape
    (['hyper', 'image_1', 'image_2'], (None, 16, 16, 16, 3))
    """
    given = {key: value for key, value in locals().items() if value is not None}
    if network not in NETWORKS:
        raise InvalidOption(f"network is one of {', '.join(NETWORKS)}; found {network!r}")
    builder, fixed = NETWORKS[network]
    del given["network"]
    if given.pop("specialised"):
        given["hyp_num"] = 0
    allowed = set(signature(builder).parameters) - set(fixed)
    unknown = sorted(set(given) - allowed)
    if unknown:
        raise InvalidOption(
            f"the {network} network has no option {', '.join(unknown)}; it has {', '.join(sorted(allowed))}"
        )
    model: keras.Model = builder(**given, **fixed)
    return model


def feature_tower(model: keras.Model) -> keras.Model:
    """Return the network that sees one image, with all weights of the affine step.

    Parameters
    ----------
    model : keras.Model
        "affine", "rigid" or "joint", from `build`.

    Returns
    -------
    keras.Model
        Maps an image ``(B, X, Y, Z, C)``, already on the half grid where the network halves it, to features
        ``(B, x, y, z, F)``; for free axes of any size, 2 to the power of the number of levels at least.

    Raises
    ------
    InvalidOption
        If the model has no affine step.
    """
    return _inner(model, TOWER, "affine")


def velocity_network(model: keras.Model) -> keras.Model:
    """Return the deformable network, with all its weights.

    Parameters
    ----------
    model : keras.Model
        "deform" or "joint", from `build`.

    Returns
    -------
    keras.Model
        Maps (hyperparameters (B, P) unless specialised, and) both images in one array ``(B, X, Y, Z, 2 C)``
        on the half grid, image 1 first, to the velocity ``(B, X, Y, Z, 3)``, not yet averaged over both
        orders.

    Raises
    ------
    InvalidOption
        If the model has no deformable step.
    """
    return _inner(model, VELOCITY, "deformable")


def _inner(model: keras.Model, name: str, step: str) -> keras.Model:
    found = next((layer for layer in model.layers if layer.name == name), None)
    if found is None:
        raise InvalidOption(f"the network {model.name!r} has no {step} step")
    return found
