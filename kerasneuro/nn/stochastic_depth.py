"""Leave out whole branches while training."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="kerasneuro")
class StochasticDepth(keras.layers.Dropout):
    """Drop the branch of a residual block for some samples of a batch, in training only.

    What is kept is divided by the probability to be kept, so the expected value stays; inference is the
    identity.

    Source: G. Huang et al., arXiv:1603.09382.

    Parameters
    ----------
    rate : float
        Probability to drop the branch of a sample.
    seed : int, optional
        Start of the random numbers.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(rate, noise_shape=(None, 1, 1, 1, 1), seed=seed, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        config = super().get_config()
        return {key: value for key, value in config.items() if key != "noise_shape"}
