"""What a call of SynthMorph may ask for, and the checks of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.errors import InvalidOption, InvalidTransform

if TYPE_CHECKING:
    import keras

    from kerasneuro.volume.geometry import Geometry
    from kerasneuro.volume.transform import Transform

    Initial = str | os.PathLike[str] | Transform

EXTENTS = (192, 256)
LEAST_STEPS = 5
PUBLISHED_SIZE = 10_000_000  # parameters; the published networks have more, and were trained for `EXTENTS`
# Options of one kind of network -> why the other kind has none.
FOREIGN = {
    "header_only": "a displacement cannot be put into a header; that is for the affine and rigid models",
    "regularisation": "a matrix has no regularisation; leave it out, or use the joint or deform model",
    "steps": "a matrix is not integrated; leave out the steps, or use the joint or deform model",
}


@dataclass(frozen=True)
class Options:
    """The options of a call beside those of prediction; see `kerasneuro.models.synthmorph.task`."""

    initial: Initial | None = None
    mid_space: bool = False
    extent: int = 256
    debug: Path | None = None
    header_only: bool = False
    regularisation: float = 0.5
    steps: int = 7

    def check(self) -> None:
        """Refuse values out of range; the extent depends on the networks, see `check_extent`.

        Raises
        ------
        InvalidOption
            With what is allowed.
        """
        if self.mid_space and self.initial is None:
            raise InvalidOption("the mid-space is that of an initial transform; give one, or leave it out")
        if not is_number(self.regularisation) or not 0 < self.regularisation < 1:
            raise InvalidOption(
                f"regularisation must be above 0 and below 1, found {self.regularisation!r}; try 0.5"
            )
        if not is_whole(self.steps) or self.steps < LEAST_STEPS:
            raise InvalidOption(
                f"steps must be a whole number of at least {LEAST_STEPS}, found {self.steps!r}; with fewer "
                "the displacement may fold"
            )
        if self.debug is not None and not Path(self.debug).is_dir():
            raise InvalidOption(f"the debug folder {self.debug} does not exist; create it first")


def is_number(value: Any) -> bool:
    """Tell a real number from all else."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Tell a whole number from all else."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_extent(extent: int, networks: Sequence[keras.Model]) -> None:
    """Refuse a grid that the networks do not take.

    Raises
    ------
    InvalidOption
        If it is neither of the two that the published networks were trained for, or, for other networks, not
        a multiple of what they need.
    """
    from kerasneuro.inference import network_multiple

    if extent in EXTENTS:
        return
    if sum(network.count_params() for network in networks) >= PUBLISHED_SIZE:
        raise InvalidOption(f"extent must be 192 or 256 for the published networks, found {extent!r}")
    multiple = 2 * max(size for network in networks for size in network_multiple(network))
    if not is_whole(extent) or extent < multiple or extent % multiple:
        raise InvalidOption(f"extent must be 192, 256 or another multiple of {multiple}, found {extent!r}")


def refuse_foreign(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what remains without options of the other kind of network.

    Raises
    ------
    InvalidOption
        If one of these is set, with the reason why there is none.
    """
    for name, reason in FOREIGN.items():
        if given.get(name) not in (None, False):
            raise InvalidOption(reason)
    return {name: value for name, value in given.items() if name not in FOREIGN}


def initial_matrix(initial: Initial | None, moving: Geometry, fixed: Geometry) -> np.ndarray | None:
    """Return the matrix (4, 4) from the voxels of the moving scan to those of the fixed one.

    Raises
    ------
    InvalidTransform
        If the transform is no matrix, or was made for other images.
    """
    from kerasneuro.volume.transform import Affine
    from kerasneuro.volume.transform_io import load_transform

    if initial is None:
        return None
    name = "the initial transform"
    if isinstance(initial, str | os.PathLike):
        name, initial = str(initial), load_transform(initial)
    if not isinstance(initial, Affine):
        raise InvalidTransform(f"{name}: expected a matrix to start from, such as an LTA file, found a warp")
    for role, found, wanted in (("moving", initial.source, moving), ("fixed", initial.target, fixed)):
        if found is None:
            raise InvalidTransform(
                f"{name}: expected the geometry of the {role} image it was made for, found none; use an LTA "
                "file that states both"
            )
        if found != wanted:
            raise InvalidTransform(
                f"{name}: made for a {role} image of {found.describe()}, but this one has "
                f"{wanted.describe()}; use a transform between these two images"
            )
    return initial.to_voxel().matrix
