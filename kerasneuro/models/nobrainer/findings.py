"""What a segmentation tells: volumes per label, and doubts in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kerasneuro.volume import Volume

PLAUSIBLE_BRAIN_CM3 = (500, 2500)


def table_rows(labels: np.ndarray, n_labels: int, scan: Volume) -> tuple[dict[str, Any], ...]:
    """Count the voxels of each label but 0, and their volume."""
    voxel = abs(float(np.linalg.det(scan.affine[:3, :3])))
    # Plane by plane, since a count of the whole volume would first turn it into 64-bit integers.
    counts = np.zeros(n_labels, np.int64)
    for plane in labels:
        counts += np.bincount(plane.reshape(-1), minlength=n_labels)
    return tuple(
        {"label": label, "voxels": int(counts[label]), "volume_mm3": round(float(counts[label]) * voxel, 3)}
        for label in range(1, n_labels)
    )


def doubt_extent(foreground: np.ndarray) -> tuple[str, ...]:
    """Warn about an empty result, and about one that the border of the scan cuts."""
    if not foreground.any():
        return ("the result is empty: no voxel was segmented; check the contrast and the field of view",)
    faces = (foreground[0], foreground[-1], foreground[:, 0], foreground[:, -1], foreground[..., 0])
    if any(face.any() for face in (*faces, foreground[..., -1])):
        return ("the result touches the border of the scan; the field of view may cut the structure",)
    return ()


def doubt_brain_volume(cm3: float) -> tuple[str, ...]:
    """Warn about a brain volume that no adult has."""
    low, high = PLAUSIBLE_BRAIN_CM3
    if cm3 == 0 or low <= cm3 <= high:
        return ()
    return (
        f"the brain volume of {cm3:.0f} cm3 is implausible for an adult ({low} to {high} cm3); "
        "look at the mask",
    )
