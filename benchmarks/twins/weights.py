"""Give a twin the same random weights as its Keras graph."""

from __future__ import annotations

import numpy as np
import torch
from random_weights import values
from torch import nn

from twins.hsf import SwitchNorm3d

KERAS_NAMES = {"weight": "kernel"}
KERAS_NAMES_OF_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def fill(model: nn.Module) -> None:
    """Set every parameter, and the statistics of normalisations, from the name its variable has in Keras."""
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith("num_batches_tracked"):
            continue
        owner, leaf = name.rsplit(".", 1)
        module = model.get_submodule(owner)
        array = from_keras(keras_path(owner, module, leaf), module, tuple(parameter.shape))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def keras_path(owner: str, module: nn.Module, leaf: str) -> str:
    """Name the variable of the Keras graph; squeeze-and-excite is one layer there."""
    layer, name = owner.replace(".", "_"), keras_name(module, leaf)
    for ending, word in (("_se_1", "squeeze"), ("_se_3", "excite")):
        if layer.endswith(ending):
            return f"{layer.removesuffix(ending)}/{word}_{name}"
    return f"{layer}/{name}"


def keras_name(owner: nn.Module, leaf: str) -> str:
    """Name one array of a module as its Keras layer does."""
    if isinstance(owner, nn.BatchNorm2d | nn.BatchNorm3d):
        return KERAS_NAMES_OF_NORM[leaf]
    if isinstance(owner, SwitchNorm3d):
        return KERAS_NAMES_OF_NORM.get(leaf, leaf)
    return "alpha" if isinstance(owner, nn.PReLU) else KERAS_NAMES.get(leaf, leaf)


def from_keras(path: str, owner: nn.Module, shape: tuple[int, ...]) -> np.ndarray:
    """Return the values of one variable in PyTorch's layout."""
    if path.endswith(("/squeeze_kernel", "/excite_kernel")) or (
        isinstance(owner, nn.Linear) and len(shape) == 2
    ):
        return values(path, shape[1::-1]).T.reshape(shape)
    if len(shape) < 4:
        return values(path, shape)
    if isinstance(owner, SwitchNorm3d):
        return values(path, shape[1:2]).reshape(shape)
    first, second, *kernel = shape
    if isinstance(owner, nn.ConvTranspose3d) and owner.stride == (1, 1, 1):
        # Keras has an ordinary convolution here: the kernel mirrored, (k, k, k, in, out).
        array = values(path, (*kernel, first, second)).transpose(3, 4, 0, 1, 2)
        return array[:, :, ::-1, ::-1, ::-1]
    return np.moveaxis(values(path, (*kernel, second, first)), (-1, -2), (0, 1))
