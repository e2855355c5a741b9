"""Layers that halve the grid with the padding of PyTorch: the same number of voxels on both sides."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from kerasneuro.nn.initializers import HostGlorotUniform

Shape = tuple[int | None, ...]


def has_fast_strided_kernels() -> bool:
    """Tell whether the backend computes strided 3-D convolutions and pooling fast on a CPU."""
    return keras.backend.backend() in ("torch", "openvino")


def halved(shape: Shape, channels: int | None) -> Shape:
    """Return a shape (B, X, Y, Z, C) with halved spatial axes, rounded up."""
    return (shape[0], *(None if size is None else -(-size // 2) for size in shape[1:4]), channels)


def split_pairs(x: Any, kernel: Any) -> tuple[Any, Any]:
    """Turn a convolution of stride 2 into one of stride 1: an eighth of the voxels, eight times the channels.

    Parameters
    ----------
    x : tensor (B, X, Y, Z, C)
        Padded input, even sizes.
    kernel : tensor (k, k, k, C, F)
        Odd k.

    Returns
    -------
    x : tensor (B, X / 2, Y / 2, Z / 2, 8 * C)
    kernel : tensor ((k + 1) / 2, ..., 8 * C, F)
    """
    b, nx, ny, nz, channels = ops.shape(x)
    x = ops.reshape(x, (b, nx // 2, 2, ny // 2, 2, nz // 2, 2 * channels))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 5, 2, 4, 6)), (b, nx // 2, ny // 2, nz // 2, 8 * channels))
    half, filters = (kernel.shape[0] + 1) // 2, kernel.shape[-1]
    kernel = ops.pad(kernel, ((0, 1), (0, 1), (0, 1), (0, 0), (0, 0)))
    kernel = ops.reshape(kernel, (half, 2, half, 2, half, 2, channels, filters))
    kernel = ops.transpose(kernel, (0, 2, 4, 1, 3, 5, 6, 7))
    return x, ops.reshape(kernel, (half, half, half, 8 * channels, filters))


def convolve_planes(x: Any, kernel: Any, strides: int) -> Any:
    """Convolve by 2-D convolutions of the Y-Z planes, summed over the taps along X.

    Parameters
    ----------
    x : tensor (B, X, Y, Z, C)
        Padded input.
    kernel : tensor (k, k, k, C, F)
        Of a 3-D convolution.
    strides : int
        Along each axis.

    Returns
    -------
    tensor (B, X', Y', Z', F)
        Valid convolution: X' = (X - k) // strides + 1.
    """
    b, *sizes, channels = ops.shape(x)
    k, filters = kernel.shape[0], kernel.shape[-1]
    nx, ny, nz = ((size - k) // strides + 1 for size in sizes)
    total = 0
    for tap in range(k):
        planes = x[:, tap : tap + (nx - 1) * strides + 1 : strides]
        planes = ops.reshape(planes, (b * nx, *sizes[1:], channels))
        total = total + ops.conv(
            planes, kernel[tap], strides=strides, padding="valid", data_format="channels_last"
        )
    return ops.reshape(total, (b, nx, ny, nz, filters))


@keras.saving.register_keras_serializable(package="kerasneuro")
class HalvingConv3D(keras.layers.Layer):
    """Halve the size by a convolution of stride 2 with equal padding on both sides.

    The weights and the result are those of `padded_convolution`. TensorFlow and JAX are given 2-D
    convolutions: their 3-D kernels for one input channel are 4 and 30 times slower on a CPU.

    Parameters
    ----------
    filters : int
        Output channels.
    kernel_size : int
        Odd kernel length along each axis.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    def __init__(self, filters: int, kernel_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, found {kernel_size}")
        self.filters = filters
        self.kernel_size = kernel_size

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the kernel (k, k, k, C, filters)."""
        shape = (self.kernel_size,) * 3 + (input_shape[-1], self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=HostGlorotUniform())

    def call(self, inputs: Any) -> Any:
        """Map a tensor (B, X, Y, Z, C) to (B, X / 2, Y / 2, Z / 2, filters), rounded up."""
        margin = self.kernel_size // 2
        # One zero more at the end of an odd axis, which no output reads: pairs of voxels need an even number.
        margins = [(margin, margin + size % 2) for size in ops.shape(inputs)[1:4]]
        x = ops.pad(inputs, ((0, 0), *margins, (0, 0)))
        if has_fast_strided_kernels():
            return ops.conv(x, self.kernel, strides=2, padding="valid", data_format="channels_last")
        kernel, strides = ops.convert_to_tensor(self.kernel), 2
        if keras.backend.backend() == "tensorflow":
            x, kernel, strides = *split_pairs(x, kernel), 1
        return convolve_planes(x, kernel, strides)

    def torch_call(self, inputs: Any, spare: tuple[bool, ...]) -> Any:
        """Compute without gradients in PyTorch, which pads by itself."""
        import torch

        kernel = self.kernel.value.to(inputs.device).permute(4, 3, 0, 1, 2)
        kernel = kernel.contiguous(memory_format=torch.channels_last_3d)
        margin = self.kernel_size // 2
        result = torch.nn.functional.conv3d(inputs.movedim(-1, 1), kernel, stride=2, padding=margin)
        return result.movedim(1, -1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape with halved spatial axes."""
        return halved(input_shape, self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "filters": self.filters, "kernel_size": self.kernel_size}


def maximum_along(x: Any, axis: int) -> Any:
    """Take the maximum of voxels 2i - 1, 2i and 2i + 1 along one axis of even length."""
    shape = ops.shape(x)
    length = shape[axis] // 2
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    # Pairs of voxels lie side by side: slices without a step are much faster on TensorFlow.
    pairs = ops.reshape(x, (outer, length, 2 * inner))
    even, odd = pairs[..., :inner], pairs[..., inner:]
    # The first window has no voxel 2i - 1; voxel 1, which it holds anyway, takes the place.
    previous = ops.concatenate([odd[:, :1], odd[:, :-1]], axis=1)
    result = ops.maximum(ops.maximum(even, odd), previous)
    return ops.reshape(result, (*shape[:axis], length, *shape[axis + 1 :]))


@keras.saving.register_keras_serializable(package="kerasneuro")
class HalvingMaxPooling3D(keras.layers.Layer):
    """Halve the size by the maximum over 3 x 3 x 3 voxels with stride 2; padding never wins.

    The pooling of kernel 3, stride 2, padding 1 of PyTorch. Keras's "same" shifts the windows by one voxel.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Map a tensor (B, X, Y, Z, C) of even sizes to (B, X / 2, Y / 2, Z / 2, C)."""
        if has_fast_strided_kernels():
            lowest = float("-inf")
            x = ops.pad(inputs, ((0, 0), (1, 0), (1, 0), (1, 0), (0, 0)), constant_values=lowest)
            return ops.max_pool(x, 3, strides=2, padding="valid", data_format="channels_last")
        for axis in (1, 2, 3):
            inputs = maximum_along(inputs, axis)
        return inputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape with halved spatial axes."""
        return halved(input_shape, input_shape[-1])
