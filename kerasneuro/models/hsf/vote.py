"""Merge subfields, and let predictions vote: one after the other, so that memory does not grow with them."""

from __future__ import annotations

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption

EPSILON = 1e-5
DEFAULT_MODE = "1/2/3"
NAMES = ("background", "DG", "CA1", "CA2", "CA3", "SUB")
MODES = {
    DEFAULT_MODE: ((0,), (1,), (2,), (3,), (4,), (5,)),
    "1/23": ((0,), (1,), (2,), (3, 4), (5,)),
    "123": ((0,), (1,), (2, 3, 4), (5,)),
    "": ((0,), (1, 2, 3, 4, 5)),
}
"""Mode -> classes of the network that each label unites; the number of a label depends on the mode."""
MERGED_NAMES = {(3, 4): "CA2/3", (2, 3, 4): "CA", (1, 2, 3, 4, 5): "hippocampus"}


def check_mode(mode: str, n_classes: int) -> str:
    """Return the mode as text.

    Raises
    ------
    InvalidOption
        If there is no such mode, or the network has other classes than the six of HSF.
    """
    text = str(mode)
    if text not in MODES:
        listed = ", ".join(repr(known) for known in MODES)
        raise InvalidOption(f"ca_mode must be one of {listed} ('' unites all subfields), found {mode!r}")
    if n_classes != len(NAMES) and text != DEFAULT_MODE:
        raise InvalidOption(
            f"ca_mode {text!r} unites subfields of HSF's {len(NAMES)} classes, this network has {n_classes}; "
            "leave it out"
        )
    return text


def label_names(mode: str, n_classes: int = len(NAMES)) -> tuple[str, ...]:
    """Name the labels of a mode, background first."""
    if n_classes != len(NAMES):
        return tuple("background" if not index else f"class {index}" for index in range(n_classes))
    return tuple(MERGED_NAMES.get(group, NAMES[group[0]]) for group in MODES[mode])


def merge_subfields(probability: np.ndarray, mode: str) -> np.ndarray:
    """Add up the probabilities of the subfields that a mode unites.

    Parameters
    ----------
    probability : ndarray (..., 6)
        Output of the network.
    mode : str
        One of `MODES`.

    Returns
    -------
    ndarray (..., labels)
        The same type, added from left to right.
    """
    groups = MODES[mode]
    if mode == DEFAULT_MODE:
        return probability
    merged = np.stack([probability[..., group[0]] for group in groups], axis=-1)
    for label, group in enumerate(groups):
        for index in group[1:]:
            merged[..., label] += probability[..., index]
    return merged


class Vote:
    """Collect predictions of one crop; each adds one vote and its share of the mean."""

    def __init__(self) -> None:
        self.count = 0
        self._votes = np.zeros((0, 0), np.uint32)
        self._sum = np.zeros((0, 0), np.float64)
        self._shape: tuple[int, ...] = ()

    def add(self, probability: np.ndarray) -> None:
        """Take in one prediction ``(X, Y, Z, C)``.

        Raises
        ------
        InvalidImage
            If it is not finite.
        """
        rows = probability.reshape(-1, probability.shape[-1])
        if not self.count:
            self._shape = probability.shape[:-1]
            self._votes, self._sum = np.zeros(rows.shape, np.uint32), np.zeros(rows.shape, np.float64)
        if not np.isfinite(rows.sum()):
            raise InvalidImage(
                "the network gives probabilities that are not finite for this crop; check where the box lies"
            )
        self._votes[np.arange(len(rows)), rows.argmax(axis=1)] += 1
        self._sum += rows
        self.count += 1

    def labels(self) -> np.ndarray:
        """Return the label with most votes, ``(X, Y, Z)``, uint8; of several, the lowest."""
        return self._votes.argmax(axis=1).astype(np.uint8).reshape(self._shape)

    def uncertainty(self) -> np.ndarray:
        """Return the entropy of the mean probability in nats, ``(X, Y, Z)``, float64, at least 0.

        A single channel counts as the probability of one of two classes.
        """
        mean = self._sum / self.count
        if mean.shape[1] == 1:
            mean = np.concatenate([mean, 1 - mean], axis=1)
        entropy = -(mean * np.log(mean + EPSILON)).sum(axis=1)
        return np.maximum(entropy, 0.0).reshape(self._shape)
