"""A convolution whose kernel and bias are computed by a hypernetwork.

Source: adalca/neurite@7c4b05e, ``neurite/tf/layers.py`` (`HyperConvFromDense`); A. Hoopes et al. (2022),
doi:10.59275/j.melba.2022-74f1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kerasneuro.nn.initializers import HostGlorotUniform

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="kerasneuro")
class HyperConvFromDense(keras.layers.Layer):
    """Convolve with a kernel that is a linear function of a second input (padding "same", stride 1).

    Parameters
    ----------
    filters : int
        Output channels F.
    kernel_size : int
        Kernel length k along each axis.
    **kwargs
        Passed to `keras.layers.Layer`.

    Notes
    -----
    Variables, for C input channels and H units of the hypernetwork: ``hyperkernel_kernel`` (H, k**N * C * F),
    ``hyperkernel_bias`` (k**N * C * F,), ``hyperbias_kernel`` (H, F), ``hyperbias_bias`` (F,).
    """

    def __init__(self, filters: int, kernel_size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size

    def build(self, input_shape: Sequence[Shape]) -> None:
        """Create the variables for an input (B, X, Y, Z, C) and a hypernetwork (B, H)."""
        (_, *space, channels), (*_, units) = input_shape
        self.kernel_shape: tuple[Any, ...] = (*(self.kernel_size,) * len(space), channels, self.filters)
        for name, size in (("hyperkernel", math.prod(self.kernel_shape)), ("hyperbias", self.filters)):
            for part, shape in (("kernel", (units, size)), ("bias", (size,))):
                weight = self.add_weight(name=f"{name}_{part}", shape=shape, initializer=HostGlorotUniform())
                setattr(self, f"{name}_{part}", weight)

    def call(self, inputs: Sequence[Any]) -> Any:
        """Map volumes (B, X, Y, Z, C) and the last layer (B, H), or (1, H) for all, to (B, X, Y, Z, F)."""
        x, hyper = inputs
        kernels = ops.matmul(hyper, self.hyperkernel_kernel) + self.hyperkernel_bias
        biases = ops.matmul(hyper, self.hyperbias_kernel) + self.hyperbias_bias
        # Within a compiled step of TensorFlow the count is a tensor, which knows no "if".
        count = ops.shape(hyper)[0]
        if isinstance(count, int) and count == 1:
            return self.convolve(x, kernels[0], biases[0])
        if isinstance(count, int):
            items = range(count)
            parts = [self.convolve(x[item : item + 1], kernels[item], biases[item]) for item in items]
            return ops.concatenate(parts, axis=0)
        return ops.map(lambda item: self.convolve(item[0][None], *item[1:])[0], (x, kernels, biases))

    def convolve(self, x: Any, kernel: Any, bias: Any) -> Any:
        """Convolve volumes (B, X, Y, Z, C) with one flat kernel and its bias."""
        kernel = ops.reshape(kernel, self.kernel_shape)
        return ops.conv(x, kernel, padding="same", data_format="channels_last") + bias

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        """Return the shape with the channels exchanged."""
        return (*input_shape[0][:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "filters": self.filters, "kernel_size": self.kernel_size}
