"""Registration as ``register.py`` of SynthMorph's first release and of VoxelMorph do it.

Source: voxelmorph/voxelmorph@67bc9d2, ``scripts/tf/register.py``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.inference.settings import Settings, parse_memory
from kerasneuro.tasks import Result
from kerasneuro.tasks.base import refuse
from kerasneuro.tasks.registration import RegistrationTask, load_pair

if TYPE_CHECKING:
    import keras
    from nibabel.spatialimages import SpatialImage

    from kerasneuro.inference import Engine
    from kerasneuro.inference.slabs import SlabNetwork
    from kerasneuro.models.voxelmorph.parts import Parts
    from kerasneuro.volume import Volume

    Image = str | os.PathLike[str] | SpatialImage | Volume

ROUNDING = 1e-6  # above 1, or below 0
SAME_PLACE = 1e-3  # mm
ONE_MM = (0.9, 1.1)
BUDGET = 6 * 10**9
"""Bytes for the maps of the network where the caller grants no other amount."""
UNUSED = ("block_shape", "overlap", "merge", "edge", "batch_size", "flips", "scratch")


class VoxelMorphTask(RegistrationTask):
    """Register two affinely aligned images on one grid by a smooth displacement."""

    outputs: ClassVar[Mapping[str, str]] = MappingProxyType({**RegistrationTask.outputs, "warp": ".nii.gz"})

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._parts: dict[float | None, tuple[keras.Model, Parts]] = {}
        self._slabs: dict[tuple[Any, ...], SlabNetwork] = {}

    def __call__(
        self, moving: Image, fixed: Image, *, regularisation: float | None = None, **prediction: Any
    ) -> Result:
        """Register a moving image to a fixed one.

        Nothing is resampled or scaled: the network compares the images voxel by voxel.

        Parameters
        ----------
        moving, fixed : path or nibabel image
            Of one shape whose sizes are multiples of 16, values in [0, 1], affinely aligned; the networks
            were trained at 1 mm with axes to the left, bottom and front (LIA).
        regularisation : float, optional
            Hyperparameter of a file with a hypernetwork, 0 to 1 (0.5); other networks have none.
        **prediction
            Prediction options; of these `engine`, `precision`, `device`, `max_memory` and `progress` apply.

        Returns
        -------
        Result
            `moved` on the grid of the fixed image, `fixed_moved` on that of the moving one (linear, border
            repeated), `transform` and `inverse`, `jacobian`, and `warp`, the displacement in voxels
            ``(X, Y, Z, 3)`` as the original writes it.

        Raises
        ------
        InvalidImage
            If the images differ in shape, or have values outside [0, 1] or sizes that are no multiple of 16.
        InvalidOption
            If an option is out of range.

        Examples
        --------
        >>> import kerasneuro
        >>> task = kerasneuro.load("voxelmorph-t1")  # doctest: +SKIP
        >>> task("moving.nii.gz", "fixed.nii.gz").save("out/")  # doctest: +SKIP
        """
        from kerasneuro.volume import to_image
        from kerasneuro.volume.geometry import Geometry
        from kerasneuro.volume.transform import Warp

        settings = self.settings(prediction)
        refuse(settings, self.card.name, *UNUSED)
        network, parts = self.parts(regularisation)
        pair = load_pair(moving, fixed)
        images = [as_input(volume, role) for volume, role in zip(pair, self.roles, strict=True)]
        check_grids(network, *pair)
        forward, backward = self.displacements(network, parts, images, settings)
        first, second = pair
        grids = Geometry.of(first), Geometry.of(second)
        options = {"regularisation": regularisation, **prediction}
        provenance = self.record({"moving": first, "fixed": second}, options)
        result = self.conclude(
            first,
            second,
            Warp(forward, *grids),
            Warp(backward, *grids[::-1]),
            provenance,
            moved=to_image(warped(images[0], forward), second, dtype=np.float32),
            fixed_moved=to_image(warped(images[1], backward), first, dtype=np.float32),
        )
        return replace(
            result,
            warp=displacement_image(forward, second),
            warnings=(*result.warnings, *doubts(first, second)),
        )

    def parts(self, regularisation: float | None = None) -> tuple[keras.Model, Parts]:
        """Return the network without hypernetwork and its parts; they are kept for the next pair.

        Raises
        ------
        InvalidOption
            If the network takes planes or several channels, has no hyperparameter, or several.
        """
        from kerasneuro.models.voxelmorph.parts import divide, specialise

        hyper = hyperparameters(self.model)
        if regularisation is not None and (hyper == 0 or not 0 <= regularisation <= 1):
            raise InvalidOption(
                f"{self.card.name} was trained with one regularisation: leave the option out"
                if hyper == 0
                else f"regularisation must be between 0 and 1, found {regularisation}"
            )
        shapes = [tuple(tensor.shape[1:]) for tensor in self.model.inputs[:2]]
        if hyper > 1 or any(len(shape) != 4 or shape[-1] != 1 for shape in shapes):
            raise InvalidOption(
                f"{self.card.name}: expected a network of volumes with one channel and one hyperparameter, "
                f"found inputs {shapes} and {hyper} hyperparameters; call its .model instead"
            )
        value = None if hyper == 0 else 0.5 if regularisation is None else float(regularisation)
        if value not in self._parts:
            network = self.model if value is None else specialise(self.model, [value])
            # One at a time: each has all the weights.
            self._parts, self._slabs = {value: (network, divide(network))}, {}
        return self._parts[value]

    def slabs(self, model: keras.Model, settings: Settings) -> SlabNetwork:
        """Return what computes the velocity within the memory granted; kept, as it is compiled."""
        from kerasneuro.inference.slabs import SlabNetwork

        budget = parse_memory(settings.max_memory) or BUDGET
        key = (model, settings.engine, settings.precision, settings.device, budget)
        if key not in self._slabs:
            self._slabs[key] = SlabNetwork(model, lambda part: make_engine(part, settings), budget)
        return self._slabs[key]

    def displacements(
        self, network: keras.Model, parts: Parts, images: list[np.ndarray], settings: Settings
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the displacements ``(X, Y, Z, 3)`` in voxels that pull the moving and the fixed image."""
        from kerasneuro.inference.progress import reporting
        from kerasneuro.models.voxelmorph.parts import head_reach
        from kerasneuro.models.voxelmorph.runner import SLAB_BYTES, velocity

        def compute(model: keras.Model, batch: np.ndarray) -> np.ndarray:
            if model is parts.velocity:
                return self.slabs(model, settings)(batch)
            return make_engine(model, settings)(batch)

        both = np.stack(images, axis=-1)[None]
        with reporting(settings.progress, "velocity, then both directions", 3) as advance:
            slab = min(SLAB_BYTES, (parse_memory(settings.max_memory) or BUDGET) // 2)
            field = velocity(parts, both, compute, head_reach(network), slab)
            advance(1)
            found = []
            for direction, signed in enumerate((field, -field)):
                full = signed if parts.displacement is None else compute(parts.displacement, signed)
                found.append(full[0])
                advance(direction + 2)
        return found[0], found[1]


def make_engine(model: keras.Model, settings: Settings) -> Engine:
    """Return what computes a part of the network."""
    from kerasneuro.inference import Engine

    return Engine(model, engine=settings.engine, precision=settings.precision, device=settings.device)


def hyperparameters(model: keras.Model) -> int:
    """Count the hyperparameters that a network takes as a further input."""
    return int(model.inputs[2].shape[-1]) if len(model.inputs) > 2 else 0


def as_input(volume: Volume, role: str) -> np.ndarray:
    """Return the voxels as float32, after proving that they are in [0, 1].

    Raises
    ------
    InvalidImage
        If they are not.
    """
    low, high = float(volume.array.min()), float(volume.array.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise InvalidImage(
            f"the {role} image must have values in [0, 1], found {low:g} to {high:g}; subtract the smallest "
            "value and divide by the largest"
        )
    return volume.array.astype(np.float32)


def check_grids(network: keras.Model, moving: Volume, fixed: Volume) -> None:
    """Refuse images that the network cannot take.

    Raises
    ------
    InvalidImage
        If the shapes differ or their sizes are no multiple of what the network halves.
    """
    if moving.shape != fixed.shape:
        raise InvalidImage(
            f"both images must have one shape, found {moving.shape} and {fixed.shape}; resample the moving "
            "image on the grid of the fixed one, affinely aligned"
        )
    levels = sum("_unet_enc_pooling_" in layer.name for layer in network.layers)
    wanted = tuple(network.inputs[0].shape[1:4])
    if None not in wanted and wanted != fixed.shape:
        raise InvalidImage(f"this network was built for images of shape {wanted}, found {fixed.shape}")
    if any(size % 2**levels for size in fixed.shape):
        raise InvalidImage(
            f"the sizes of the images must be multiples of {2**levels}, found {fixed.shape}; pad or crop "
            "both images equally"
        )


def warped(image: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Sample an image as the original does: linear, with its border repeated."""
    from kerasneuro.models.voxelmorph.runner import warp_image

    return warp_image(image, displacement)


def displacement_image(displacement: np.ndarray, fixed: Volume) -> Any:
    """Put a displacement into an image as the original does: an array of voxels, no standard warp."""
    import nibabel

    return nibabel.Nifti1Image(displacement, fixed.affine)


def doubts(moving: Volume, fixed: Volume) -> tuple[str, ...]:
    """Say where images are not what the networks were trained on."""
    found = []
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(fixed.shape) - 1)
    ends = [corners @ volume.affine[:3, :3].T + volume.affine[:3, 3] for volume in (moving, fixed)]
    apart = float(np.linalg.norm(ends[0] - ends[1], axis=1).max())
    if apart > SAME_PLACE:
        found.append(
            f"the headers place the two images up to {apart:.1f} mm apart; the network compares voxel with "
            "voxel, whatever the headers say"
        )
    if not all(ONE_MM[0] <= zoom <= ONE_MM[1] for zoom in fixed.zooms) or fixed.axcodes != ("L", "I", "A"):
        listed = " x ".join(f"{zoom:.3g}" for zoom in fixed.zooms)
        found.append(
            f"the images have voxels of {listed} mm with axes {''.join(fixed.axcodes)}; the network was "
            "trained at 1 mm with axes LIA"
        )
    return tuple(found)


TASK = VoxelMorphTask
