"""Images and their geometry: read, reorient, resample, crop, normalise, clean, write."""

from __future__ import annotations

from kerasneuro.volume.apply import apply_transform
from kerasneuro.volume.colour_table import ColourTable
from kerasneuro.volume.components import Components, find_components
from kerasneuro.volume.compose import compose_transforms
from kerasneuro.volume.conform import conform
from kerasneuro.volume.conform_mgh import conform_mgh
from kerasneuro.volume.crop import (
    Box,
    bounding_box,
    crop_or_pad_centred,
    crop_to_box,
    cut,
    pad_to_multiple,
    paste,
    slices,
)
from kerasneuro.volume.geometry import Geometry, network_geometry
from kerasneuro.volume.image import Volume, load
from kerasneuro.volume.intensity import finite_float32, normalise_between, quantile_limits, zscore
from kerasneuro.volume.labels import dilate, dilate_cube, fill_holes, largest_component
from kerasneuro.volume.orient import to_axcodes
from kerasneuro.volume.output import IMAGE_SUFFIXES, preserve_dtype, save_image, strip_suffix, to_image
from kerasneuro.volume.resample import (
    nearest_float32,
    nearest_float32_axis_index,
    stretch_linear,
    stretch_nearest,
)
from kerasneuro.volume.transform import Affine, Transform, Warp
from kerasneuro.volume.transform_io import load_transform, save_transform
from kerasneuro.volume.warp import rotation_matrix, warp_affine

__all__ = [
    "IMAGE_SUFFIXES",
    "Affine",
    "Box",
    "ColourTable",
    "Components",
    "Geometry",
    "Transform",
    "Volume",
    "Warp",
    "apply_transform",
    "bounding_box",
    "compose_transforms",
    "conform",
    "conform_mgh",
    "crop_or_pad_centred",
    "crop_to_box",
    "cut",
    "dilate",
    "dilate_cube",
    "fill_holes",
    "find_components",
    "finite_float32",
    "largest_component",
    "load",
    "load_transform",
    "nearest_float32",
    "nearest_float32_axis_index",
    "network_geometry",
    "normalise_between",
    "pad_to_multiple",
    "paste",
    "preserve_dtype",
    "quantile_limits",
    "rotation_matrix",
    "save_image",
    "save_transform",
    "slices",
    "stretch_linear",
    "stretch_nearest",
    "strip_suffix",
    "to_axcodes",
    "to_image",
    "warp_affine",
    "zscore",
]
