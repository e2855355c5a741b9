"""What a segmentation with uncertainty tells: volumes, and the mean entropy of each structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.tasks.segmentation import count_voxels

if TYPE_CHECKING:
    import keras

    from kerasneuro.volume import Volume


def variant_of(model: keras.Model) -> str:
    """Tell the variant of a network by its layers."""
    names = [layer.name for layer in model.layers]
    if any(name.endswith("concrete_dropout") for name in names):
        return "bvwn_multi_prior"
    return "bwn_multi" if any(name.endswith("bernoulli") for name in names) else "bwn"


def mean_entropies(
    classes: np.ndarray, entropy: np.ndarray, n_classes: int
) -> tuple[float | None, list[float | None]]:
    """Average the entropy over the voxels of each class, and over all voxels that are not background.

    Parameters
    ----------
    classes : ndarray (X, Y, Z)
        Class indices.
    entropy : ndarray (X, Y, Z)
        Nats.
    n_classes : int
        Number of classes; class 0 is background.

    Returns
    -------
    overall : float or None
        Of all voxels with a class other than 0; None if there are none.
    means : list of float or None
        By class; None for a class without voxels.
    """
    counts, sums = np.zeros(n_classes), np.zeros(n_classes)
    # Plane by plane, since a count of the whole volume would first turn it into 64-bit integers.
    for plane, values in zip(classes, entropy, strict=True):
        counts += np.bincount(plane.reshape(-1), minlength=n_classes)
        sums += np.bincount(plane.reshape(-1), weights=values.reshape(-1), minlength=n_classes)
    means = [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]
    labelled = counts[1:].sum()
    return (float(sums[1:].sum() / labelled) if labelled else None), means


def summarise(overall: float | None, means: Sequence[float | None], names: Sequence[str]) -> dict[str, Any]:
    """Return the content of ``_uncertainty.json``: the original's one number, and that of each structure."""
    found = zip(names[1:], means[1:], strict=True)
    return {"uncertainty": overall, "structures": {name: mean for name, mean in found if mean is not None}}


def rows(
    classes: np.ndarray,
    codes: np.ndarray,
    names: Sequence[str],
    means: Sequence[float | None],
    scan: Volume,
) -> tuple[dict[str, Any], ...]:
    """Make the table: voxels and volume of each structure on the grid of the scan, and its mean entropy."""
    voxel = abs(float(np.linalg.det(scan.affine[:3, :3])))
    counts = count_voxels(classes, len(names))
    return tuple(
        {
            "label": int(codes[index]),
            "name": names[index],
            "voxels": int(counts[index]),
            "volume_mm3": round(float(counts[index]) * voxel, 3),
            "mean_entropy": None if mean is None else round(mean, 6),
        }
        for index, mean in enumerate(means)
        if index
    )
