"""The network of deepbet in plain PyTorch, returning logits.

Source: wwu-mmll/deepbet@9ad3f99; L. Fisch et al. (2024), doi:10.1016/j.compbiomed.2024.108845.
"""

from __future__ import annotations

import torch
from torch import nn

WIDTHS = (16, 32, 64, 128)


def normalise(channels: int, *, activate: bool = True) -> list[nn.Module]:
    """Instance normalisation without parameters, then ReLU."""
    return [nn.InstanceNorm3d(channels), *([nn.ReLU(inplace=True)] if activate else [])]


class Block(nn.Module):
    """Two 3 x 3 x 3 convolutions beside the identity, or a strided pointwise one."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False),
            *normalise(outputs),
            nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False),
            *normalise(outputs, activate=False),
        )
        changes = stride != 1 or inputs != outputs
        self.downsample = (
            nn.Sequential(
                nn.Conv3d(inputs, outputs, 1, stride, bias=False), *normalise(outputs, activate=False)
            )
            if changes
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ReLU(convolutions + skip)."""
        return torch.relu_(self.double_conv(x) + self.downsample(x))


class Down(nn.Module):
    """Two blocks, the first of which may halve the grid."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.block1 = Block(inputs, outputs, stride)
        self.block2 = Block(outputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply both."""
        return self.block2(self.block1(x))


class Up(nn.Module):
    """Pointwise to a quarter, transposed 3 x 3 x 3, pointwise."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = inputs // 4
        transposed = nn.ConvTranspose3d(hidden, hidden, 3, stride, 1, stride - 1, bias=False)
        self.conv1 = nn.Sequential(nn.Conv3d(inputs, hidden, 1, bias=False), *normalise(hidden))
        self.tp_conv = nn.Sequential(transposed, *normalise(hidden))
        self.conv2 = nn.Sequential(nn.Conv3d(hidden, outputs, 1, bias=False), *normalise(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the three."""
        return self.conv2(self.tp_conv(self.conv1(x)))


class Deepbet(nn.Module):
    """Residual encoder, LinkNet decoder with summed skips."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Conv3d(1, WIDTHS[0], 7, 2, 3, bias=False)
        self.init = nn.Sequential(first, *normalise(WIDTHS[0]), nn.MaxPool3d(3, 2, 1))
        self.down0, self.down1 = Down(16, 16, 1), Down(16, 32, 2)
        self.down2, self.down3 = Down(32, 64, 2), Down(64, 128, 2)
        self.up0, self.up1 = Up(128, 64, 2), Up(64, 32, 2)
        self.up2, self.up3 = Up(32, 16, 2), Up(16, 16, 1)
        self.tp_conv1 = nn.Sequential(nn.ConvTranspose3d(16, 8, 3, 2, 1, 1), *normalise(8))
        self.conv = nn.Sequential(nn.Conv3d(8, 8, 3, 1, 1), *normalise(8))
        self.tp_conv2 = nn.ConvTranspose3d(8, 2, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, 1, X, Y, Z) to logits (B, 2, X, Y, Z)."""
        start = self.init(x)
        level0 = self.down0(start)
        level1 = self.down1(level0)
        level2 = self.down2(level1)
        x = self.up0(self.down3(level2)) + level2
        x = self.up1(x) + level1
        x = self.up2(x) + level0
        x = self.up3(x) + start
        return self.tp_conv2(self.conv(self.tp_conv1(x)))


def build() -> nn.Module:
    """Return the published size."""
    return Deepbet()
