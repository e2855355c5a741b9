"""Convolutions with the padding and the stride rules of the published networks."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasneuro.nn.initializers import HostGlorotUniform

# Taps of a transposed convolution (kernel 3, stride 2, padding 1, output padding 1), for the even and the
# odd output of each input position, at offsets 0 and 1 of the input; index 3 is a tap of zero.
# Along one axis: out[2i] = w[1] x[i];  out[2i + 1] = w[2] x[i] + w[0] x[i + 1].
PHASE_TAPS = (1, 3, 2, 0)


def padded_convolution(
    x: Any, filters: int, kernel_size: int, *, strides: int = 1, use_bias: bool = False, name: str
) -> Any:
    """Convolve with equal padding on both sides, as PyTorch does.

    Keras pads a strided convolution of an even size by one voxel more at the end; this shifts the grid, so
    the padding is made explicit here.

    Parameters
    ----------
    x : tensor (B, X, Y, Z, C)
        Input.
    filters, kernel_size, strides : int
        As in `keras.layers.Conv3D`; the kernel is odd.
    use_bias : bool
        Add a bias.
    name : str
        Name of the convolution; the padding layer is ``<name>_pad``.

    Returns
    -------
    tensor (B, X / strides, Y / strides, Z / strides, filters)
    """
    if strides == 1 or kernel_size == 1:
        padding = "same" if strides == 1 else "valid"
    else:
        padding = "valid"
        x = keras.layers.ZeroPadding3D(kernel_size // 2, name=f"{name}_pad")(x)
    return keras.layers.Conv3D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=use_bias,
        kernel_initializer=HostGlorotUniform(),
        name=name,
    )(x)


def interleave(x: Any, filters: int) -> Any:
    """Spread the eight phases in the channels over a grid of twice the size.

    Parameters
    ----------
    x : tensor (B, X, Y, Z, 8 * filters)
        Channel index = ((px * 2 + py) * 2 + pz) * filters + channel.
    filters : int
        Channels of the result.

    Returns
    -------
    tensor (B, 2X, 2Y, 2Z, filters)
    """
    b, nx, ny, nz, _ = ops.shape(x)
    x = ops.reshape(x, (b, nx, ny, nz, 2, 2, 2 * filters))
    x = ops.transpose(x, (0, 1, 4, 2, 5, 3, 6))
    return ops.reshape(x, (b, 2 * nx, 2 * ny, 2 * nz, filters))


@keras.saving.register_keras_serializable(package="kerasneuro")
class DoublingConv3DTranspose(keras.layers.Layer):
    """Double the size by a transposed convolution of stride 2, computed as an ordinary convolution per phase.

    Kernel 3 (padding 1 and output padding 1 in PyTorch's terms) or kernel 2 (no padding). The weights have
    the shape and order of `keras.layers.Conv3DTranspose`, and the result is the same as that of the direct
    form; an ordinary convolution to eight phases and a transposition are many times faster on XLA's CPU
    backend.

    Parameters
    ----------
    filters : int
        Output channels.
    kernel_size : {2, 3}
        Kernel length along each axis.
    use_bias : bool
        Add a bias.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    def __init__(self, filters: int, kernel_size: int, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if kernel_size not in (2, 3):
            raise ValueError(f"kernel_size must be 2 or 3, found {kernel_size}")
        self.filters = filters
        self.kernel_size = kernel_size
        self.use_bias = use_bias

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the kernel (k, k, k, filters, C) and the bias (filters,)."""
        shape = (self.kernel_size,) * 3 + (self.filters, input_shape[-1])
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=HostGlorotUniform())
        self.bias = (
            self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
            if self.use_bias
            else None
        )

    def phase_kernel(self) -> Any:
        """Rearrange the kernel for the phases: (2, 2, 2, C, 8 * filters), or a matrix (C, 8 * filters)."""
        kernel = ops.convert_to_tensor(self.kernel)
        channels = kernel.shape[-1]
        if self.kernel_size == 2:
            return ops.reshape(ops.transpose(kernel, (4, 0, 1, 2, 3)), (channels, 8 * self.filters))
        kernel = ops.pad(kernel, ((0, 1), (0, 1), (0, 1), (0, 0), (0, 0)))
        for axis in range(3):
            kernel = ops.take(kernel, PHASE_TAPS, axis=axis)
        # (phase, offset) of each axis, filters, channels -> offsets, channels, phases, filters.
        kernel = ops.reshape(kernel, (2,) * 6 + (self.filters, channels))
        kernel = ops.transpose(kernel, (1, 3, 5, 7, 0, 2, 4, 6))
        return ops.reshape(kernel, (2, 2, 2, channels, 8 * self.filters))

    def call(self, inputs: Any) -> Any:
        """Map a tensor (B, X, Y, Z, C) to (B, 2X, 2Y, 2Z, filters)."""
        if self.kernel_size == 2:
            phases = ops.matmul(inputs, self.phase_kernel())
        else:
            # With a kernel of two, "same" pads one zero at the end of each axis: the x[i + 1] beyond the
            # border.
            phases = ops.conv(inputs, self.phase_kernel(), padding="same", data_format="channels_last")
        if self.bias is not None:
            phases = phases + ops.tile(self.bias, 8)
        return interleave(phases, self.filters)

    def torch_call(self, inputs: Any, spare: tuple[bool, ...]) -> Any:
        """Compute without gradients in PyTorch, whose own transposed convolution takes half the time."""
        import torch

        kernel, bias = self.kernel.value.permute(4, 3, 0, 1, 2), self.bias
        padding = 1 if self.kernel_size == 3 else 0
        found = torch.nn.functional.conv_transpose3d(
            inputs.movedim(-1, 1), kernel, None if bias is None else bias.value, 2, padding, padding
        )
        return found.movedim(1, -1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape with doubled spatial axes."""
        spatial = tuple(None if size is None else 2 * size for size in input_shape[1:4])
        return (input_shape[0], *spatial, self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "use_bias": self.use_bias,
        }
