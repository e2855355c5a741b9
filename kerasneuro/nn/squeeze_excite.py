"""Channel weights learnt from the mean of each channel."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.nn.initializers import HostGlorotUniform
from kerasneuro.nn.normalization import spatial_mean

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="kerasneuro")
class SqueezeExcite(keras.layers.Layer):
    """Multiply each channel by a factor from 0 to 1 that depends on the means of all channels.

    Mean over space, a dense layer to few channels, ReLU, a dense layer back, hard sigmoid.

    Source: J. Hu et al., arXiv:1709.01507; with the hard sigmoid of A. Howard et al., arXiv:1905.02244.

    Parameters
    ----------
    reduction : int
        The inner layer has ``C // reduction`` channels, at least one.
    **kwargs
        Passed to `keras.layers.Layer`.

    Raises
    ------
    InvalidOption
        If the reduction is below 1.
    """

    def __init__(self, reduction: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if reduction < 1:
            raise InvalidOption(f"reduction must be at least 1, found {reduction}")
        self.reduction = reduction

    def build(self, input_shape: Shape) -> None:
        """Create both kernels (inputs, outputs) and their biases."""
        channels = int(input_shape[-1] or 0)
        inner = max(1, channels // self.reduction)
        self.squeeze_kernel, self.squeeze_bias = self._dense("squeeze", channels, inner)
        self.excite_kernel, self.excite_bias = self._dense("excite", inner, channels)

    def _dense(self, name: str, inputs: int, outputs: int) -> tuple[Any, Any]:
        kernel = self.add_weight(
            name=f"{name}_kernel", shape=(inputs, outputs), initializer=HostGlorotUniform()
        )
        return kernel, self.add_weight(name=f"{name}_bias", shape=(outputs,), initializer="zeros")

    def factors(self, inputs: Any) -> Any:
        """Return the factor of each channel, (B, 1, 1, 1, C)."""
        means = spatial_mean(inputs)
        inner = ops.relu(ops.matmul(means, self.squeeze_kernel) + self.squeeze_bias)
        return ops.hard_sigmoid(ops.matmul(inner, self.excite_kernel) + self.excite_bias)

    def call(self, inputs: Any) -> Any:
        """Map a tensor (B, X, Y, Z, C) to one of the same shape."""
        return inputs * self.factors(inputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "reduction": self.reduction}
