"""How well a network registers pairs whose labels are known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.training.changes.noise import warp_labels
from kerasneuro.training.metrics.class_overlap import class_overlap

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class RegistrationScores:
    """Means over pairs.

    Attributes
    ----------
    before, after : float
        Dice of the labels of both images, averaged over the labels that occur: as the images are, and with
        the moving labels warped (each voxel takes the nearest one's).
    folding : float
        Percent of the voxels where the displacement folds (determinant of the Jacobian 0 or below).
    change : float
        Mean absolute difference of the displacement between neighbours, in voxels.
    """

    before: float
    after: float
    folding: float
    change: float

    @property
    def gain(self) -> float:
        """Dice that registration adds."""
        return self.after - self.before


def score_pairs(network: keras.Model, batches: Iterable[Any]) -> RegistrationScores:
    """Register pairs and compare their labels.

    Parameters
    ----------
    network : keras.Model
        Gives the displacement ``(B, X, Y, Z, N)`` in voxels as its only output.
    batches : iterable
        Batches ``(inputs, targets)`` of a data set of `kerasneuro.training.registration.pairs` with labels:
        the moving one-hot labels are the last input, those of the fixed image the last target but one.

    Returns
    -------
    RegistrationScores
    """
    from keras import ops

    from kerasneuro.training.losses.field import FieldGradient, jacobian_determinant

    rows = []
    for inputs, targets, *_ in batches:
        displacements = np.asarray(network.predict_on_batch(list(inputs[:-1])), np.float32)
        folded = ops.convert_to_numpy(jacobian_determinant(displacements)) <= 0
        change = ops.convert_to_numpy(FieldGradient("l1").call(displacements, displacements))
        maps = zip(displacements, _indices(inputs[-1]), _indices(targets[-2]), strict=True)
        for item, (displacement, moving, fixed) in enumerate(maps):
            classes = inputs[-1].shape[-1] + 1
            pair = [_dice(fixed, moved, classes) for moved in (moving, warp_labels(moving, displacement))]
            rows.append([*pair, 100 * folded[item].mean(), change[item]])
    return RegistrationScores(*np.mean(rows, axis=0).tolist())


def _indices(one_hot: np.ndarray) -> np.ndarray:
    """Return 1 ... L where a label is set, 0 elsewhere."""
    return np.where(one_hot.any(axis=-1), one_hot.argmax(axis=-1) + 1, 0)


def _dice(fixed: np.ndarray, moved: np.ndarray, classes: int) -> float:
    return float(np.nanmean(class_overlap(fixed, moved, classes).dice[1:]))
