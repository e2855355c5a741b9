"""Normalisation layers."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def spatial_mean(x: Any) -> Any:
    """Average over the three spatial axes, one axis at a time.

    A joint reduction of a 256^3 volume in float32 loses up to 1e-3 of the mean on TensorFlow and OpenVINO
    (enough to flip voxels of a mask); reducing Z, then Y, then X keeps it to 1e-6 at no cost.

    Parameters
    ----------
    x : tensor (B, X, Y, Z, C)
        Any floating type.

    Returns
    -------
    tensor (B, 1, 1, 1, C)
    """
    b, nx, ny, nz, channels = ops.shape(x)
    # OpenVINO would merge the reductions again, but for the change of shape between them.
    lines = ops.mean(ops.reshape(x, (b, nx * ny, nz, channels)), axis=2)
    planes = ops.mean(ops.reshape(lines, (b, nx, ny, channels)), axis=2)
    return ops.reshape(ops.mean(planes, axis=1), (b, 1, 1, 1, channels))


@keras.saving.register_keras_serializable(package="kerasneuro")
class InstanceNormalization(keras.layers.Layer):
    """Normalise each channel of each sample to zero mean and unit variance over space.

    No scale, no offset, no running statistics: training and inference are the same. The variance is the
    biased one, from a second pass over the deviations (D. Ulyanov et al., arXiv:1607.08022).

    Parameters
    ----------
    epsilon : float
        Added to the variance.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    def __init__(self, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.built = True

    def call(self, inputs: Any, statistics_of: Any = None) -> Any:
        """Normalise a tensor of shape (B, X, Y, Z, C).

        Parameters
        ----------
        inputs : tensor (B, X, Y, Z, C)
            What is normalised.
        statistics_of : tensor (B, X', Y', Z', C), optional
            Where mean and variance come from, if not from `inputs`.
        """
        source = inputs if statistics_of is None else statistics_of
        mean = spatial_mean(source)
        centred = source - mean
        factor = ops.rsqrt(spatial_mean(ops.square(centred)) + self.epsilon)
        return (centred if statistics_of is None else inputs - mean) * factor

    def compute_output_shape(
        self, inputs_shape: tuple[int | None, ...], statistics_of_shape: tuple[int | None, ...] | None = None
    ) -> tuple[int | None, ...]:
        """Return the input shape."""
        return inputs_shape

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "epsilon": self.epsilon}
