"""Give a twin the same random weights as its Keras graph."""

from __future__ import annotations

import numpy as np
import torch
from random_weights import values
from torch import nn

KERAS_NAMES = {"weight": "kernel"}


def fill(model: nn.Module) -> None:
    """Set every parameter from the name its variable has in Keras."""
    for name, parameter in model.named_parameters():
        owner, leaf = name.rsplit(".", 1)
        path = f"{owner.replace('.', '_')}/{KERAS_NAMES.get(leaf, leaf)}"
        array = from_keras(path, model.get_submodule(owner), tuple(parameter.shape))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def from_keras(path: str, owner: nn.Module, shape: tuple[int, ...]) -> np.ndarray:
    """Return the values of one variable in PyTorch's layout."""
    if len(shape) != 5:
        return values(path, shape)
    first, second, *kernel = shape
    if isinstance(owner, nn.ConvTranspose3d) and owner.stride == (1, 1, 1):
        # Keras has an ordinary convolution here: the kernel mirrored, (k, k, k, in, out).
        array = values(path, (*kernel, first, second)).transpose(3, 4, 0, 1, 2)
        return array[:, :, ::-1, ::-1, ::-1]
    return values(path, (*kernel, second, first)).transpose(4, 3, 0, 1, 2)
