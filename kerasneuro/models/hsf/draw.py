"""Draw the augmentations of a crop by chance, repeatable by a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.models.hsf.augment import Augmentation
from kerasneuro.models.hsf.moves import Bend, Move, Turn

FEWEST_POINTS = 4  # of a cubic spline


@dataclass(frozen=True)
class Chances:
    """What may be drawn, by the defaults of HSF 1.2.3.

    Attributes
    ----------
    flip_probability : float
        Of mirroring right and left.
    affine_probability, elastic_probability : float
        Of turning and of bending; one of the two always happens, so only their ratio counts.
    scales : float
        Factors lie between 1 - scales and 1 + scales.
    degrees, translation : float
        Largest angle, and largest shift in mm, to both sides.
    control_points : int
        Of the elastic bending, along each axis.
    max_displacement : float
        Largest displacement of a control point in mm along each axis.

    Raises
    ------
    InvalidOption
        If a value is out of range.
    """

    flip_probability: float = 0.5
    affine_probability: float = 0.8
    elastic_probability: float = 0.2
    scales: float = 0.2
    degrees: float = 15.0
    translation: float = 3.0
    control_points: int = 4
    max_displacement: float = 4.0

    def __post_init__(self) -> None:
        for name in ("flip_probability", "affine_probability", "elastic_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidOption(f"{name} must lie between 0 and 1, found {getattr(self, name)}")
        for name in ("degrees", "translation", "max_displacement"):
            if not 0 <= getattr(self, name) < np.inf:
                raise InvalidOption(f"{name} must be 0 or more, found {getattr(self, name)}")
        if not 0 <= self.scales < 1:
            raise InvalidOption(f"scales must be at least 0 and below 1, found {self.scales}")
        if self.control_points < FEWEST_POINTS:
            raise InvalidOption(
                f"control_points must be at least {FEWEST_POINTS}, found {self.control_points}"
            )


def draw_samples(count: int, chances: Chances, rng: np.random.Generator) -> tuple[Augmentation, ...]:
    """Draw augmentations; the unchanged crop comes last.

    Parameters
    ----------
    count : int
        Changed copies; one alone would be none, as in the original.
    chances : Chances
        Ranges and probabilities.
    rng : Generator
        Source of random numbers.

    Returns
    -------
    tuple of Augmentation
        ``count + 1`` of them, or the unchanged crop alone.
    """
    changed = count if count > 1 else 0
    return (*(draw_one(chances, rng) for _ in range(changed)), Augmentation())


def draw_one(chances: Chances, rng: np.random.Generator) -> Augmentation:
    """Draw one augmentation."""
    flip = bool(rng.random() < chances.flip_probability)
    total = chances.affine_probability + chances.elastic_probability
    if not total:
        return Augmentation(flip)
    turned = rng.random() * total < chances.affine_probability
    return Augmentation(flip, draw_turn(chances, rng) if turned else draw_bend(chances, rng))


def draw_turn(chances: Chances, rng: np.random.Generator) -> Move:
    """Draw scales, angles and shifts, each axis for itself."""

    def three(centre: float, reach: float) -> tuple[float, float, float]:
        x, y, z = (float(value) for value in rng.uniform(centre - reach, centre + reach, 3))
        return x, y, z

    return Turn(three(1.0, chances.scales), three(0.0, chances.degrees), three(0.0, chances.translation))


def draw_bend(chances: Chances, rng: np.random.Generator) -> Move:
    """Draw displacements of control points."""
    n, reach = chances.control_points, chances.max_displacement
    return Bend(rng.uniform(-reach, reach, (n, n, n, 3)))
