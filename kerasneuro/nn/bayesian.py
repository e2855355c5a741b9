"""Convolutions of Bayesian networks: with normalised weights, and with normally distributed weights.

Every random layer of the package has two forms. The *random* one draws; it runs in training, and in inference
if the layer was made with ``monte_carlo=True``. The *deterministic* one puts the mean in place of each draw.

Sources: neuronets/kwyk@4dd379c, ``nobrainer/models``; P. McClure et al. (2019), doi:10.3389/fninf.2019.00067.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from kerasneuro.nn.monte_carlo import seed_generator

SMALLEST_NORM = 1e-12  # of a filter, squared
SMALLEST_VARIANCE = 1e-8
INITIAL_DEVIATION = 1e-4


@keras.saving.register_keras_serializable(package="kerasneuro")
class WeightNormConv3D(keras.layers.Layer):
    """Convolve with the kernel ``g * v / ||v||``, the norm taken over each filter (padding "same", stride 1).

    Parameters
    ----------
    filters : int
        Output channels.
    kernel_size : int
        Kernel length along each axis.
    dilation_rate : int
        Distance of the taps of the kernel, in voxels.
    prior_deviation : float
        Standard deviation of the normal prior of kernel and bias, which have mean 0.
    kl_weight : float
        Factor of the prior's part of the loss: 1 / number of training examples; 0 leaves it out.
    **kwargs
        Passed to `keras.layers.Layer`.

    Notes
    -----
    Variables: ``v`` (k, k, k, C, filters), ``g`` (1, 1, 1, 1, filters), ``bias_m`` (filters,), and
    ``kernel_a``, ``bias_a`` (as ``v`` and ``bias_m``): standard deviations that this form carries but does
    not use, so they are not trainable. The published files hold them for every network.
    """

    deviations_are_used = False

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        dilation_rate: int = 1,
        prior_deviation: float = 1.0,
        kl_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.dilation_rate = dilation_rate
        self.prior_deviation = prior_deviation
        self.kl_weight = kl_weight

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the variables."""
        kernel = (*(self.kernel_size,) * 3, input_shape[-1], self.filters)
        deviation = {
            "initializer": keras.initializers.Constant(INITIAL_DEVIATION),
            "trainable": self.deviations_are_used,
        }
        root = keras.initializers.Constant(math.sqrt(2))
        self.v = self.add_weight(name="v", shape=kernel, initializer="he_uniform")
        self.g = self.add_weight(name="g", shape=(1, 1, 1, 1, self.filters), initializer=root)
        self.bias_m = self.add_weight(name="bias_m", shape=(self.filters,), initializer="zeros")
        self.kernel_a = self.add_weight(name="kernel_a", shape=kernel, **deviation)
        self.bias_a = self.add_weight(name="bias_a", shape=(self.filters,), **deviation)

    def mean_kernel(self) -> Any:
        """Return ``g * v / ||v||``, shape (k, k, k, C, filters)."""
        squares = ops.sum(ops.square(self.v), axis=(0, 1, 2, 3), keepdims=True)
        return self.g * (self.v * ops.rsqrt(ops.maximum(squares, SMALLEST_NORM)))

    def convolve(self, inputs: Any, kernel: Any) -> Any:
        """Convolve a tensor (B, X, Y, Z, C)."""
        if keras.backend.backend() == "jax":
            return self.convolve_planes(inputs, kernel)
        return self.convolve_same(inputs, kernel)

    def convolve_same(self, inputs: Any, kernel: Any) -> Any:
        """Convolve a tensor (B, ..., C) of any rank."""
        return ops.conv(
            inputs, kernel, padding="same", data_format="channels_last", dilation_rate=self.dilation_rate
        )

    def convolve_planes(self, inputs: Any, kernel: Any) -> Any:
        """Sum the 2-D convolutions of the taps along X: XLA's 3-D ones take up to 7 times longer on a CPU."""
        batch, planes, *plane, channels = ops.shape(inputs)
        reach = self.dilation_rate * (self.kernel_size - 1)
        margin = (reach // 2, reach - reach // 2)
        padded = ops.pad(inputs, ((0, 0), margin, (0, 0), (0, 0), (0, 0)))
        total = 0.0
        for tap in range(self.kernel_size):
            start = tap * self.dilation_rate
            part = ops.reshape(padded[:, start : start + planes], (batch * planes, *plane, channels))
            total = total + self.convolve_same(part, kernel[tap])
        return ops.reshape(total, (batch, planes, *plane, self.filters))

    def divergence(self, kernel: Any) -> Any:
        """Return the prior's part of the loss, before `kl_weight`: the squares of all means."""
        squares = ops.sum(ops.square(kernel)) + ops.sum(ops.square(self.bias_m))
        return squares / (2 * (self.prior_deviation**2 + SMALLEST_VARIANCE))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Map a tensor (B, X, Y, Z, C) to (B, X, Y, Z, filters)."""
        kernel = self.mean_kernel()
        if training and self.kl_weight:
            self.add_loss(self.kl_weight * self.divergence(kernel))
        return self.convolve(inputs, kernel) + self.bias_m

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape with the channels exchanged."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        names = ("filters", "kernel_size", "dilation_rate", "prior_deviation", "kl_weight")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kerasneuro")
class VariationalConv3D(WeightNormConv3D):
    """Convolve with normally distributed weights, by local reparametrisation.

    The mean of a weight is that of `WeightNormConv3D`, its deviation ``|kernel_a|`` (bias: ``|bias_a|``). The
    random form draws the result rather than the weights: mean + sqrt(variance + 1e-8) * e, with **one** e per
    filter for the whole batch and volume, as the original does.

    Parameters
    ----------
    filters, kernel_size, dilation_rate, kl_weight, **kwargs
        See `WeightNormConv3D`.
    prior_deviation : float
        Standard deviation of the normal prior of each weight.
    monte_carlo : bool
        Draw in inference, too.
    seed : int, optional
        Start of the random numbers.
    """

    deviations_are_used = True

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        dilation_rate: int = 1,
        prior_deviation: float = 0.01,
        kl_weight: float = 0.0,
        monte_carlo: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, dilation_rate, prior_deviation, kl_weight, **kwargs)
        self.monte_carlo = monte_carlo
        self.seed = seed
        self.seed_generator = seed_generator(seed, monte_carlo)

    def divergence(self, kernel: Any) -> Any:
        """Return the divergence from the prior but for a constant, before `kl_weight`."""
        total = super().divergence(kernel)
        for deviation in (ops.abs(self.kernel_a), ops.abs(self.bias_a)):
            total = total + ops.sum(ops.square(deviation)) / (
                2 * (self.prior_deviation**2 + SMALLEST_VARIANCE)
            )
            total = total - ops.sum(ops.log(deviation + SMALLEST_VARIANCE))
        return total

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Map a tensor (B, X, Y, Z, C) to (B, X, Y, Z, filters)."""
        mean = super().call(inputs, training=training)
        if not (training or self.monte_carlo):
            return mean
        variance = self.convolve(ops.square(inputs), ops.square(self.kernel_a)) + ops.square(self.bias_a)
        shape = (1, 1, 1, 1, self.filters)
        noise = keras.random.normal(shape, dtype=mean.dtype, seed=self.seed_generator)
        return mean + ops.sqrt(variance + SMALLEST_VARIANCE) * noise

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "monte_carlo": self.monte_carlo, "seed": self.seed}
