"""Run a functional graph on PyTorch without the layout copies of the Keras layers.

The torch backend of Keras copies each channels-last input to channels-first and back around every
convolution, adds the bias in a second pass and keeps all activations. Here the permuted view of the
channels-last tensor goes to PyTorch as it is (its memory is what PyTorch calls ``channels_last``), bias
included; a batch normalisation after a convolution goes into its kernel. Only plain Conv2D/3D, their
transposed forms, max pooling, concatenation, batch normalisation, ReLU and LeakyReLU are computed here; any
other layer, or an unusual setting of these, runs through its own ``__call__``, or through its
``torch_call(inputs, spare)`` where it has one: without gradients, and free to overwrite the inputs that are
marked as spare.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

from kerasneuro.inference.graph import GraphPlan, Step, functional_of

Handler = Callable[[Any], Any]
LARGE = 2**24


class TorchGraph:
    """A callable that computes a functional model on the torch backend.

    Parameters
    ----------
    model : keras.Model
        A single-input single-output functional or Sequential model, channels-last.
    """

    def __init__(self, model: Any) -> None:
        self._plan = GraphPlan(model)
        fresh = {key for step in self._plan.steps if _makes_new_tensor(step) for key in step.outputs}
        norms = {step.inputs[0]: step.operation for step in _folded(self._plan.steps)}
        self._handlers = {
            id(step): _keep
            if step.inputs[0] in norms
            else _handler(
                step,
                tuple(key in fresh and key in step.dying for key in step.inputs),
                norms.get(step.outputs[0]),
            )
            for step in self._plan.steps
        }

    def __call__(self, tensor: Any) -> Any:
        """Compute ``(B, ..., C)`` torch tensors; the caller disables gradients."""
        return self._plan.run(tensor, self._call)

    def _call(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = self._handlers[id(step)]
        if handler is not None:
            return handler(args[0])
        result = step.operation(*args, **kwargs)
        if getattr(result, "nbytes", LARGE) >= LARGE:
            gc.collect(1)  # a Keras layer call leaves reference cycles that hold its input tensors
        return result


def _handler(step: Step, spare: tuple[bool, ...], norm: Any) -> Handler | None:
    """Return the direct computation of a step, None where the layer's own call is to run.

    `spare` tells which inputs may be overwritten; `norm` is the normalisation that goes into a convolution.
    """
    import keras

    layer = step.operation
    if not _takes_one(step):
        return None
    if functional_of(layer) is not None:
        return TorchGraph(layer)
    if not _plain(layer):
        return None
    kind = type(layer)
    if hasattr(layer, "torch_call"):
        return lambda inputs: layer.torch_call(inputs, spare)
    if kind is keras.layers.BatchNormalization and layer.axis in (-1, len(step.node.outputs[0].shape) - 1):
        return lambda tensor: _normalised(layer, tensor)
    if kind is keras.layers.Concatenate:
        return lambda tensors: _concatenate(layer, tensors)
    if kind in (keras.layers.Conv2D, keras.layers.Conv3D):
        return _convolution(layer, norm) if layer.padding in ("same", "valid") else None
    if kind in (keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose):
        return _transposed(layer) if _tiles(layer) else None
    if kind in (keras.layers.MaxPooling2D, keras.layers.MaxPooling3D):
        return _max_pooling(layer)
    if kind in (keras.layers.Activation, keras.layers.ReLU) and _is_relu(layer):
        return _relu_in_place if all(spare) else None
    if kind is keras.layers.LeakyReLU and all(spare):
        return lambda tensor: _leaky_relu_in_place(layer, tensor)
    return None


def _takes_one(step: Step) -> bool:
    """Tell whether a layer is called with one tensor or list of tensors, and no mask or other argument."""
    arguments = step.node.arguments
    return len(arguments.args) == 1 and all(value is None for value in arguments.kwargs.values())


def _plain(layer: Any) -> bool:
    """Tell whether a layer computes in float32 on channels-last tensors."""
    dtype = getattr(layer, "compute_dtype", "float32")
    return dtype == "float32" and getattr(layer, "data_format", "channels_last") == "channels_last"


def _folded(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the batch normalisations that alone read a linear convolution."""
    import keras

    linear = {
        step.outputs[0]
        for step in steps
        if type(step.operation) in (keras.layers.Conv2D, keras.layers.Conv3D)
        and step.operation.activation in (None, keras.activations.linear)
        and step.operation.padding in ("same", "valid")
        and _plain(step.operation)
    }
    readers = Counter(key for step in steps for key in step.inputs)
    return tuple(
        step
        for step in steps
        if type(step.operation) is keras.layers.BatchNormalization
        and step.operation.axis in (-1, len(step.node.outputs[0].shape) - 1)
        and linear.issuperset(step.inputs)
        and readers[step.inputs[0]] == 1
        and set(step.inputs) <= set(step.dying)
        and _plain(step.operation)
        and _takes_one(step)
    )


def _keep(tensor: Any) -> Any:
    return tensor


def _makes_new_tensor(step: Step) -> bool:
    """Tell whether the result is surely no view of an older tensor, so that it may be overwritten."""
    import keras

    names = ("Conv2D", "Conv3D", "Conv2DTranspose", "Conv3DTranspose", "BatchNormalization", "Add")
    known = {getattr(keras.layers, name) for name in (*names, "Concatenate")}
    return type(step.operation) in known or hasattr(step.operation, "torch_call")


