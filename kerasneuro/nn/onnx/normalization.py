"""Normalisation of each sample over space, by channel or by group of channels."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasneuro.nn.onnx.base import Shape
from kerasneuro.nn.onnx.reduction import axis_by_axis


@keras.saving.register_keras_serializable(package="kerasneuro")
class SampleNormalization(keras.layers.Layer):
    """Normalise groups of channels of each sample over space, then scale and shift each channel.

    One group for each channel is instance normalisation (D. Ulyanov et al., arXiv:1607.08022), fewer groups
    are group normalisation (Y. Wu and K. He, arXiv:1803.08494). The variance is the biased one, from a second
    pass over the deviations, and sums go along one axis at a time.

    Parameters
    ----------
    groups : int
        Number of groups; -1 for one for each channel.
    epsilon : float
        Added to the variance.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    def __init__(self, groups: int = -1, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.groups = groups
        self.epsilon = epsilon

    def build(self, input_shape: Shape) -> None:
        """Create scale and offset (C,)."""
        channels = input_shape[-1:]
        self.gamma = self.add_weight(name="gamma", shape=channels, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=channels, initializer="zeros")

    def call(self, inputs: Any) -> Any:
        """Normalise a tensor (B, X, ..., C)."""
        sizes = ops.shape(inputs)
        axes = [*range(1, len(sizes) - 1)]
        x = inputs
        if self.groups != -1:
            x = ops.reshape(x, (*sizes[:-1], self.groups, inputs.shape[-1] // self.groups))
            axes.append(len(sizes))
        centred = x - axis_by_axis(ops.mean, x, axes)
        variance = axis_by_axis(ops.mean, ops.square(centred), axes)
        x = centred * ops.rsqrt(variance + self.epsilon)
        return ops.reshape(x, sizes) * self.gamma + self.beta

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "groups": self.groups, "epsilon": self.epsilon}
