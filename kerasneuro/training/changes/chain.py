"""Several random changes of labelled patches, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.training.scans.cutting import Changed, SegmentationAugment, check_augment


@dataclass(frozen=True)
class Chain:
    """Apply changes in their order, each with a probability of its own.

    Attributes
    ----------
    changes : sequence of callable
        `Augmentation`, transforms of TorchIO, or functions of patch, class indices and generator.
    probability : float
        Of each change; 0.5 is what Nobrainer's ``Dataset.augment`` does.
    margin : int
        Voxels by which a patch is cut larger, changed, and cut to its size.

    Raises
    ------
    InvalidOption
        If something cannot be called, or the probability lies outside [0, 1].
    """

    changes: Sequence[SegmentationAugment]
    probability: float = 1.0
    margin: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1 or self.margin < 0:
            raise InvalidOption(
                "probability lies in [0, 1] and margin is not negative, found "
                f"{self.probability} and {self.margin}"
            )
        object.__setattr__(self, "changes", tuple(check_augment(each) for each in self.changes))

    def __call__(self, image: np.ndarray, classes: np.ndarray, generator: np.random.Generator) -> Changed:
        """Change an image ``(X, Y, Z, C)`` and its classes ``(X, Y, Z)``."""
        for change in self.changes:
            if generator.random() < self.probability:
                image, classes = change(image, classes, generator)
        return image, classes
