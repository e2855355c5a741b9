"""What registration tasks share: two scans in; transforms, moved scans and a judgement of them out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasneuro.tasks.base import Task
from kerasneuro.tasks.result import Result

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

    from kerasneuro.volume import Volume
    from kerasneuro.volume.transform import Transform, Warp

    Image = str | os.PathLike[str] | SpatialImage | Volume

MUCH_FOLDING = 1.0  # percent of the voxels
LITTLE_OVERLAP = 25.0  # percent of the fixed scan
DISAGREEMENT = 1.0  # mm, on average, between both directions


class RegistrationTask(Task):
    """Register a moving scan to a fixed one; subclasses find the transforms and call `conclude`."""

    roles: ClassVar[tuple[str, ...]] = ("moving", "fixed")
    outputs: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "moved": ".nii.gz",
            "fixed_moved": ".nii.gz",
            "transform": ".nii.gz",
            "inverse": ".nii.gz",
            "jacobian": ".nii.gz",
            "summary": ".json",
            "provenance": ".json",
        }
    )
    main_output: ClassVar[str] = "moved"

    @classmethod
    def check_keywords(cls, given: Mapping[str, Any]) -> None:
        """Refuse keywords of a call that are wrong whatever the images and the weights are.

        Raises
        ------
        InvalidOption
            With the reason.
        """

    def conclude(
        self,
        moving: Volume,
        fixed: Volume,
        transform: Transform,
        inverse: Transform,
        provenance: Mapping[str, Any],
        *,
        header_only: bool = False,
        moved: Any = None,
        fixed_moved: Any = None,
    ) -> Result:
        """Move both scans and judge the transforms.

        Parameters
        ----------
        moving, fixed : Volume
            The scans as they were read.
        transform, inverse : Affine or Warp
            From the moving to the fixed scan, and back.
        provenance : mapping
            See `Task.record`.
        header_only : bool
            Change the place of the scans in the world, not their voxels; for matrices.
        moved, fixed_moved : nibabel image, optional
            The moved scans where the task made them itself.
        """
        from kerasneuro.volume.agreement import compare_directions
        from kerasneuro.volume.apply import apply_transform
        from kerasneuro.volume.transform import Warp

        if moved is None:
            moved = apply_transform(transform, moving, header_only=header_only)
        if fixed_moved is None:
            fixed_moved = apply_transform(inverse, fixed, header_only=header_only)
        summary = compare_directions(transform, inverse)
        jacobian = None
        if isinstance(transform, Warp):
            jacobian, facts = map_jacobian(transform, fixed)
            summary |= facts
        return Result(
            moved=moved,
            fixed_moved=fixed_moved,
            transform=transform,
            inverse=inverse,
            jacobian=jacobian,
            summaries={"summary": summary},
            provenance=provenance,
            warnings=(*moving.warnings, *fixed.warnings, *doubts(summary)),
            input=moving,
            fixed=fixed,
            outputs=self.outputs,
            main_output=self.main_output,
        )


def load_pair(moving: Image, fixed: Image) -> tuple[Volume, Volume]:
    """Read both scans with the type of their voxels, and refuse what cannot be registered.

    Raises
    ------
    InvalidImage
        If a scan is damaged, constant, not finite, not 3-D, or holds several volumes.
    """
    from kerasneuro.volume import load

    return load(moving, dtype=None), load(fixed, dtype=None)


def map_jacobian(warp: Warp, fixed: Volume) -> tuple[Any, dict[str, float]]:
    """Return the Jacobian determinant of a warp as an image on its target grid, and how much folds."""
    from kerasneuro.volume import to_image
    from kerasneuro.volume.jacobian import jacobian_determinant, percent_folding

    ratio = 1.0
    if warp.source is not None:
        source, target = (np.linalg.det(grid.vox2world[:3, :3]) for grid in (warp.source, warp.target))
        ratio = float(source / target)
    values = jacobian_determinant(warp.to("disp_crs").displacement, ratio)
    facts = {
        "folding_percent": round(percent_folding(values), 4),
        "jacobian_min": float(values.min()),
        "jacobian_max": float(values.max()),
    }
    return to_image(values, fixed, dtype=np.float32), facts


def doubts(summary: Mapping[str, float]) -> tuple[str, ...]:
    """Say in plain words what speaks against a registration."""
    found = []
    overlap = summary["overlap_percent"]
    if overlap == 0:
        found.append(
            "no voxel of the fixed scan takes its value inside the moving one: the moved scan is empty"
        )
    elif overlap < LITTLE_OVERLAP:
        found.append(f"only {overlap:.1f} % of the fixed scan takes its value inside the moving one")
    if summary.get("folding_percent", 0.0) > MUCH_FOLDING:
        found.append(
            f"the warp folds at {summary['folding_percent']:.1f} % of the voxels; a higher regularisation "
            "makes it smoother"
        )
    if summary.get("inverse_consistency_mean_mm", 0.0) > DISAGREEMENT:
        found.append(
            f"both directions disagree by {summary['inverse_consistency_mean_mm']:.1f} mm on average"
        )
    return tuple(found)
