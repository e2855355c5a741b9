"""Depthwise 3-D convolution with the padding of PyTorch, computed on each backend in the form it does fast.

Keras has no such layer, and its grouped convolution is up to a hundred times slower on the CPUs of TensorFlow
and JAX. All forms take one kernel (kx, ky, kz, 1, C) and agree to rounding, in gradients too, so weights go
from one backend to another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kerasneuro.errors import InvalidOption
from kerasneuro.nn.initializers import HostUniform

Shape = tuple[int | None, ...]
Triple = tuple[int, int, int]
Convolve = Callable[[Any, Any, int], Any]


def as_triple(kernel_size: int | tuple[int, ...]) -> Triple:
    """Return the odd kernel length along each axis.

    Raises
    ------
    InvalidOption
        If a length is even or not positive, or there are not three of them.
    """
    sizes = (kernel_size,) * 3 if isinstance(kernel_size, int) else tuple(kernel_size)
    if len(sizes) != 3 or any(size < 1 or size % 2 == 0 for size in sizes):
        raise InvalidOption(f"kernel_size must be one odd number or three, found {kernel_size}")
    return sizes[0], sizes[1], sizes[2]


def pad_both_sides(x: Any, kernel_size: Triple, strides: int) -> Any:
    """Pad each axis by half the kernel on both sides, and by one zero more at the end to a multiple of 2.

    That zero is read by no output: it lets a stride of 2 take pairs of voxels by a reshape.

    Parameters
    ----------
    x : tensor (B, X, Y, Z, C)
    kernel_size : tuple of int
        Odd.
    strides : {1, 2}
        Without a stride, nothing is added for pairs.

    Returns
    -------
    tensor (B, X', Y', Z', C)
    """
    margins = []
    for axis, length in enumerate(kernel_size, start=1):
        margin = length // 2
        margins.append((margin, margin + (ops.shape(x)[axis] % 2 if strides == 2 else 0)))
    return ops.pad(x, ((0, 0), *margins, (0, 0)))


def by_groups(x: Any, kernel: Any, strides: int) -> Any:
    """Compute as a convolution of C groups (OpenVINO)."""
    padded = pad_both_sides(x, kernel.shape[:3], strides)
    return ops.conv(padded, kernel, strides=strides, padding="valid", data_format="channels_last")


def by_torch(x: Any, kernel: Any, strides: int) -> Any:
    """Compute by PyTorch's own convolution, which pads equally by itself."""
    import torch

    result = torch.nn.functional.conv3d(
        x.movedim(-1, 1),
        kernel.permute(4, 3, 0, 1, 2),
        stride=strides,
        padding=[size // 2 for size in kernel.shape[:3]],
        groups=kernel.shape[-1],
    )
    return result.movedim(1, -1)


def by_planes(x: Any, kernel: Any, strides: int) -> Any:
    """Sum the 2-D depthwise convolutions of the taps along X, with X folded into the batch (TensorFlow)."""
    taps, channels = kernel.shape[0], kernel.shape[-1]
    padded = pad_both_sides(x, kernel.shape[:3], strides)
    b, nx, ny, nz, _ = ops.shape(padded)
    pairs = ops.reshape(padded, (b, nx // strides, strides, ny, nz, channels))
    length = (nx - taps) // strides + 1
    total: Any = None
    for tap in range(taps):
        start = tap // strides
        planes = ops.reshape(pairs[:, start : start + length, tap % strides], (b * length, ny, nz, channels))
        part = ops.depthwise_conv(
            planes,
            ops.transpose(kernel[tap], (0, 1, 3, 2)),
            strides=strides,
            padding="valid",
            data_format="channels_last",
        )
        total = part if total is None else total + part
    _, my, mz, _ = ops.shape(total)
    return ops.reshape(total, (b, length, my, mz, channels))


def by_shifts(x: Any, kernel: Any, strides: int) -> Any:
    """Sum the shifted input times the tap of each shift (kernels of few taps on TensorFlow)."""
    sizes = tuple(kernel.shape[:3])
    padded = pad_both_sides(x, sizes, strides)
    shape = ops.shape(padded)[1:4]
    reach = [(n - size) // strides * strides + 1 for n, size in zip(shape, sizes, strict=True)]
    total: Any = None
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            for k in range(sizes[2]):
                shifted = padded[
                    :,
                    i : i + reach[0] : strides,
                    j : j + reach[1] : strides,
                    k : k + reach[2] : strides,
                ]
                part = shifted * kernel[i, j, k, 0]
                total = part if total is None else total + part
    return total


def by_jax(x: Any, kernel: Any, strides: int) -> Any:
    """Compute by a compiled sum of shifts with a gradient of its own (JAX)."""
    from kerasneuro.nn.depthwise_jax import convolve

    return convolve(x, kernel, strides)


FORMS: dict[str, Convolve] = {
    "torch": by_torch,
    "tensorflow": by_planes,
    "jax": by_jax,
    "openvino": by_groups,
}
FEW_TAPS = 3
"""Up to so many, shifts beat 2-D convolutions on TensorFlow."""


@keras.saving.register_keras_serializable(package="kerasneuro")
class DepthwiseConv3D(keras.layers.Layer):
    """Convolve each channel with its own kernel, padded by half the kernel on both sides as in PyTorch.

    Parameters
    ----------
    kernel_size : int or tuple of int
        Odd length along all axes, or along each.
    strides : {1, 2}
        Along all axes; n voxels become ceil(n / strides).
    use_bias : bool
        Add a bias.
    **kwargs
        Passed to `keras.layers.Layer`.

    Raises
    ------
    InvalidOption
        If the kernel is even or the stride neither 1 nor 2.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        strides: int = 1,
        use_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if strides not in (1, 2):
            raise InvalidOption(f"strides must be 1 or 2, found {strides}")
        self.kernel_size = as_triple(kernel_size)
        self.strides = strides
        self.use_bias = use_bias

    def build(self, input_shape: Shape) -> None:
        """Create the kernel (kx, ky, kz, 1, C) and the bias (C,), with the initial values of PyTorch."""
        start = HostUniform(math.prod(self.kernel_size) ** -0.5)
        channels = input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel", shape=(*self.kernel_size, 1, channels), initializer=start
        )
        self.bias = (
            self.add_weight(name="bias", shape=(channels,), initializer=start) if self.use_bias else None
        )

    def call(self, inputs: Any) -> Any:
        """Map a tensor (B, X, Y, Z, C) to (B, X', Y', Z', C) with X' = ceil(X / strides)."""
        backend = keras.backend.backend()
        few = backend == "tensorflow" and math.prod(self.kernel_size) <= FEW_TAPS
        convolve = by_shifts if few else FORMS.get(backend, by_groups)
        result = convolve(inputs, ops.convert_to_tensor(self.kernel), self.strides)
        return result if self.bias is None else result + ops.convert_to_tensor(self.bias)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape with each spatial axis divided by the stride, rounded up."""
        spatial = (None if size is None else -(-size // self.strides) for size in input_shape[1:4])
        return (input_shape[0], *spatial, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        names = ("kernel_size", "strides", "use_bias")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
