"""Segment scans block by block with a network that has no pipeline of its own, such as a fine-tuned one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.inference.settings import Settings
from kerasneuro.registry import ModelCard
from kerasneuro.tasks.base import Result, Task
from kerasneuro.tasks.sanity import volume_warnings

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

    from kerasneuro.volume import Volume

    Image = str | os.PathLike[str] | SpatialImage | Volume

NORMALISATIONS = ("zscore", "quantiles", "none")
GRID_TOLERANCE = 1e-3  # mm
MASK_OUTPUTS = {"mask": ".nii.gz", "probability": ".nii.gz", "table": ".csv", "provenance": ".json"}
LABEL_OUTPUTS = {"labels": ".nii.gz", "table": ".csv", "provenance": ".json"}


class BlockTask(Task):
    """Segment a scan block by block on its own grid: two classes give a mask, more give a label map.

    The card says how: ``input`` has `images` (names of the channels), `normalise`, `orientation` ("as stored"
    or three letters) and `block_shape`; ``output`` has `kind` ("probability" or "logits") and `classes`.
    """

    def __call__(
        self,
        *images: Image,
        threshold: float = 0.5,
        largest_label: bool = False,
        **prediction: Any,
    ) -> Result:
        """Segment one scan.

        Parameters
        ----------
        images : paths or nibabel images
            One for each channel of the network, all on one grid.
        threshold : float
            Voxels with a probability above it belong to the mask, 0 < threshold < 1 (two classes).
        largest_label : bool
            Keep the largest connected piece of the mask (two classes).
        **prediction
            Options of `kerasneuro.inference.Settings`. By default blocks of the size that the network was
            trained with, of which half overlaps and which are blended by a Gaussian.

        Returns
        -------
        Result
            On the grid of the scan. Two classes: `mask` (uint8) and `probability` (float32). More: `labels`,
            the value of each class as in the training. `table`: voxels and mm3 of each class.

        Raises
        ------
        InvalidOption
            If an option is out of range.
        InvalidImage
            If the images cannot be used, or lie on different grids.
        """
        from kerasneuro import volume

        roles = dict(zip(self.roles, images, strict=False))
        if len(images) != len(self.roles):
            raise InvalidOption(
                f"{self.card.name} takes {len(self.roles)} images ({', '.join(self.roles)}), "
                f"found {len(images)}"
            )
        if not 0 < threshold < 1:
            raise InvalidOption(f"threshold must lie between 0 and 1 (both excluded), found {threshold}")
        if largest_label and len(self.classes) > 2:
            raise InvalidOption(f"largest_label needs two classes, {self.card.name} has {len(self.classes)}")
        settings = self.settings(prediction)
        scans = {role: volume.load(image) for role, image in roles.items()}
        check_one_grid(scans)
        scan = next(iter(scans.values()))
        found = self.predict(list(scans.values()), settings)
        options = {"threshold": threshold, "largest_label": largest_label, **settings.options(), **prediction}
        provenance = self.record(scans, options)
        if len(self.classes) > 2:
            return self.label_result(scan, found.astype(np.intp), provenance)
        mask = found > threshold
        if largest_label:
            mask = volume.largest_component(mask, connectivity=26)
        return self.mask_result(scan, mask, found, provenance)

    @property
    def classes(self) -> tuple[Mapping[str, Any], ...]:
        """Index, name and label value of each class, the background first."""
        return tuple(self.card.output["classes"])

    def settings(self, prediction: Mapping[str, Any]) -> Settings:
        """Merge the caller's prediction options into those of the training."""
        block = self.card.input.get("block_shape")
        defaults = self.defaults.updated(block_shape=tuple(block) if block else None)
        return defaults.updated(**prediction)

    def predict(self, scans: Sequence[Volume], settings: Settings) -> np.ndarray:
        """Return the probability of the foreground, or the class of each voxel, ``(X, Y, Z)``."""
        from kerasneuro.inference import predict_blocks
        from kerasneuro.volume import to_axcodes

        axcodes = str(self.card.input.get("orientation", "as stored"))
        moved = [scan if axcodes == "as stored" else to_axcodes(scan, axcodes)[0] for scan in scans]
        back = None if axcodes == "as stored" else to_axcodes(scans[0], axcodes)[1]
        rule = str(self.card.input.get("normalise", "zscore"))
        array = np.stack([normalise(one.array, rule) for one in moved], axis=-1)
        channels = int(self.model.output_shape[-1])
        logits = self.card.output.get("kind") == "logits"
        predicted = predict_blocks(
            self.model,
            array,
            output="label" if len(self.classes) > 2 else "probability",
            activation=("sigmoid" if channels == 1 else "softmax") if logits else None,
            **settings.options(),
        )
        found = np.asarray(predicted)
        if found.ndim == 4:
            found = found[..., -1]
        return found if back is None else back(found)

    def mask_result(
        self, scan: Volume, mask: np.ndarray, probability: np.ndarray, provenance: Mapping[str, Any]
    ) -> Result:
        """Put a mask and its probability on the grid of the scan."""
        from kerasneuro.volume import to_image

        return Result(
            mask=to_image(mask, scan, dtype=np.uint8),
            probability=to_image(probability, scan, dtype=np.float32),
            table=self.rows(mask.astype(np.intp), scan),
            provenance=provenance,
            warnings=(*scan.warnings, *volume_warnings(mask, scan.zooms)),
            input=scan,
            outputs=self.outputs,
            main_output=self.main_output,
        )

    def label_result(self, scan: Volume, classes: np.ndarray, provenance: Mapping[str, Any]) -> Result:
        """Put the label values of the classes on the grid of the scan."""
        from kerasneuro.volume import to_image

        values = np.array([row["value"] for row in self.classes], np.int64)
        dtype = np.uint8 if values.max() < 256 else np.int16 if values.max() < 2**15 else np.int32
        return Result(
            labels=to_image(values[classes], scan, dtype=dtype),
            table=self.rows(classes, scan),
            provenance=provenance,
            warnings=(*scan.warnings, *volume_warnings(classes, scan.zooms, name="label map")),
            input=scan,
            outputs=self.outputs,
            main_output=self.main_output,
        )

    def rows(self, classes: np.ndarray, scan: Volume) -> tuple[dict[str, Any], ...]:
        """Count voxels and mm3 of each class but the background."""
        voxel = abs(float(np.linalg.det(scan.affine[:3, :3])))
        counts = np.bincount(classes.reshape(-1), minlength=len(self.classes))
        return tuple(
            {
                "label": row["value"],
                "name": row["name"],
                "voxels": int(count),
                "volume_mm3": round(float(count) * voxel, 3),
            }
            for row, count in list(zip(self.classes, counts, strict=True))[1:]
        )


