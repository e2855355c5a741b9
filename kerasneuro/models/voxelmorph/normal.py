"""The random velocity of probabilistic VoxelMorph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="kerasneuro")
class SampleNormalLogVar(keras.layers.Layer):
    """Draw from normal distributions given by mean and logarithm of the variance, in training and inference.

    See A. V. Dalca et al. (2019), doi:10.1016/j.media.2019.07.006.

    Parameters
    ----------
    seed : int, optional
        Start of the random numbers.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, inputs: Sequence[Any]) -> Any:
        """Map mean and log variance, of one shape, to a draw of that shape."""
        mean, log_variance = inputs
        noise = keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        """Return the same shape."""
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "seed": self.seed}
