"""The vector fields of VxmDense: velocity, its integral, and the grids they live on.

Source: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/networks.py`` (`VxmDense`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from kerasneuro.errors import InvalidOption
from kerasneuro.models.voxelmorph.normal import SampleNormalLogVar
from kerasneuro.models.voxelmorph.unet import Convolve, Widths, add_unet
from kerasneuro.nn.spatial_layers import Negate, RescaleTransform, VecInt

FLOW_DEVIATION = 1e-5
LOG_SIGMA_DEVIATION = 1e-10
LOG_SIGMA_BIAS = -10.0


@dataclass(frozen=True)
class Fields:
    """The vector fields of a graph, as Keras tensors.

    Attributes
    ----------
    svf : tensor
        Velocity on the grid of the U-Net's output.
    preintegrated : tensor
        Velocity on the grid of the integration.
    postintegrated : tensor
        Displacement on that grid.
    warp : tensor
        Displacement on the grid of the images.
    inverse : tensor or None
        Displacement of the other direction.
    parameters : tensor or None
        Mean and log variance of the velocity, if it is drawn.
    """

    svf: Any
    preintegrated: Any
    postintegrated: Any
    warp: Any
    inverse: Any = None
    parameters: Any = None


@dataclass(frozen=True)
class Resolutions:
    """How much coarser than the images the velocity and its integration are."""

    shape: tuple[int | None, ...]
    svf: float
    integration: float
    int_steps: int

    @property
    def integrates_coarsely(self) -> bool:
        """Tell whether the displacement must be brought to the grid of the images."""
        return self.int_steps > 0 and self.integration > 1

    def zoom(self, grid: int | None, wanted: float, from_factor: float) -> float:
        """Return the factor from a grid to the one `wanted` times coarser than the images (first axis)."""
        size = self.shape[0]
        if size is None or grid is None:
            return from_factor / wanted
        return round(size / wanted) / grid


def add_fields(
    source: Any,
    target: Any,
    plan: Widths,
    resolutions: Resolutions,
    convolve: Convolve,
    bidir: bool,
    use_probs: bool,
    name: str,
) -> Fields:
    """Add the U-Net, its velocity and the integration to a graph."""
    x = layers.Concatenate(name=f"{name}_unet_input_concat")([source, target])
    unused = min(int(math.log2(resolutions.svf)), plan.levels)
    x = add_unet(x, plan, plan.levels - unused, convolve, f"{name}_unet")
    svf, parameters = add_velocity(x, use_probs, name)
    zoom = resolutions.zoom(svf.shape[1], resolutions.svf, 2**unused)
    if zoom != 1:
        svf = RescaleTransform(zoom, name=f"{name}_svf_resize")(svf)
    start = svf
    if resolutions.integrates_coarsely:
        zoom = resolutions.zoom(svf.shape[1], resolutions.integration, resolutions.svf)
        if zoom != 1:
            start = RescaleTransform(zoom, name=f"{name}_flow_resize")(svf)
    displacement, full = add_integral(start, resolutions, "", name)
    inverse = None
    if bidir:
        negative = Negate(name=f"{name}_neg_flow")(start)
        _, inverse = add_integral(negative, resolutions, "neg_", name)
    return Fields(svf, start, displacement, full, inverse, parameters)


def add_velocity(x: Any, use_probs: bool, name: str) -> tuple[Any, Any]:
    """Add the convolutions that give the velocity; return it, and its distribution if it is drawn."""
    rank = len(x.shape) - 2
    convolution = getattr(layers, f"Conv{rank}D")
    # The field stays in float32 where the rest of the network computes in half precision.
    options: dict[str, Any] = {"padding": "same", "dtype": "float32"}
    start = keras.initializers.RandomNormal(0.0, FLOW_DEVIATION)
    flow = convolution(rank, 3, kernel_initializer=start, name=f"{name}_flow", **options)(x)
    if not use_probs:
        return flow, None
    log_sigma = convolution(
        rank,
        3,
        kernel_initializer=keras.initializers.RandomNormal(0.0, LOG_SIGMA_DEVIATION),
        bias_initializer=keras.initializers.Constant(LOG_SIGMA_BIAS),
        name=f"{name}_log_sigma",
        **options,
    )(x)
    parameters = layers.Concatenate(name=f"{name}_prob_concat", dtype="float32")([flow, log_sigma])
    return SampleNormalLogVar(name=f"{name}_z_sample")([flow, log_sigma]), parameters


def add_integral(velocity: Any, resolutions: Resolutions, sign: str, name: str) -> tuple[Any, Any]:
    """Add integration and upsampling; return the displacement before and after the upsampling."""
    displacement = velocity
    if resolutions.int_steps > 0:
        displacement = VecInt(resolutions.int_steps, name=f"{name}_{sign}flow_int")(velocity)
    if not resolutions.integrates_coarsely:
        return displacement, displacement
    zoom = resolutions.zoom(displacement.shape[1], 1, resolutions.integration)
    return displacement, RescaleTransform(zoom, name=f"{name}_{sign}diffflow")(displacement)


def check(plan: Widths, resolutions: Resolutions) -> None:
    """Refuse options that give no network."""
    if len(resolutions.shape) not in (2, 3):
        raise InvalidOption(f"inshape has 2 or 3 axes, found {resolutions.shape}")
    multiple = 2**plan.levels
    if any(size is not None and (size < multiple or size % multiple) for size in resolutions.shape):
        raise InvalidOption(
            f"the sizes of inshape must be multiples of {multiple}, found {resolutions.shape}"
        )
    if resolutions.svf < 1 or resolutions.integration < 1 or resolutions.int_steps < 0:
        raise InvalidOption(
            "svf_resolution and int_resolution must be 1 or more and int_steps 0 or more, found "
            f"{resolutions.svf}, {resolutions.integration} and {resolutions.int_steps}"
        )
    if resolutions.svf != 1 and not resolutions.integrates_coarsely:
        raise InvalidOption(
            "a coarser velocity needs int_steps above 0 and int_resolution above 1, which bring it back to "
            f"the images' grid; found svf_resolution {resolutions.svf}, int_resolution "
            f"{resolutions.integration}, int_steps {resolutions.int_steps}"
        )