def block_task(card: ModelCard) -> type[BlockTask]:
    """Return the task of a card, with its images as roles and its outputs."""
    names = [re.sub(r"\W", "_", str(name)).strip("_").lower() for name in card.input.get("images", ())]
    roles = tuple(names) if len(set(names)) > 1 else ("image",)
    binary = len(card.output["classes"]) == 2
    attributes: dict[str, Any] = {
        "roles": roles,
        "outputs": MappingProxyType(MASK_OUTPUTS if binary else LABEL_OUTPUTS),
        "main_output": "mask" if binary else "labels",
        "option_names": MappingProxyType({"threshold": ("-t",)}),
        "defaults": Settings(overlap=0.5, merge="gaussian"),
        "__doc__": BlockTask.__doc__,
    }
    return type("BlockTask", (BlockTask,), attributes)


def normalise(array: np.ndarray, rule: str) -> np.ndarray:
    """Bring the voxels ``(X, Y, Z)`` of one channel to the scale of the training, float32.

    Parameters
    ----------
    array : ndarray
        Finite numbers.
    rule : {"zscore", "quantiles", "none"}
        Standard scores; between the 0.5 and the 99.5 % quantile, as deepbet does; or unchanged.

    Raises
    ------
    InvalidOption
        If there is no such rule.
    """
    from kerasneuro.volume import normalise_between, quantile_limits, zscore

    if rule not in NORMALISATIONS:
        raise InvalidOption(f"normalise must be one of {', '.join(NORMALISATIONS)}; found {rule!r}")
    values = np.asarray(array, np.float32)
    if rule == "none":
        return values
    return zscore(values) if rule == "zscore" else normalise_between(values, *quantile_limits(values))


def check_one_grid(scans: Mapping[str, Volume]) -> None:
    """Refuse channels that lie on different grids.

    Raises
    ------
    InvalidImage
        With the two roles.
    """
    (first, reference), *others = scans.items()
    for role, scan in others:
        if scan.shape != reference.shape or not np.allclose(
            scan.affine, reference.affine, atol=GRID_TOLERANCE
        ):
            raise InvalidImage(
                f"the images {first} and {role} lie on different grids ({reference.shape} and {scan.shape}, "
                "or another affine); resample one to the grid of the other"
            )