def _is_relu(layer: Any) -> bool:
    import keras

    if type(layer) is keras.layers.ReLU:
        return not (layer.max_value or layer.negative_slope or layer.threshold)
    return layer.activation is keras.activations.relu


def _tiles(layer: Any) -> bool:
    """Tell whether a transposed convolution writes each output voxel once: no overlap, no crop."""
    plain = layer.output_padding is None and set(layer.dilation_rate) == {1}
    return plain and tuple(layer.kernel_size) == tuple(layer.strides)


def _first(tensor: Any) -> Any:
    """View ``(B, ..., C)`` as ``(B, C, ...)`` without a copy."""
    return tensor.movedim(-1, 1)


def _finish(layer: Any, tensor: Any) -> Any:
    """View ``(B, C, ...)`` as ``(B, ..., C)`` and apply the activation of the layer."""
    import keras

    tensor = tensor.movedim(1, -1)
    activation = getattr(layer, "activation", None)
    if activation is keras.activations.relu:
        return tensor.relu_()
    return tensor if activation is None else activation(tensor)


def _kernel(layer: Any, tensor: Any, order: tuple[int, ...]) -> tuple[Any, Any]:
    """Return kernel (in PyTorch's axis order and memory format) and bias on the device of the tensor."""
    import torch

    layout = torch.channels_last_3d if tensor.ndim == 5 else torch.channels_last
    kernel = layer.kernel
    kernel = getattr(kernel, "value", kernel).to(tensor.device).permute(order)
    bias = layer.bias.value.to(tensor.device) if layer.use_bias else None
    return kernel.contiguous(memory_format=layout), bias


def _scale_and_offset(norm: Any, tensor: Any) -> tuple[Any, Any]:
    """Return factor and summand (channels,) of a batch normalisation, on the device of the tensor."""
    mean, variance = (v.value.to(tensor.device) for v in (norm.moving_mean, norm.moving_variance))
    scale = (variance + norm.epsilon).rsqrt()
    scale = scale * norm.gamma.value.to(tensor.device) if norm.scale else scale
    offset = -mean * scale
    return scale, offset + norm.beta.value.to(tensor.device) if norm.center else offset


def _normalised(layer: Any, tensor: Any) -> Any:
    import torch

    scale, offset = _scale_and_offset(layer, tensor)
    return torch.addcmul(offset, tensor, scale)


def _convolution(layer: Any, norm: Any) -> Handler:
    rank = len(layer.kernel_size)

    def apply(tensor: Any) -> Any:
        import torch

        kernel, bias = _kernel(layer, tensor, (rank + 1, rank, *range(rank)))
        if norm is not None:
            scale, offset = _scale_and_offset(norm, tensor)
            kernel = kernel * scale.reshape(-1, *(1,) * (rank + 1))
            bias = offset if bias is None else torch.addcmul(offset, bias, scale)
        tensor, padding = _pad(_first(tensor), layer, layer.dilation_rate, 0.0)
        convolve = torch.nn.functional.conv3d if rank == 3 else torch.nn.functional.conv2d
        tensor = convolve(tensor, kernel, bias, layer.strides, padding, layer.dilation_rate, layer.groups)
        return _finish(layer, tensor)

    return apply


def _transposed(layer: Any) -> Handler:
    rank = len(layer.kernel_size)

    def apply(tensor: Any) -> Any:
        import torch

        functional = torch.nn.functional
        kernel, bias = _kernel(layer, tensor, (rank + 1, rank, *range(rank)))
        convolve = functional.conv_transpose3d if rank == 3 else functional.conv_transpose2d
        return _finish(layer, convolve(_first(tensor), kernel, bias, layer.strides))

    return apply


def _max_pooling(layer: Any) -> Handler:
    rank = len(layer.pool_size)

    def apply(tensor: Any) -> Any:
        import torch

        functional = torch.nn.functional
        tensor, padding = _pad(_first(tensor), layer, (1,) * rank, float("-inf"))
        pool = functional.max_pool3d if rank == 3 else functional.max_pool2d
        return pool(tensor, layer.pool_size, layer.strides, padding).movedim(1, -1)

    return apply


def _pad(tensor: Any, layer: Any, dilation: tuple[int, ...], value: float) -> tuple[Any, tuple[int, ...]]:
    """Apply the ``same`` rule of Keras (an odd surplus goes to the end): symmetric parts stay an argument."""
    import torch

    sizes = getattr(layer, "kernel_size", None) or layer.pool_size
    if layer.padding == "valid":
        return tensor, (0,) * len(sizes)
    pairs = []
    for extent, size, stride, rate in zip(tensor.shape[2:], sizes, layer.strides, dilation, strict=True):
        total = max((-(-extent // stride) - 1) * stride + (size - 1) * rate + 1 - extent, 0)
        pairs.append((total // 2, total - total // 2))
    if all(before == after for before, after in pairs):
        return tensor, tuple(before for before, _ in pairs)
    flat = [amount for pair in reversed(pairs) for amount in pair]
    return torch.nn.functional.pad(tensor, flat, value=value), (0,) * len(sizes)


def _concatenate(layer: Any, tensors: Any) -> Any:
    import torch

    return torch.cat(tuple(tensors), dim=layer.axis)


def _relu_in_place(tensor: Any) -> Any:
    return tensor.relu_()


def _leaky_relu_in_place(layer: Any, tensor: Any) -> Any:
    import torch

    return torch.nn.functional.leaky_relu_(tensor, layer.negative_slope)
