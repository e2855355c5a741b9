"""The network of FastSurferCNN for one plane (79 classes) in plain PyTorch, returning logits.

Source: Deep-MI/FastSurfer@070647d; L. Henschel et al. (2020), doi:10.1016/j.neuroimage.2020.117012.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

FILTERS, CLASSES, KERNEL, SLICES = 64, 79, 5, 7
LEVELS = 4


class Block(nn.Module):
    """Three convolutions; what came before competes with the result of the first two."""

    def __init__(self, inputs: int, *, first: bool = False) -> None:
        super().__init__()
        self.first = first
        if first:
            self.bn0 = nn.BatchNorm2d(inputs)
        self.conv0 = nn.Conv2d(inputs, FILTERS, KERNEL, padding=KERNEL // 2)
        self.conv1 = nn.Conv2d(FILTERS, FILTERS, KERNEL, padding=KERNEL // 2)
        self.conv2 = nn.Conv2d(FILTERS, FILTERS, 1)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(FILTERS) for _ in range(3))
        self.prelu = nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised, not activated, result of the pointwise convolution."""
        if self.first:
            x = self.bn1(self.conv0(self.bn0(x)))
        else:
            x = torch.maximum(self.bn1(self.conv0(self.prelu(x))), x)
        x = torch.maximum(self.bn2(self.conv1(self.prelu(x))), x)
        return self.bn3(self.conv2(self.prelu(x)))


class FastSurferCNN(nn.Module):
    """U-Net whose skip connections compete, with unpooling to the place of each maximum."""

    def __init__(self) -> None:
        super().__init__()
        for level in range(1, LEVELS + 1):
            inputs = SLICES if level == 1 else FILTERS
            self.add_module(f"encode{level}", Block(inputs, first=level == 1))
            self.add_module(f"decode{level}", Block(FILTERS))
        self.bottleneck = Block(FILTERS)
        self.classifier = nn.ModuleDict({"conv": nn.Conv2d(FILTERS, CLASSES, 1)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, 7, H, W) to logits (B, 79, H, W)."""
        skips = []
        for level in range(1, LEVELS + 1):
            skip = self.get_submodule(f"encode{level}")(x)
            x, places = functional.max_pool2d(skip, 2, return_indices=True)
            skips.append((skip, places))
        x = self.bottleneck(x)
        for level in range(LEVELS, 0, -1):
            skip, places = skips.pop()
            x = torch.maximum(functional.max_unpool2d(x, places, 2), skip)
            x = self.get_submodule(f"decode{level}")(x)
        logits: torch.Tensor = self.classifier["conv"](x)
        return logits


def build() -> nn.Module:
    """Return the published size."""
    return FastSurferCNN()
