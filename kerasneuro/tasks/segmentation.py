"""What segmentation tasks share: volumes by label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kerasneuro.volume import Volume


def count_voxels(labels: np.ndarray, n_labels: int) -> np.ndarray:
    """Count the voxels of each label.

    Parameters
    ----------
    labels : ndarray (X, Y, Z)
        Integers from 0 to `n_labels` - 1.
    n_labels : int
        Number of labels, background included.

    Returns
    -------
    ndarray (n_labels,)
        int64.
    """
    counts = np.zeros(n_labels, dtype=np.int64)
    # Plane by plane, since a count of the whole volume would first turn it into 64-bit integers.
    for plane in labels:
        counts += np.bincount(plane.reshape(-1), minlength=n_labels)
    return counts


def volume_rows(labels: np.ndarray, n_labels: int, scan: Volume) -> tuple[dict[str, Any], ...]:
    """Return the result table: voxels and volume in mm3 of each label but 0, on the grid of the scan."""
    voxel = abs(float(np.linalg.det(scan.affine[:3, :3])))
    counts = count_voxels(labels, n_labels)
    return tuple(
        {"label": label, "voxels": int(counts[label]), "volume_mm3": round(float(counts[label]) * voxel, 3)}
        for label in range(1, n_labels)
    )
