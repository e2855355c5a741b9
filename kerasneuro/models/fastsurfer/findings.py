"""What a parcellation tells: voxels, volume and intensity of each structure, and doubts about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kerasneuro.models.fastsurfer.labels import Structure, structures
from kerasneuro.tasks.sanity import volume_warnings
from kerasneuro.volume import Volume, bounding_box

GREYS = 256
PLAUSIBLE_CM3 = (600.0, 2000.0)
"""All structures together; adult brains have 900 to 1,700 cm3."""
ASYMMETRY_BOUND = 0.5
"""Difference of the two sides by their mean: one side has 1.67 times the volume of the other."""
FLUID = ("Lateral-Ventricle", "Inf-Lat-Vent", "choroid-plexus")
"""Structures whose sides often differ, so that their asymmetry raises no doubt."""


def measure(labels: np.ndarray, conformed: Volume) -> tuple[dict[str, Any], ...]:
    """Make the table: one row for each of the 95 structures, found or not.

    Parameters
    ----------
    labels : ndarray
        FreeSurfer labels ``(I, J, K)`` on the grid of `conformed`.
    conformed : Volume
        The uint8 scan; its values give the intensities.

    Returns
    -------
    tuple of dict
        Label, name, side, structure, voxels, mm3; mean, standard deviation (of the sample), least and
        greatest intensity, None for structures without voxels.
    """
    found = structures()
    counts = _joint_histogram(labels, conformed.array, found)
    voxel = abs(float(np.linalg.det(conformed.affine[:3, :3])))
    return tuple(_row(structure, counts[index], voxel) for index, structure in enumerate(found) if index)


def _joint_histogram(labels: np.ndarray, scan: np.ndarray, found: tuple[Structure, ...]) -> np.ndarray:
    """Count the voxels of each structure by their intensity: int64, shape ``(96, 256)``."""
    places = np.zeros(max(structure.label for structure in found) + 1, np.int64)
    places[[structure.label for structure in found]] = np.arange(len(found)) * GREYS
    counts = np.zeros(len(found) * GREYS, np.int64)
    # Plane by plane, since the indices are 64-bit integers.
    for plane, greys in zip(labels, scan, strict=True):
        counts += np.bincount((places[plane] + greys).reshape(-1), minlength=len(counts))
    return counts.reshape(len(found), GREYS)


def _row(structure: Structure, counts: np.ndarray, voxel: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "label": structure.label,
        "name": structure.name,
        "side": structure.side,
        "structure": structure.structure,
        "voxels": (voxels := int(counts.sum())),
        "volume_mm3": round(voxels * voxel, 3),
    }
    if not voxels:
        return row | dict.fromkeys(("mean", "std", "min", "max"))
    greys = np.arange(GREYS, dtype=np.float64)
    mean = float(counts @ greys) / voxels
    spread = float(counts @ (greys - mean) ** 2) / max(voxels - 1, 1)
    present = np.flatnonzero(counts)
    return row | {
        "mean": round(mean, 4),
        "std": round(spread**0.5, 4),
        "min": int(present[0]),
        "max": int(present[-1]),
    }


def summarise(table: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the content of the JSON file: volumes by name, and their sum."""
    volumes = {row["name"]: row["volume_mm3"] for row in table}
    return {"unit": "mm3", "all_structures": round(sum(volumes.values()), 3), "structures": volumes}


def doubts(
    labels: np.ndarray, scan: Volume, conformed: Volume, table: Iterable[Mapping[str, Any]]
) -> tuple[str, ...]:
    """Say in plain words what looks wrong with a parcellation.

    Parameters
    ----------
    labels : ndarray
        FreeSurfer labels on the grid of `conformed`.
    scan, conformed : Volume
        The input, and the grid that the networks saw.
    table : iterable of mapping
        From `measure`.
    """
    rows = list(table)
    found = volume_warnings(labels, conformed.zooms, PLAUSIBLE_CM3, name="parcellation")
    if not labels.any():
        return found
    return (*found, *_cut_off(labels, scan, conformed), *_missing(rows), *_asymmetric(rows))


def _cut_off(labels: np.ndarray, scan: Volume, conformed: Volume) -> tuple[str, ...]:
    """Find structures at the border of the scan, inside the larger conformed grid."""
    box = bounding_box(labels)
    places = np.stack(np.nonzero(labels[tuple(slice(*edge) for edge in box)]))
    to_scan = np.linalg.inv(scan.affine) @ conformed.affine
    start = to_scan[:3, :3] @ np.array([low for low, _ in box]) + to_scan[:3, 3]
    inside = to_scan[:3, :3] @ places + start[:, np.newaxis]
    low, high = inside.min(axis=1), inside.max(axis=1)
    if all(low >= 0.5) and all(high <= np.array(scan.shape) - 1.5):
        return ()
    return (
        "The parcellation reaches the border of the scan: its field of view is cropped, so structures may be "
        "cut off.",
    )


def _missing(rows: list[Mapping[str, Any]]) -> tuple[str, ...]:
    names = [row["name"] for row in rows if not row["voxels"]]
    if not names:
        return ()
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (f"{len(names)} of {len(rows)} structures were not found: {', '.join(names[:8])}{more}.",)


def _asymmetric(rows: list[Mapping[str, Any]]) -> tuple[str, ...]:
    sides: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["side"] and row["structure"] not in FLUID:
            sides.setdefault(row["structure"], {})[row["side"]] = row["volume_mm3"]
    listed = [
        f"{name} ({pair['left']:.0f} and {pair['right']:.0f} mm3)"
        for name, pair in sides.items()
        if min(pair.values()) > 0
        and abs(pair["left"] - pair["right"]) > ASYMMETRY_BOUND * sum(pair.values()) / 2
    ]
    if not listed:
        return ()
    more = f" and {len(listed) - 6} more" if len(listed) > 6 else ""
    return (
        f"The left and the right side differ by more than {ASYMMETRY_BOUND:.0%} of their mean: "
        f"{', '.join(listed[:6])}{more}.",
    )
