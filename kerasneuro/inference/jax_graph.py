"""Run a functional graph on JAX with 3-D convolutions rewritten for the CPU.

XLA's CPU code for 3-D convolutions is slow, and for transposed ones pathological
(https://github.com/jax-ml/jax/issues/31662). Both have exact rewrites: a 3-D convolution is a sum of 2-D
convolutions, one per tap of the first axis; a transposed convolution with kernel = stride is a matrix
product and a reshape. Any other layer, or an unusual setting, runs through its own ``__call__``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kerasneuro.inference.graph import GraphPlan, Step, functional_of

Handler = Callable[[Any], Any]


class JaxGraph:
    """A traceable callable that computes a functional model on the JAX backend.

    Parameters
    ----------
    model : keras.Model
        A single-input single-output functional or Sequential model, channels-last.
    """

    def __init__(self, model: Any) -> None:
        self._plan = GraphPlan(model)
        self._handlers = {id(step): _handler(step.operation) for step in self._plan.steps}

    def __call__(self, tensor: Any) -> Any:
        """Compute ``(B, ..., C)`` JAX arrays inside a ``StatelessScope`` that holds the variables."""
        return self._plan.run(tensor, self._call)

    def _call(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = self._handlers[id(step)]
        if handler is not None and len(args) == 1 and not kwargs:
            return handler(args[0])
        return step.operation(*args, **kwargs)


def _handler(layer: Any) -> Handler | None:
    return JaxGraph(layer) if functional_of(layer) is not None else rewritten(layer)


def rewritten(layer: Any) -> Handler | None:
    """Return the quicker way to compute a layer's output for one JAX array; None where there is none.

    Parameters
    ----------
    layer : keras.Operation
        Its weights are read at each call, inside a ``StatelessScope`` those of the scope.
    """
    import keras

    kind = type(layer)
    if kind not in (keras.layers.Conv3D, keras.layers.Conv3DTranspose):
        return None
    if layer.compute_dtype != "float32" or layer.data_format != "channels_last":
        return None
    if kind is keras.layers.Conv3D:
        plain = layer.groups == 1 and set(layer.strides) == {1} and layer.padding in ("same", "valid")
        return (lambda tensor: _convolution(layer, tensor)) if plain else None
    tiles = tuple(layer.kernel_size) == tuple(layer.strides) and set(layer.dilation_rate) == {1}
    return (lambda tensor: _transposed(layer, tensor)) if tiles and layer.output_padding is None else None


def _finish(layer: Any, tensor: Any) -> Any:
    tensor = tensor + layer.bias.value if layer.use_bias else tensor
    return tensor if layer.activation is None else layer.activation(tensor)


def _value(variable: Any) -> Any:
    return getattr(variable, "value", variable)


def _convolution(layer: Any, tensor: Any) -> Any:
    """Sum the 2-D convolutions of the taps along the first spatial axis; taps on padding are left out."""
    from jax import lax
    from jax import numpy as jnp

    kernel = _value(layer.kernel)
    taps, rate = kernel.shape[0], layer.dilation_rate[0]
    batch, depth, *plane = tensor.shape
    reach = rate * (taps - 1)
    before = reach // 2 if layer.padding == "same" else 0
    extent = depth if layer.padding == "same" else depth - reach
    total: Any = None
    for tap in sorted(range(taps), key=lambda tap: abs(tap * rate - before)):
        shift = tap * rate - before
        first, last = max(0, -shift), min(extent, depth - shift)
        if first >= last:
            continue  # this tap sees nothing but padding
        part = lax.conv_general_dilated(
            lax.slice_in_dim(tensor, first + shift, last + shift, axis=1).reshape(-1, *plane),
            kernel[tap],
            (1, 1),
            layer.padding.upper(),
            rhs_dilation=layer.dilation_rate[1:],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        part = part.reshape(batch, last - first, *part.shape[1:])
        if total is None:
            total = jnp.zeros((batch, extent, *part.shape[2:]), part.dtype)
        total = total.at[:, first:last].add(part)
    return _finish(layer, total)


def _transposed(layer: Any, tensor: Any) -> Any:
    """Multiply by the kernel and lay the products of each voxel side by side."""
    from jax import numpy as jnp

    kernel = _value(layer.kernel)
    *sizes, filters, _ = kernel.shape
    batch, *shape, _ = tensor.shape
    product = jnp.einsum("bxyzi,pqroi->bxpyqzro", tensor, kernel)
    grown = [extent * size for extent, size in zip(shape, sizes, strict=True)]
    return _finish(layer, product.reshape(batch, *grown, filters))
