"""Normalisation that learns how much of each kind of statistics it uses."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasneuro.nn.normalization import spatial_mean

Shape = tuple[int | None, ...]
KINDS = 2
"""Statistics of each channel, and of all channels of a sample; those of the batch are a third kind."""


@keras.saving.register_keras_serializable(package="kerasneuro")
class SwitchNormalization(keras.layers.Layer):
    """Normalise with a learned mixture of the statistics of a channel, of the sample, and of the batch.

    With the mean m and the unbiased variance v of a channel, M = mean(m) and V = mean(v + m^2) - M^2 over the
    channels of the sample::

        y = (x - a0 m - a1 M) / sqrt(b0 v + b1 V + epsilon) * gamma + beta

    with a = softmax(mean_weight) and b = softmax(var_weight). A single voxel has no unbiased variance: the
    result is NaN, as in the original. The batch has a share only if asked for; training and inference are
    the same without it.

    Source: P. Luo et al., arXiv:1806.10779; the form of clementpoiret/hsf_train@127435f.

    Parameters
    ----------
    epsilon : float
        Added to the variance.
    batch_statistics : bool
        Mix in those of the batch too; inference uses their moving averages.
    momentum : float
        Of the moving averages.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    def __init__(
        self, epsilon: float = 1e-5, batch_statistics: bool = False, momentum: float = 0.9, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.batch_statistics = batch_statistics
        self.momentum = momentum

    def build(self, input_shape: Shape) -> None:
        """Create gamma and beta (C,), and the weights of the mixtures (2,), with the batch (3,)."""
        channels, kinds = (input_shape[-1],), (KINDS + self.batch_statistics,)
        self.gamma = self.add_weight(name="gamma", shape=channels, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=channels, initializer="zeros")
        self.mean_weight = self.add_weight(name="mean_weight", shape=kinds, initializer="ones")
        self.var_weight = self.add_weight(name="var_weight", shape=kinds, initializer="ones")
        if self.batch_statistics:
            self.moving_mean = self._moving("moving_mean", channels, "zeros")
            self.moving_variance = self._moving("moving_variance", channels, "ones")

    def _moving(self, name: str, shape: tuple[Any, ...], start: str) -> Any:
        return self.add_weight(name=name, shape=shape, initializer=start, trainable=False)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Normalise a tensor of shape (B, X, Y, Z, C)."""
        mean = spatial_mean(inputs)
        centred = inputs - mean
        variance = spatial_mean(ops.square(centred)) * self._unbiased(ops.shape(inputs))
        shift, factor = self._mix(mean, variance, training)
        return centred * factor + ((mean - shift) * factor + self.beta)

    def torch_call(self, inputs: Any, spare: tuple[bool, ...]) -> Any:
        """Compute without gradients in PyTorch, into the input where it is not read again."""
        import torch

        inputs = inputs.float()  # under autocast a convolution gives half precision
        # Exact in two passes, and much faster than `var_mean` on channels-last tensors.
        voxels = inputs.flatten(1, 3)
        found = [torch.batch_norm_update_stats(sample, None, None, 0.0) for sample in voxels]
        mean, variance = (torch.stack(parts)[:, None, None, None] for parts in zip(*found, strict=True))
        shift, factor = self._mix(mean, variance * self._unbiased(inputs.shape), training=False)
        offset = self.beta.value - shift * factor
        return torch.addcmul(offset, inputs, factor, out=inputs if all(spare) else None)

    def _unbiased(self, shape: Any) -> Any:
        """Return n / (n - 1) for n voxels."""
        n = ops.cast(shape[1] * shape[2] * shape[3], self.compute_dtype)
        return n / (n - 1)

    def _mix(self, mean: Any, variance: Any, training: bool | None) -> tuple[Any, Any]:
        """Return what is subtracted and what is multiplied, (B, 1, 1, 1, C), from those of each channel."""
        power = variance + ops.square(mean)
        of_all = ops.mean(mean, axis=-1, keepdims=True)
        means = [mean, of_all]
        variances = [variance, ops.mean(power, axis=-1, keepdims=True) - ops.square(of_all)]
        if self.batch_statistics:
            of_batch = self._of_batch(mean, power) if training else (self.moving_mean, self.moving_variance)
            means.append(of_batch[0])
            variances.append(of_batch[1])
        shift = _weighted(self.mean_weight, means)
        return shift, self.gamma * ops.rsqrt(_weighted(self.var_weight, variances) + self.epsilon)

    def _of_batch(self, mean: Any, power: Any) -> tuple[Any, Any]:
        """Return mean and variance of the batch, (C,), and let the moving averages follow them."""
        axes = (0, 1, 2, 3)
        of_batch = ops.mean(mean, axis=axes)
        variance = ops.mean(power, axis=axes) - ops.square(of_batch)
        for average, value in ((self.moving_mean, of_batch), (self.moving_variance, variance)):
            average.assign(average * self.momentum + value * (1 - self.momentum))
        return of_batch, variance

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {
            **super().get_config(),
            "epsilon": self.epsilon,
            "batch_statistics": self.batch_statistics,
            "momentum": self.momentum,
        }


def _weighted(weights: Any, parts: list[Any]) -> Any:
    """Sum the parts, each times its share of the softmax of the weights."""
    shares = ops.softmax(ops.convert_to_tensor(weights))
    return sum(shares[index] * part for index, part in enumerate(parts))
