"""Mean, variance and entropy over repeated predictions, one sample at a time."""

from __future__ import annotations

import numpy as np

EPSILON = 1e-7


class StreamingMoments:
    """Running mean and, if asked for, running variance of samples (Welford's recurrence).

    The recurrences are those of nobrainer (neuronets/nobrainer@976691d, ``nobrainer/prediction.py``).

    Parameters
    ----------
    variance : bool
        Whether the sum of squared deviations is kept as well.
    """

    def __init__(self, *, variance: bool = False) -> None:
        self.count = 0
        self._variance = variance
        self._mean = np.zeros(0, np.float32)
        self._squares = np.zeros(0, np.float32)

    def update(self, sample: np.ndarray) -> None:
        """Take in one sample, float32 ``(..., C)``."""
        self.count += 1
        if self.count == 1:
            self._mean = np.array(sample, np.float32)
            self._squares = np.zeros_like(self._mean) if self._variance else self._squares
            return
        deviation = sample - self._mean
        self._mean += deviation / np.float32(self.count)
        if self._variance:
            self._squares += deviation * (sample - self._mean)

    @property
    def mean(self) -> np.ndarray:
        """Mean of the samples, ``(..., C)``, float32."""
        return self._mean

    def variance(self) -> np.ndarray:
        """Return the population variance summed over the classes, ``(...)``, float32."""
        return (self._squares / np.float32(max(self.count, 1))).sum(axis=-1)

    def entropy(self) -> np.ndarray:
        """Return the entropy of the mean in nats, summed over the classes, ``(...)``, float32."""
        return (-self._mean * np.log(self._mean + np.float32(EPSILON))).sum(axis=-1)
