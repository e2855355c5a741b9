"""From a T1-weighted head to 95 structures: the pipeline of FastSurfer 1.1.0 (Deep-MI/FastSurfer@070647d)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption, OutOfMemory, WeightsMismatch
from kerasneuro.inference.settings import Settings, parse_memory
from kerasneuro.tasks import Result, Task

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

    from kerasneuro.volume import Volume

    Image = str | os.PathLike[str] | SpatialImage | Volume

PARTS = ("axial", "coronal", "sagittal")
SPACES = ("conformed", "native")
COMPUTING = ("batch_size", "engine", "precision", "device", "max_memory", "progress")
"""Prediction options that networks of whole slices can follow."""
LARGEST_VOXEL = 5.0  # mm


@dataclass(frozen=True)
class Maps:
    """What is found on the conformed grid, each ``(256, 256, 256)``."""

    labels: np.ndarray
    aseg: np.ndarray
    mask: np.ndarray


class FastSurferTask(Task):
    """Name 95 structures of a T1-weighted head by three networks, one for each plane."""

    outputs: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "labels": ".mgz",
            "conformed": ".mgz",
            "aseg": ".mgz",
            "mask": ".mgz",
            "table": ".csv",
            "volumes": ".json",
            "colours": ".txt",
            "provenance": ".json",
        }
    )
    main_output: ClassVar[str] = "labels"
    option_names: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {
            "image": ("--t1", "--in_name", "--input_name"),
            "clean": ("--clean_seg",),
            "batch_size": ("--batch_size", "--batch"),
            "work_dir": ("--work_dir",),
        }
    )
    subject_image: ClassVar[str | None] = "orig.mgz"
    defaults: ClassVar[Settings] = Settings(batch_size=8)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._check_parts()

    def __call__(
        self,
        image: Image,
        *,
        clean: bool = False,
        space: str = "conformed",
        work_dir: Path | None = None,
        deterministic: bool = False,
        **prediction: Any,
    ) -> Result:
        """Segment one scan.

        The defaults compute what ``eval.py`` of FastSurfer 1.1.0 computes.

        Parameters
        ----------
        image : path or nibabel image
            A T1-weighted head with skull, any orientation, voxels of at most 5 mm.
        clean : bool
            Replace islands of up to 25 voxels by the median label around them.
        space : str
            "conformed": results on the grid of 256 x 256 x 256 voxels of 1 mm that the networks see.
            "native": labels, aseg and mask on the grid of the scan, by nearest neighbour.
        work_dir : path, optional
            Folder with 9 GB of free space for scratch files, best on a disk and not in memory; they are
            removed at the end. Default: the system's temporary folder.
        deterministic : bool
            Write the same bytes at each run: no date in the provenance, and deterministic kernels where the
            backend can be told so.
        **prediction
            Prediction options; of these `batch_size` (slices at once, 8), `engine`, `precision`, `device`,
            `max_memory` and `progress` apply.

        Returns
        -------
        Result
            `labels` (int16, FreeSurfer's labels), `aseg` (uint8, each cortex as one), `mask` (uint8), the
            `conformed` scan (uint8), a `table` with voxels, mm3 and intensities of each structure,
            ``summaries["volumes"]``, and `colours`.

        Raises
        ------
        InvalidImage
            If the scan cannot be used: negative intensities, several volumes, voxels larger than 5 mm.
        InvalidOption
            If an option is out of range.
        OutputError
            If `work_dir` is missing or has too little space.

        Examples
        --------
        >>> import kerasneuro
        >>> task = kerasneuro.load("fastsurfer-cnn")  # doctest: +SKIP
        >>> task("sub-01_T1w.nii.gz").save("aparc.DKTatlas+aseg.deep.mgz")  # doctest: +SKIP
        """
        from kerasneuro.inference.repeatable import repeatable
        from kerasneuro.volume import conform_mgh

        settings = self.check(space, prediction)
        scan = load_scan(image)
        conformed, to_native = conform_mgh(scan)
        with repeatable(deterministic):
            classes = self.classify(conformed.array, settings, work_dir)
        maps = name_structures(classes, clean=clean)
        options = {
            "clean": clean,
            "space": space,
            "deterministic": deterministic,
            "batch_size": settings.batch_size,
            **prediction,
        }
        provenance = self.record({"image": scan}, options)
        if deterministic:
            provenance.pop("date")
        back = to_native if space == "native" else None
        return self.describe_result(scan, conformed, maps, back, provenance)

    def _check_parts(self) -> None:
        """Refuse networks that are in the place of another plane."""
        from kerasneuro.models.fastsurfer.aggregation import CLASSES

        for part, wanted in CLASSES.items():
            found = int(self.models[part].output_shape[-1])
            if found != wanted:
                raise WeightsMismatch(
                    f"the {part} network must have {wanted} classes, found {found}; give each part the "
                    "checkpoint of its plane"
                )
            name = str(self.provenance.get(part, {}).get("registered", ""))
            other = next((plane for plane in PARTS if plane != part and name.endswith(f"_{plane}.pkl")), None)
            if other:
                raise WeightsMismatch(
                    f"the part {part} was given the checkpoint of the {other} plane ({name}); give each part "
                    "the checkpoint of its plane"
                )

    def check(self, space: str, prediction: Mapping[str, Any]) -> Settings:
        """Refuse options out of range, before anything is read or computed."""
        if space not in SPACES:
            raise InvalidOption(f"space must be one of {', '.join(SPACES)}; found {space!r}")
        settings = self.settings(prediction)
        for name in (field.name for field in fields(Settings) if field.name not in COMPUTING):
            if getattr(settings, name) != getattr(self.defaults, name):
                raise InvalidOption(
                    f"{self.card.name} sees whole slices and has no option {name!r}; leave it out"
                )
        return settings

    def classify(self, volume: np.ndarray, settings: Settings, work_dir: Path | None = None) -> np.ndarray:
        """Return the class of every voxel of a conformed volume ``(I, J, K)``: uint8, 0 to 78."""
        from kerasneuro.inference.progress import reporting
        from kerasneuro.models.fastsurfer.aggregation import aggregate_views

        batch_size = self.fitting_batch(volume.shape, settings)
        headline = f"slices of three planes, {batch_size} at once"
        with reporting(settings.progress, headline, sum(volume.shape)) as advance:
            return aggregate_views(
                volume,
                {part: self.engine(part, settings) for part in PARTS},
                batch_size=batch_size,
                work_dir=None if work_dir is None else Path(work_dir),
                report=lambda done, total: advance(done + sum(volume.shape) - total),
            )

    def fitting_batch(self, shape: tuple[int, ...], settings: Settings) -> int:
        """Halve the batch until its estimate fits `max_memory`."""
        from kerasneuro.inference import estimate_memory

        budget, batch_size = parse_memory(settings.max_memory), settings.batch_size
        if budget is None:
            return batch_size
        plane = tuple(sorted(shape)[-2:])
        while (need := estimate_memory(self.models["axial"], plane, batch_size)) > budget:
            if batch_size == 1:
                raise OutOfMemory(
                    f"one slice at a time needs {need / 1e9:.2f} GB, more than max_memory "
                    f"{settings.max_memory}; grant more"
                )
            batch_size //= 2
        return batch_size

    def describe_result(
        self,
        scan: Volume,
        conformed: Volume,
        maps: Maps,
        to_native: Any | None,
        provenance: Mapping[str, Any],
    ) -> Result:
        """Put the maps into images on the conformed or the scan's own grid, with all that is told of them."""
        from kerasneuro.models.fastsurfer.findings import doubts, measure, summarise
        from kerasneuro.models.fastsurfer.labels import colour_table
        from kerasneuro.volume import to_image
        from kerasneuro.volume.colour_table import MGH_TRAILER

        def image(array: np.ndarray, dtype: type) -> Any:
            if to_native is None:
                return to_image(array, conformed, dtype=dtype)
            return to_image(to_native(array), scan, dtype=dtype, keep_frame_axis=True)

        colours = colour_table()
        labels, aseg = image(maps.labels, np.int16), image(maps.aseg, np.uint8)
        labels.extra[MGH_TRAILER] = aseg.extra[MGH_TRAILER] = colours.mgh_trailer()
        table = measure(maps.labels, conformed)
        return Result(
            labels=labels,
            aseg=aseg,
            mask=image(maps.mask, np.uint8),
            conformed=to_image(conformed.array, conformed, dtype=np.uint8),
            colours=colours,
            table=table,
            summaries={"volumes": summarise(table)},
            provenance=provenance,
            warnings=(*conformed.warnings, *doubts(maps.labels, scan, conformed, table)),
            input=scan,
            outputs=self.outputs,
            main_output=self.main_output,
        )


def load_scan(image: Image) -> Volume:
    """Read a scan with the type and the affine that the original uses, and refuse voxels larger than 5 mm.

    Raises
    ------
    InvalidImage
        If the scan cannot be used.
    """
    from kerasneuro.volume import load
    from kerasneuro.volume.conform_mgh import header_affine, is_conformed, qform_wins

    scan = load(image, dtype=None)
    if not is_conformed(scan):
        if qform_wins(scan):
            scan = load(image, dtype=None, affine_rule="qform")
        scan = scan.replace(affine=header_affine(scan))
    if max(scan.zooms) > LARGEST_VOXEL:
        listed = " x ".join(f"{zoom:.3g}" for zoom in scan.zooms)
        raise InvalidImage(
            f"expected voxels of at most {LARGEST_VOXEL:g} mm, found {listed} mm; the networks know scans of "
            "about 1 mm: use a scan of higher resolution"
        )
    return scan


def name_structures(classes: np.ndarray, *, clean: bool) -> Maps:
    """Turn classes into FreeSurfer's labels, hemispheres told apart, with brain mask and aseg.

    Parameters
    ----------
    classes : ndarray
        ``(I, J, K)``, uint8, 0 to 78.
    clean : bool
        Remove small islands.
    """
    from kerasneuro.models.fastsurfer.aseg import brain_mask, reduce_to_aseg, swap_islands
    from kerasneuro.models.fastsurfer.cleaning import remove_islands
    from kerasneuro.models.fastsurfer.cortex import split_cortex
    from kerasneuro.models.fastsurfer.labels import class_labels

    labels = split_cortex(class_labels()[classes])
    if clean:
        labels = remove_islands(labels)
    mask = brain_mask(labels)
    return Maps(labels, swap_islands(reduce_to_aseg(labels, mask)), mask)


TASK = FastSurferTask
