"""From a T1-weighted head to its brain: the pipeline of deepbet 1.0.2 (wwu-mmll/deepbet@9ad3f99)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.inference.settings import Settings
from kerasneuro.models.deepbet import steps
from kerasneuro.tasks.base import Result, Task, refuse

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

    from kerasneuro.inference.engine import Engine
    from kerasneuro.volume import Box, Volume

    Image = str | os.PathLike[str] | SpatialImage | Volume

PARTS = ("bbox", "brain")
PLAUSIBLE_CM3 = (700.0, 2300.0)
"""Intracranial volumes outside of this range are reported as doubtful; adults have 1,000 to 2,000 cm3."""
COMPUTING = ("engine", "precision", "device", "progress")
"""Prediction options that a network without blocks can follow."""


class DeepbetTask(Task):
    """Extract the brain (the intracranial space with its fluid) from a T1-weighted scan of a head."""

    outputs: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "mask": ".nii.gz",
            "brain": ".nii.gz",
            "probability": ".nii.gz",
            "table": ".csv",
            "provenance": ".json",
        }
    )
    option_names: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {"threshold": ("-t",), "n_dilate": ("-d", "--n_dilate")}
    )
    training_scale: ClassVar[str] = "quantiles"

    def __call__(
        self,
        image: Image,
        *,
        threshold: float = 0.5,
        n_dilate: int = 0,
        frame: int | None = None,
        **prediction: Any,
    ) -> Result:
        """Extract the brain from one scan.

        Parameters
        ----------
        image : path or nibabel image
            A T1-weighted head, any orientation and voxel size.
        threshold : float
            Voxels with a probability above it belong to the brain; 0 to 1.
        n_dilate : int
            Grow the mask by so many voxels, or shrink it where negative.
        frame : int, optional
            Volume of a 4-D image to use, counted from 0; without it, an image of several volumes is refused.
        **prediction
            Prediction options; of these `engine`, `precision`, `device` and `progress` apply.

        Returns
        -------
        Result
            On the grid of the scan: `mask` (uint8), `brain` (the scan's own values, 0 outside the mask),
            `probability` (float32, 0 outside the box around the head), and a `table` with the intracranial
            volume.

        Raises
        ------
        InvalidImage
            If the image cannot be used, or no brain is found in it.
        InvalidOption
            If an option has a value outside of its range.

        Examples
        --------
        >>> import kerasneuro
        >>> result = kerasneuro.load("deepbet")("sub-01_T1w.nii.gz")  # doctest: +SKIP
        >>> result.table[0]["tiv_cm3"]  # doctest: +SKIP
        1523.25
        """
        from kerasneuro.volume import dilate, to_axcodes

        settings = self.check(threshold, n_dilate, prediction)
        scan = load_frame(image, frame)
        head, to_input = to_axcodes(scan, "RAS")
        report = progress_of(settings)
        box, limits = self.find_box(head.array, settings)
        report(1, 2)
        inside = self.outline_brain(head.array, box, limits, settings)
        report(2, 2)

        probability = np.zeros(head.shape, np.float32)
        mask = np.zeros(head.shape, bool)
        where = tuple(slice(*extent) for extent in box)
        probability[where] = inside
        mask[where] = clean(inside > threshold)
        del inside
        mask = dilate(mask, int(n_dilate))

        options = {"threshold": threshold, "n_dilate": n_dilate, "frame": frame, **prediction}
        facts = {"box_ras": box, "low": limits[0], "high": limits[1]}
        return self.describe_result(scan, to_input(mask), to_input(probability), options, facts)

    def check(self, threshold: float, n_dilate: int, prediction: Mapping[str, Any]) -> Settings:
        """Check the options before anything is read."""
        if not 0 <= threshold < 1:
            raise InvalidOption(f"threshold must be at least 0 and below 1, found {threshold!r}")
        if int(n_dilate) != n_dilate:
            raise InvalidOption(f"n_dilate must be a whole number of voxels, found {n_dilate!r}")
        settings = self.settings(prediction)
        refuse(settings, self.card.name, *(f.name for f in fields(Settings) if f.name not in COMPUTING))
        return settings

    def engine(self, part: str, settings: Settings) -> Engine:
        """Return the engine of one network; on TensorFlow, tracing a graph takes longer than it saves."""
        import keras

        if settings.engine == "auto" and keras.backend.backend() == "tensorflow":
            settings = settings.updated(engine="eager")
        return super().engine(part, settings)

    def find_box(self, head: np.ndarray, settings: Settings) -> tuple[Box, tuple[float, float]]:
        """Find the box around the brain, and the two intensities that are scaled to 0 and 1.

        Parameters
        ----------
        head : ndarray (X, Y, Z)
            RAS order, float32.
        settings : Settings
            Engine, precision, device.

        Returns
        -------
        box : Box
            In voxels of `head`.
        limits : tuple of float
            The 0.5 % and the 99.5 % quantile at 128^3.
        """
        from kerasneuro.volume import largest_component, nearest_float32, normalise_between, quantile_limits

        small = nearest_float32(head, steps.BOX_SHAPE)
        limits = quantile_limits(small)
        logits = self.engine("bbox", settings)(normalise_between(small, *limits)[np.newaxis, ..., np.newaxis])
        foreground = steps.brain_probability(logits[0]) > 0.5
        if not foreground.any():
            raise InvalidImage(
                "expected a T1-weighted head, found no voxel that looks like brain; check the scan's contrast"
            )
        return steps.locate_brain(largest_component(foreground, connectivity=26), head.shape), limits

    def outline_brain(
        self, head: np.ndarray, box: Box, limits: tuple[float, float], settings: Settings
    ) -> np.ndarray:
        """Return the probability of brain in the box, float32, in the box's own voxels."""
        from kerasneuro.volume import cut, nearest_float32, normalise_between

        region = cut(head, box)
        scaled = normalise_between(nearest_float32(region, steps.BRAIN_SHAPE), *limits)
        logits = self.engine("brain", settings)(scaled[np.newaxis, ..., np.newaxis])[0]
        return steps.stretched_probability(logits, region.shape)

    def describe_result(
        self,
        scan: Volume,
        mask: np.ndarray,
        probability: np.ndarray,
        options: Mapping[str, Any],
        facts: Mapping[str, Any],
    ) -> Result:
        """Put masks on the input grid into images, with the volume, the provenance and what is doubtful."""
        from kerasneuro.volume import preserve_dtype, to_image

        count = int(mask.sum())
        volume_cm3 = 1e-3 * count * voxel_volume(scan)
        brain = np.where(mask, scan.array, np.zeros((), scan.array.dtype))
        box = " ".join(f"{low}:{high}" for low, high in facts["box_ras"])
        return Result(
            mask=to_image(mask, scan, dtype=np.uint8, keep_frame_axis=True),
            brain=preserve_dtype(brain, scan, keep_frame_axis=True),
            probability=to_image(probability, scan, dtype=np.float32, keep_frame_axis=True),
            table=({"tiv_cm3": volume_cm3, "mask_voxels": count, "box_ras": box},),
            provenance=self.record({"image": scan}, options, **facts),
            warnings=(*scan.warnings, *doubts(mask, volume_cm3)),
            input=scan,
            outputs=self.outputs,
            main_output=self.main_output,
        )


def load_frame(image: Image, frame: int | None) -> Volume:
    """Read a scan, or one volume of a 4-D image."""
    from kerasneuro.volume import Volume, load

    if frame is None or isinstance(image, Volume):
        return load(image)
    first = load(image, frames="first", check_constant=frame == 0)
    if frame == 0:
        return first
    import nibabel
    from nibabel.spatialimages import SpatialImage

    opened: Any = image if isinstance(image, SpatialImage) else nibabel.load(os.fspath(image))
    count = opened.shape[3] if len(opened.shape) == 4 else 1
    if not 0 <= frame < count:
        raise InvalidOption(f"frame must be 0 to {count - 1} for this image, found {frame}")
    return load(opened.slicer[..., frame : frame + 1]).replace(path=first.path, warnings=first.warnings)


def clean(mask: np.ndarray) -> np.ndarray:
    """Keep the largest piece, and fill the holes that the faces of the box do not reach."""
    from kerasneuro.volume import fill_holes, largest_component

    return fill_holes(largest_component(mask, connectivity=26))


def voxel_volume(scan: Volume) -> float:
    """Return mm3 per voxel, by the voxel sizes of the header, as the original does."""
    zooms = scan.header.get_zooms()[:3] if scan.header is not None else scan.zooms
    return float(np.prod(zooms))


def doubts(mask: np.ndarray, volume_cm3: float) -> tuple[str, ...]:
    """Say in plain words what looks wrong with a mask."""
    if not mask.any():
        return ("the mask is empty: no voxel is above the threshold, or the mask was shrunk away",)
    found = []
    if steps.touches_border(mask):
        found.append("the mask touches the border of the image: a part of the brain may be cut off")
    low, high = PLAUSIBLE_CM3
    if not low <= volume_cm3 <= high:
        found.append(
            f"the volume of the mask, {volume_cm3:.1f} cm3, is outside the {low:g} to {high:g} cm3 of a "
            "human head; look at the result"
        )
    return tuple(found)


def progress_of(settings: Settings) -> Callable[[int, int], None]:
    """Return what is called after each network: the caller's function, or nothing."""
    return settings.progress if callable(settings.progress) else lambda done, total: None


TASK = DeepbetTask
