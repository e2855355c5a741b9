"""Activations of networks made for PyTorch, with PyTorch's gradients where two pieces meet."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Shape = tuple[int | None, ...]


def first_maximum(first: Any, second: Any) -> Any:
    """Take the larger of two tensors; the gradient of a tie goes to the first one alone.

    JAX and PyTorch share the gradient of ``maximum`` between equal operands; TensorFlow gives it to the
    first.

    Parameters
    ----------
    first, second : tensor
        Of one shape.

    Returns
    -------
    tensor
        Of that shape.
    """
    if keras.backend.backend() == "jax" or _torch_records_gradients():
        return ops.where(second > first, second, first)
    return ops.maximum(first, second)


def _torch_records_gradients() -> bool:
    if keras.backend.backend() != "torch":
        return False
    import torch

    return torch.is_grad_enabled()


@keras.saving.register_keras_serializable(package="kerasneuro")
class Maxout(keras.layers.Layer):
    """Take the larger of two tensors, element by element (I. Goodfellow et al., arXiv:1302.4389).

    The gradient of a tie goes to the first operand.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.built = True

    def call(self, inputs: list[Any]) -> Any:
        """Map two tensors of one shape to their maximum."""
        first, second = inputs
        return first_maximum(first, second)

    def torch_call(self, inputs: list[Any], spare: tuple[bool, ...]) -> Any:
        """Compute without gradients in PyTorch, into an input that is not read again where there is one."""
        import torch

        unread = [tensor for tensor, free in zip(inputs, spare, strict=False) if free]
        return torch.maximum(*inputs, out=unread[0] if unread else None)

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """Return the shape of the first tensor."""
        return tuple(input_shape[0])


@keras.saving.register_keras_serializable(package="kerasneuro")
class ScalarPReLU(keras.layers.Layer):
    """Multiply what is not positive by one learned factor (K. He et al., arXiv:1502.01852).

    The factor may be any number, also negative or above 1. The derivative at 0 is the factor, as in PyTorch;
    that of `keras.layers.PReLU` is 0.

    Parameters
    ----------
    initial : float
        Factor before training.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    def __init__(self, initial: float = 0.25, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, input_shape: Shape) -> None:
        """Create the factor, shape (1,)."""
        start = keras.initializers.Constant(self.initial)
        self.alpha = self.add_weight(name="alpha", shape=(1,), initializer=start)

    def call(self, inputs: Any) -> Any:
        """Map a tensor of any shape to x where x > 0, alpha * x elsewhere."""
        return ops.where(inputs > 0, inputs, self.alpha * inputs)

    def torch_call(self, inputs: Any, spare: tuple[bool, ...]) -> Any:
        """Compute without gradients in PyTorch, into the input where it is not read again."""
        import torch

        factor = float(self.alpha.value)
        return torch.nn.functional.leaky_relu(inputs, factor, inplace=all(spare))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "initial": self.initial}
