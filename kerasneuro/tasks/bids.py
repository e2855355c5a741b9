"""Find the images of a person, or of all persons, in a BIDS folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kerasneuro.errors import InvalidImage

DEPTHS = ("", "anat", "ses-*/anat", "sub-*/anat", "sub-*/ses-*/anat")
"""Where images lie, seen from an ``anat`` folder, a session or a subject, or a data set."""
SUFFIXES = (".nii.gz", ".nii")


def find_scans(folder: Path, endings: Mapping[str, str]) -> list[dict[str, Path]]:
    """List the images below a folder that belong together.

    Parameters
    ----------
    folder : Path
        A BIDS data set, a subject, a session, or an ``anat`` folder (https://bids.neuroimaging.io).
    endings : mapping of str to str
        Role -> BIDS suffix, such as ``{"t1": "T1w", "flair": "FLAIR"}``.

    Returns
    -------
    list of dict of str to Path
        Role -> image, one entry for each folder of images; a role without an image is left out.

    Raises
    ------
    InvalidImage
        If there is no image with one of the suffixes, or several with the same one in a folder.
    """
    places = [place for depth in DEPTHS for place in (sorted(folder.glob(depth)) if depth else [folder])]
    scans = [found for place in places if (found := find_images(place, endings))]
    if not scans:
        wanted = " or ".join(f"*_{ending}.nii.gz" for ending in endings.values())
        raise InvalidImage(f"{folder} holds no {wanted}, neither itself nor in a BIDS anat folder below it")
    return scans


def find_images(folder: Path, endings: Mapping[str, str]) -> dict[str, Path]:
    """Find at most one image of each suffix directly in a folder."""
    found: dict[str, Path] = {}
    for role, ending in endings.items():
        paths = sorted(path for suffix in SUFFIXES for path in folder.glob(f"*_{ending}{suffix}"))
        if len(paths) > 1:
            listed = ", ".join(path.name for path in paths)
            raise InvalidImage(
                f"{folder} holds {len(paths)} {ending} images ({listed}), expected one; name the files"
            )
        if paths:
            found[role] = paths[0]
    return found
