"""Which images the FCD network gets, and whether they belong together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption

if TYPE_CHECKING:
    from kerasneuro.volume import Volume

NAMES = {"t1": "T1w", "flair": "FLAIR"}


def choose_images(t1: Any, flair: Any, channels: int, suffixes: Mapping[str, str]) -> dict[str, Any]:
    """Give each channel of the network its image.

    Parameters
    ----------
    t1, flair : image or None
        What the caller gave; a folder stands for the images in it.
    channels : int
        Input channels of the network.
    suffixes : mapping of str to str
        Role -> BIDS suffix.

    Returns
    -------
    dict of str to image
        Role -> image, T1w first.

    Raises
    ------
    InvalidImage
        If an image is missing, or a folder holds several persons.
    InvalidOption
        If there are more images than channels, or the network has more channels than images are known.
    """
    given = {role: image for role, image in (("t1", t1), ("flair", flair)) if image is not None}
    if flair is None and isinstance(t1, str | os.PathLike) and Path(t1).is_dir():
        given = images_of_one_person(Path(t1), suffixes)
    if channels > len(NAMES):
        raise InvalidOption(
            f"this network has {channels} input channels, and the pipeline knows two images, T1w and FLAIR; "
            "prepare the batch yourself and call task.model"
        )
    if len(given) > channels:
        raise InvalidOption(
            f"this network has {channels} input channel, and {len(given)} images were given; leave one out"
        )
    missing = [name for role, name in NAMES.items() if role not in given]
    if len(given) < channels:
        whole = "T1w and FLAIR" if channels == 2 else "one image, T1w or FLAIR"
        raise InvalidImage(f"this network takes {whole}; {' and '.join(missing)} is missing: give its file")
    return given


def images_of_one_person(folder: Path, suffixes: Mapping[str, str]) -> dict[str, Path]:
    """Find the images of the only person (and session) in a BIDS folder."""
    from kerasneuro.tasks.bids import find_scans

    scans = find_scans(folder, suffixes)
    if len(scans) > 1:
        raise InvalidImage(
            f"{folder} holds images of {len(scans)} persons or sessions, expected one; name that one's folder"
        )
    return scans[0]


def load_scan(image: Any) -> Volume:
    """Read a scan as the original does: scaled in float64, then float32, axes as stored."""
    from kerasneuro.volume import load

    scan = load(image, dtype=np.float64)
    return scan.replace(array=scan.array.astype(np.float32))


def check_grids(scans: Mapping[str, Volume], largest_shift: float) -> None:
    """Refuse images whose voxels do not lie on each other.

    Parameters
    ----------
    scans : mapping of str to Volume
        Role -> scan.
    largest_shift : float
        Millimetres that the corners may be apart.

    Raises
    ------
    InvalidImage
        If shapes differ, or a corner lies elsewhere.
    """
    (one, first), *rest = scans.items()
    for other, second in rest:
        if first.shape == second.shape:
            corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in first.shape))])
            shift = np.linalg.norm((corners @ (first.affine - second.affine).T)[:, :3], axis=1).max()
            if shift <= largest_shift:
                continue
            found = f"corners up to {shift:.3g} mm apart"
        else:
            found = " and ".join("x".join(map(str, scan.shape)) for scan in (first, second)) + " voxels"
        raise InvalidImage(
            f"{NAMES[one]} and {NAMES[other]} lie on different grids ({found}); bring them to one grid, "
            "or let register=True (--register) move FLAIR onto T1w"
        )
