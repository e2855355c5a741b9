"""The deterministic MeshNet of kwyk ("bwn", 50 classes) in plain PyTorch, returning probabilities.

Source: neuronets/kwyk@4dd379c, nobrainer/models/meshnetbwn.py; P. McClure et al. (2019),
doi:10.3389/fninf.2019.00067.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

DILATIONS = (1, 1, 1, 2, 4, 8, 1)
FILTERS, CLASSES = 96, 50


class WeightNorm(nn.Module):
    """A convolution whose kernel is g * v / ||v||, normalised in each call as the published graph does."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel, kernel))
        self.g = nn.Parameter(torch.empty(outputs, 1, 1, 1, 1))
        self.bias_m = nn.Parameter(torch.empty(outputs))
        self.dilation = dilation
        self.padding = dilation * (kernel // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve with equal padding."""
        kernel = self.g * functional.normalize(self.v.flatten(1), eps=1e-6).view_as(self.v)
        return functional.conv3d(x, kernel, self.bias_m, padding=self.padding, dilation=self.dilation)


class MeshNet(nn.Module):
    """Seven dilated convolutions with ReLU, then a pointwise one and softmax."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, *(FILTERS for _ in DILATIONS))
        for index, dilation in enumerate(DILATIONS):
            layer = WeightNorm(widths[index], FILTERS, 3, dilation)
            self.add_module(f"layer_{index + 1}_conv3d", layer)
        self.logits_conv3d = WeightNorm(FILTERS, CLASSES, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, 1, X, Y, Z) to probabilities (B, 50, X, Y, Z)."""
        for index in range(len(DILATIONS)):
            x = torch.relu_(self.get_submodule(f"layer_{index + 1}_conv3d")(x))
        return torch.softmax(self.logits_conv3d(x), 1)


def build() -> nn.Module:
    """Return the published size."""
    return MeshNet()
