"""Bring a second contrast of the same head onto the grid of the first."""

from __future__ import annotations

import os

from kerasneuro.errors import InvalidOption
from kerasneuro.models.hsf.ants import ants_affine
from kerasneuro.volume import Geometry, Volume, apply_transform
from kerasneuro.volume import load as load_volume
from kerasneuro.volume.simple_itk import FINE, register_affine

METHODS = ("itk", "ants")


def register_second(
    first: Volume, second: Volume, *, method: str = "itk", python: str | os.PathLike[str] | None = None
) -> Volume:
    """Register a second contrast to the first by an affine matrix and resample it linearly.

    Parameters
    ----------
    first, second : Volume
        Scans of the same head.
    method : {"itk", "ants"}
        Our registration (SimpleITK, down to 1 mm; it starts where headers or centres of mass place
        the scans, whichever fits better), or ANTs' "Affine" as in the original.
    python : path, optional
        Python that has ANTs; see `find_python`.

    Returns
    -------
    Volume
        The second scan on the grid of the first, float32; 0 outside of it.

    Raises
    ------
    InvalidOption
        If the method is unknown.
    MissingDependency
        If SimpleITK, or ANTs, is not installed.
    InvalidImage
        If the registration fails.

    Source: clementpoiret/HSF@bdd4f19, hsf/multispectrality.py
    """
    if method not in METHODS:
        raise InvalidOption(f"method must be one of {', '.join(METHODS)}, found {method!r}")
    if method == "ants":
        return ants_affine(second, first, python=python)
    transform = register_affine(second, first, spacings=FINE, trust_headers=True)
    moved = load_volume(apply_transform(transform, second, target=Geometry.of(first)), check_constant=False)
    return first.replace(array=moved.array, path=second.path, warnings=second.warnings)
