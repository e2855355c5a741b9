"""Maximum pooling that remembers where each maximum was, and its way back."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasneuro.nn.activation import first_maximum

Shape = tuple[int | None, ...]
PLACES = 4


@keras.saving.register_keras_serializable(package="kerasneuro")
class ArgmaxPooling2D(keras.layers.Layer):
    """Halve a plane by the maximum of 2 x 2 windows, and tell the place of each maximum.

    The places of a window are 0 (0, 0), 1 (0, 1), 2 (1, 0), 3 (1, 1). Among equal values the first place
    wins, as in PyTorch: on the empty background of a scan all four are equal. The gradient goes to that place
    alone.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.built = True

    def call(self, inputs: Any) -> tuple[Any, Any]:
        """Map a tensor (B, H, W, C) of even sizes to maxima and uint8 places, (B, H / 2, W / 2, C) each."""
        b, height, width, channels = ops.shape(inputs)
        # The two columns of a window lie side by side in memory: slices without a step.
        rows = ops.reshape(inputs, (b, height // 2, 2, width // 2, 2 * channels))
        upper, upper_right = _larger_column(rows[:, :, 0], channels)
        lower, lower_right = _larger_column(rows[:, :, 1], channels)
        place = ops.where(lower > upper, ops.cast(lower_right, "uint8") + 2, ops.cast(upper_right, "uint8"))
        return first_maximum(upper, lower), place

    def compute_output_spec(self, inputs: Any) -> tuple[Any, Any]:
        """Describe maxima and places."""
        shape = resized(inputs.shape, lambda size: size // 2)
        if any(size is not None and size % 2 for size in inputs.shape[1:3]):
            raise ValueError(
                f"{self.name} halves planes of even height and width, found {tuple(inputs.shape[1:3])}"
            )
        return keras.KerasTensor(shape, dtype=inputs.dtype), keras.KerasTensor(shape, dtype="uint8")


@keras.saving.register_keras_serializable(package="kerasneuro")
class ArgmaxUnpooling2D(keras.layers.Layer):
    """Double a plane: each value returns to its place in the 2 x 2 window, the other three become 0."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.built = True

    def call(self, inputs: list[Any]) -> Any:
        """Map values and places from `ArgmaxPooling2D`, (B, H, W, C) each, to (B, 2H, 2W, C)."""
        values, place = inputs
        b, height, width, channels = ops.shape(values)
        spread = [ops.where(place == number, values, 0.0) for number in range(PLACES)]
        upper, lower = ops.concatenate(spread[:2], axis=-1), ops.concatenate(spread[2:], axis=-1)
        return ops.reshape(ops.stack([upper, lower], axis=2), (b, 2 * height, 2 * width, channels))

    def torch_call(self, inputs: list[Any], spare: tuple[bool, ...]) -> Any:
        """Compute without gradients in PyTorch: each place is written where it belongs."""
        import torch

        values, place = inputs
        b, height, width, channels = values.shape
        result = values.new_empty((b, height, 2, width, 2, channels))
        zero = values.new_zeros(())
        for number in range(PLACES):
            target = result[:, :, number // 2, :, number % 2]
            torch.where(place == number, values, zero, out=target)
        return result.reshape(b, 2 * height, 2 * width, channels)

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """Return the shape of the values, with doubled height and width."""
        return resized(input_shape[0], lambda size: 2 * size)


def _larger_column(row: Any, channels: int) -> tuple[Any, Any]:
    """Return the first maximum of the two columns in (B, h, w, 2 * C), and where it is the right one."""
    left, right = row[..., :channels], row[..., channels:]
    return first_maximum(left, right), right > left


def resized(shape: Shape, change: Any) -> Shape:
    """Return a shape (B, H, W, C) with `change` applied to the known ones of H and W."""
    batch, *plane, channels = shape
    return (batch, *(None if size is None else change(size) for size in plane), channels)


def plane_indices(place: Any, width: int) -> Any:
    """Turn places in windows into row-major indices of the plane that was pooled, as PyTorch gives them.

    Parameters
    ----------
    place : ndarray (B, h, w, C) of uint8
        From `ArgmaxPooling2D`.
    width : int
        Of the plane before pooling.

    Returns
    -------
    ndarray (B, h, w, C) of int64
    """
    import numpy as np

    place = np.asarray(place).astype(np.int64)
    rows = 2 * np.arange(place.shape[1])[:, None, None] + place // 2
    columns = 2 * np.arange(place.shape[2])[:, None] + place % 2
    return rows * width + columns
