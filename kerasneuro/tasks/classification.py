"""What classification tasks share: probabilities, the predicted class, and a result that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.tasks.result import RESEARCH_USE, Result

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

MOST_TEXT = 79
"""Characters that the description of a NIfTI header takes."""


@dataclass(frozen=True)
class ClassificationResult(Result):
    """The classes of one person, besides the fields of `Result`.

    Attributes
    ----------
    logits : ndarray (K,)
        Output of the network, float32.
    probabilities : ndarray (K,)
        One for each label, float64.
    class_names : tuple of str
        In the order of `probabilities`.
    predicted : int
        Index of the predicted class.
    batch : ndarray (1, X, Y, Z, C) or None
        What the network saw, float32.
    heatmap : nibabel image or None
        Where the network looked, on the grid of the scan; see `kerasneuro.explain`.
    """

    logits: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    predicted: int = 0
    batch: np.ndarray | None = None
    heatmap: SpatialImage | None = None
    main_output: str = "heatmap"

    @property
    def label(self) -> str:
        """Name of the predicted class."""
        return self.class_names[self.predicted]


def class_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the probability of each class.

    Parameters
    ----------
    logits : ndarray (..., K)
        One output: the log odds of the second of two classes.

    Returns
    -------
    ndarray (..., K), at least two
        Float64, sum 1.
    """
    from scipy.special import expit, softmax

    values = np.asarray(logits, np.float64)
    if values.shape[-1] == 1:
        return np.concatenate([expit(-values), expit(values)], axis=-1)
    return np.asarray(softmax(values, axis=-1))


def class_labels(known: Sequence[str], count: int) -> tuple[str, ...]:
    """Return the names of the model card where they fit the number of classes, else numbered ones."""
    return tuple(known) if len(known) == count else tuple(f"class_{index}" for index in range(count))


def class_row(subject: str, labels: Sequence[str], probabilities: np.ndarray) -> dict[str, Any]:
    """Return the line of the result table: probabilities, predicted class, and what it may be used for."""
    predicted = int(np.argmax(probabilities))
    pairs = zip(labels, probabilities, strict=True)
    return {
        "image": subject,
        **{f"probability_{label}": float(value) for label, value in pairs},
        "predicted_class": predicted,
        "predicted_label": labels[predicted],
        "use": RESEARCH_USE,
    }


def mark_research_use(image: SpatialImage) -> SpatialImage:
    """Write into the header of a NIfTI image that it is for research only; other formats have no place."""
    header: Any = image.header
    if "descrip" in getattr(header, "keys", tuple)():
        header["descrip"] = RESEARCH_USE[:MOST_TEXT].encode("ascii", "replace")
    return image
