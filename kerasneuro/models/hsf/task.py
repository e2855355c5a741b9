"""From a T1w or T2w head to the subfields of both hippocampi, as HSF 1.2.3 (clementpoiret/HSF@bdd4f19)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from kerasneuro.errors import InvalidOption, WeightsMismatch
from kerasneuro.tasks.base import Result, Task, refuse

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

    from kerasneuro.models.hsf.draw import Chances
    from kerasneuro.models.hsf.findings import Finding
    from kerasneuro.models.hsf.predict import Plan
    from kerasneuro.volume import Volume

    Image = str | os.PathLike[str] | SpatialImage | Volume

SIDES = ("right", "left")
SIDE_OUTPUTS = ("hippocampus", "hippocampus_seg", "hippocampus_seg_crop", "hippocampus_unc_crop")
NOT_OFFERED = ("block_shape", "overlap", "merge", "edge", "max_memory", "scratch", "flips")
"""Prediction options that a network that sees a whole crop cannot follow."""


class HsfTask(Task):
    """Segment the subfields of both hippocampi: one network or several, which vote."""

    outputs: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            **{f"{side}_{name}": ".nii.gz" for side in SIDES for name in SIDE_OUTPUTS},
            **{f"second-contrast_{side}_hippocampus": ".nii.gz" for side in SIDES},
            "second-contrast_registered": ".nii.gz",
            "labels": ".nii.gz",
            "uncertainty": ".nii.gz",
            "table": ".csv",
            "colours": ".txt",
            "provenance": ".json",
        }
    )
    main_output: ClassVar[str] = "labels"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        counts = {part: int(model.output_shape[-1]) for part, model in self.models.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{part} {count}" for part, count in counts.items())
            raise WeightsMismatch(
                f"networks that vote must have the same number of classes, found {listed}; load them apart"
            )

    def __call__(
        self,
        image: Image,
        *,
        boxes: Path | Mapping[str, Any] | None = None,
        masks: Path | Mapping[str, Any] | None = None,
        right_mask: Path | Image | None = None,
        left_mask: Path | Image | None = None,
        roi: str = "template",
        mask: Path | Image | None = None,
        contrast: str = "t2",
        margin: tuple[int, int, int] | None = None,
        right_offset: tuple[int, int, int] = (0, 0, 0),
        left_offset: tuple[int, int, int] = (0, 0, 0),
        bet: bool = False,
        ca_mode: str = "1/2/3",
        num_aug: int | None = None,
        seed: int | None = 0,
        second: Path | Image | None = None,
        same_space: bool = True,
        flip_probability: float = 0.5,
        affine_probability: float = 0.8,
        elastic_probability: float = 0.2,
        scales: float = 0.2,
        degrees: float = 15.0,
        translation: float = 3.0,
        control_points: int = 4,
        max_displacement: float = 4.0,
        **prediction: Any,
    ) -> Result:
        """Segment one scan.

        Each hippocampus is cut out, standardised, and predicted by every network, as it is and in augmented
        copies; every prediction has one vote.

        Parameters
        ----------
        image : path or nibabel image
            A T1w or T2w head in any orientation.
        boxes : path or mapping, optional
            Where the hippocampi are: ``{"right": [x0, y0, z0, x1, y1, z1], "left": [...]}`` or a JSON file
            with it; voxels of the scan in RAS+ orientation, ends excluded. One side alone is allowed.
        masks : path or mapping, optional
            Or an image of labels that shows both hippocampi (of FreeSurfer or CerebrA), or a mapping, see
            `kerasneuro.models.hsf.masks.boxes_from_masks`.
        right_mask, left_mask : path or image, optional
            Or a mask of each.
        roi : {"template", "synthmorph", "ants"}
            Else a template is registered to the scan: by an affine registration of our own, by SynthMorph's
            affine network, or by ANTs as in the original.
        mask : path, image or pattern, optional
            Brain mask: registration looks at these voxels only. A pattern such as ``*mask.nii.gz`` is looked
            for in the scan's folder.
        contrast : {"t2", "t1"}
            Contrast of the scan, which chooses the template.
        margin : tuple of int, optional
            Voxels around each hippocampus; default 16 4 16. The original's guide names 8 8 8 for T1w scans.
        right_offset, left_offset : tuple of int
            Voxels by which the box of a side is moved.
        bet : bool
            The scan has no skull: register the template without skull.
        ca_mode : str
            Subfields of the cornu ammonis that are told apart: "1/2/3", "1/23", "123"; "" unites all
            subfields. The number of a label depends on it.
        num_aug : int, optional
            Augmented copies that vote besides the crop itself; 0 and 1 stand for none. Default: that of the
            model's name, 20 for the accurate ones, else 0.
        seed : int, optional
            Start of the random numbers of the copies; without it, every run differs.
        second : path, image or pattern, optional
            Another contrast of the same person, whose predictions vote as well; a pattern such as
            ``*T2w.nii.gz`` must fit one file in the scan's folder.
        same_space : bool
            The second contrast lies on the grid of the scan; otherwise it is registered to it first.
        flip_probability : float
            Part of the copies that is mirrored.
        affine_probability, elastic_probability : float
            Every copy is turned or bent; only the ratio of the two counts.
        scales : float
            Turned copies are scaled by 1 - scales to 1 + scales along each axis.
        degrees : float
            Largest angle about each axis.
        translation : float
            Largest shift along each axis in mm.
        control_points : int
            Control points of the bending along each axis, at least 4.
        max_displacement : float
            Largest displacement of a control point along each axis in mm.
        **prediction
            Prediction options; of these `batch_size` (copies computed at once), `engine`, `precision`,
            `device` and `progress` apply.

        Returns
        -------
        Result
            `labels` on the grid of the scan (100 + label on the right side, 200 + label on the left),
            `uncertainty` (nats, float32; where there is more than one prediction), `table` (voxels and mm3 of
            each side and subfield), `colours`. ``images`` holds what the original writes, by its names: for
            each side the crop (``right_hippocampus``), its labels (``..._seg_crop``) and uncertainty
            (``..._unc_crop``), and the labels on the grid of the scan (``..._seg``).

        Raises
        ------
        InvalidOption
            If an option is out of range, or a box does not lie in the scan.
        InvalidImage
            If the scan or a crop cannot be used: constant, or of at most 8 voxels along every axis.

        Examples
        --------
        >>> import kerasneuro
        >>> task = kerasneuro.load("hsf-bagging-accurate")  # doctest: +SKIP
        >>> result = task("sub-01_T1w.nii.gz", contrast="t1", margin=(8, 8, 8))  # doctest: +SKIP
        >>> result.save("out/")  # doctest: +SKIP
        """
        from kerasneuro import volume
        from kerasneuro.models.hsf.beside import find_beside, gather_masks, second_contrast
        from kerasneuro.models.hsf.draw import Chances
        from kerasneuro.models.hsf.findings import conclude
        from kerasneuro.models.hsf.localise import locate
        from kerasneuro.models.hsf.predict import predict_sides
        from kerasneuro.models.hsf.vote import label_names

        place = {
            "boxes": boxes,
            "masks": gather_masks(masks, right_mask, left_mask),
            "roi": roi,
            "contrast": contrast,
            "margin": margin,
            "right_offset": right_offset,
            "left_offset": left_offset,
            "bet": bet,
        }
        chances = Chances(
            flip_probability,
            affine_probability,
            elastic_probability,
            scales,
            degrees,
            translation,
            control_points,
            max_displacement,
        )
        plan = self.plan(ca_mode, num_aug, seed, chances, prediction)
        scan = volume.load(image)
        aligned, restore = volume.to_axcodes(scan, "RAS")
        brain = find_beside(scan, mask, "mask", required=False)
        images = [aligned, *second_contrast(aligned, find_beside(scan, second, "second"), same_space)]
        found_boxes = locate(aligned, mask=brain, needs=self.needs, **place)
        engines = [self.engine(part, plan.settings) for part in self.models]
        found = predict_sides(images, found_boxes, engines, plan)
        options = {**place, "mask": mask, "same_space": same_space, **prediction}
        provenance = self.describe_run(scan, images, found, plan, options)
        notes = () if mask is None or brain is not None else (f"No file fits {mask}: no brain mask is used.",)
        names = label_names(plan.mode, self.n_classes)
        moved = len(images) > 1 and not same_space
        return conclude(
            scan, images, restore, found, names, provenance, notes, self.outputs, registered=moved
        )

    @property
    def n_classes(self) -> int:
        """Number of classes of the networks, background included."""
        return int(next(iter(self.models.values())).output_shape[-1])

    def plan(
        self,
        ca_mode: str,
        num_aug: int | None,
        seed: int | None,
        chances: Chances,
        prediction: Mapping[str, Any],
    ) -> Plan:
        """Refuse options out of range, before anything is read or computed."""
        from kerasneuro.models.hsf.predict import Plan
        from kerasneuro.models.hsf.vote import check_mode

        copies: Any = self.card.input.get("augmented_copies", 0) if num_aug is None else num_aug
        for name, value in (("num_aug", copies), ("seed", 0 if seed is None else seed)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidOption(f"{name} must be a whole number of at least 0, found {value!r}")
        settings = self.settings(prediction)
        refuse(settings, self.card.name, *NOT_OFFERED)
        start = secrets.randbits(32) if seed is None else seed
        return Plan(check_mode(ca_mode, self.n_classes), copies, start, chances, settings)

    def describe_run(
        self,
        scan: Volume,
        images: Sequence[Volume],
        found: Mapping[str, Finding],
        plan: Plan,
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """State inputs, options, boxes, and how every augmented copy was made."""
        from kerasneuro.models.hsf.beside import name_of

        inputs = {"image": scan, **({"second": images[1]} if len(images) > 1 else {})}
        named = {key: name_of(options[key]) for key in ("masks", "mask")}
        return self.record(
            inputs,
            {**options, **named, "ca_mode": plan.mode, "num_aug": plan.copies, **asdict(plan.chances)},
            seed=plan.seed,
            boxes={side: finding.box.as_list() for side, finding in found.items()},
            predictions={side: finding.count for side, finding in found.items()},
            copies={side: dict(enumerate(finding.copies, 1)) for side, finding in found.items()},
        )


TASK = HsfTask
