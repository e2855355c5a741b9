"""Losses of segmentation by name, alone or added up."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import keras

from kerasneuro.errors import InvalidOption
from kerasneuro.training.losses.generalised_dice import GeneralisedDice
from kerasneuro.training.losses.overlap import Dice, FocalTversky, Jaccard, Tversky
from kerasneuro.training.losses.voxel import BoundaryWeighted, CrossEntropy, Elbo

LOSSES = {
    "dice": Dice,
    "jaccard": Jaccard,
    "tversky": Tversky,
    "focal_tversky": FocalTversky,
    "generalised_dice": GeneralisedDice,
    "cross_entropy": CrossEntropy,
    "boundary_weighted": BoundaryWeighted,
    "elbo": Elbo,
}
ALIASES = {
    "generalized_dice": "generalised_dice",
    "dice_cross_entropy": "dice+cross_entropy",
    "jaccard_cross_entropy": "jaccard+cross_entropy",
}


@keras.saving.register_keras_serializable(package="kerasneuro")
class CombinedLoss(keras.losses.Loss):
    """Weighted sum of losses, each with its own reduction.

    Parameters
    ----------
    losses : sequence of keras.losses.Loss
        The parts. `sample_weight` of items goes to all of them, of voxels to those that take it.
    weights : sequence of float, optional
        Their factors; 1 by default.
    name : str
        Shown in logs.
    """

    def __init__(self, losses: Any, weights: Any = None, name: str = "combined", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.losses = [keras.losses.get(loss) for loss in losses]
        self.weights = [1.0] * len(self.losses) if weights is None else [float(item) for item in weights]
        if not self.losses or len(self.losses) != len(self.weights):
            raise InvalidOption(
                f"expected one weight for each of at least one loss, found {len(self.losses)} losses and "
                f"{len(self.weights)} weights"
            )

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the loss of a batch."""
        of_voxels = sample_weight is not None and len(sample_weight.shape) > 1
        total = 0.0
        for loss, weight in zip(self.losses, self.weights, strict=True):
            taken = None if of_voxels and not isinstance(loss, CrossEntropy) else sample_weight
            total = total + weight * loss(y_true, y_pred, taken)
        return total

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of a batch without weights."""
        return self(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the loss."""
        parts = [keras.losses.serialize(loss) for loss in self.losses]
        return {**super().get_config(), "losses": parts, "weights": self.weights}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CombinedLoss:
        """Rebuild the loss."""
        parts = [keras.losses.deserialize(part) for part in config["losses"]]
        return cls(**{**config, "losses": parts})


def get_loss(name: str | Mapping[str, float] | keras.losses.Loss, **options: Any) -> keras.losses.Loss:
    """Make a loss of segmentation.

    Truth is one-hot ``(B, ..., C)`` or class indices ``(B, ...)``; predictions are probabilities, or logits
    with ``from_logits=True``.

    Parameters
    ----------
    name : str, mapping or keras.losses.Loss
        One of `LOSSES`; several joined by "+" (``"dice+cross_entropy"``); or name -> weight. A loss is
        returned as it is.
    **options
        Options of the loss (``from_logits``, ``per_class``, ``background``, ``class_weights``, ``alpha``...);
        of several losses, each gets those that it knows.

    Returns
    -------
    keras.losses.Loss
        Can be saved and rebuilt with the network that is compiled with it.

    Raises
    ------
    InvalidOption
        If a name or an option is unknown.

    Examples
    --------
    >>> from kerasneuro.training.losses.by_name import get_loss
    >>> get_loss("dice+cross_entropy", from_logits=True, background=False, per_class=True).name
    'dice+cross_entropy'
    """
    if isinstance(name, keras.losses.Loss):
        return name
    parts = dict.fromkeys(ALIASES.get(name, name).split("+"), 1.0) if isinstance(name, str) else name
    kinds = {_known(part): float(weight) for part, weight in parts.items()}
    taken = {kind: _accepted(LOSSES[kind]) for kind in kinds}
    unknown = sorted(set(options) - set().union(*taken.values()))
    if unknown:
        known = ", ".join(sorted(set().union(*taken.values())))
        raise InvalidOption(f"{'+'.join(kinds)} has no option {', '.join(unknown)}; it takes {known}")
    losses = [
        LOSSES[kind](**{key: value for key, value in options.items() if key in taken[kind]}) for kind in kinds
    ]
    if len(losses) == 1 and list(kinds.values()) == [1.0]:
        return losses[0]
    return CombinedLoss(losses, list(kinds.values()), name="+".join(kinds))


def _known(name: str) -> str:
    """Return a name of `LOSSES`."""
    found = ALIASES.get(name, name)
    if found not in LOSSES:
        near = get_close_matches(str(name), LOSSES, n=1, cutoff=0.0)[0]
        raise InvalidOption(
            f"no loss is named {name!r}; expected one of {', '.join(LOSSES)}, or several joined by '+'; "
            f"the nearest is {near}"
        )
    return found


def _accepted(kind: type) -> set[str]:
    """List the options of a loss, those of its base classes included."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base is keras.losses.Loss:
            break
        if "__init__" in vars(base):
            names |= set(inspect.signature(base.__init__).parameters)  # type: ignore[misc]
    return names - {"self", "args", "kwargs", "name"}
