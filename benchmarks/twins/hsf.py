"""HSF's network (generation 4, full width) in plain PyTorch, with the module names of the original.

Source: C. Poiret et al., Frontiers in Neuroinformatics 17 (2023) 1130845, doi:10.3389/fninf.2023.1130845;
normalisation: P. Luo et al., arXiv:1806.10779.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

FILTERS = (64, 128, 256, 512)
CLASSES = 6


class SwitchNorm3d(nn.Module):
    """A learned mixture of the statistics of a channel and of the sample."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1, 1))
        self.mean_weight = nn.Parameter(torch.ones(2))
        self.var_weight = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise, in the steps of the original."""
        shape = x.size()
        x = x.view(shape[0], shape[1], -1)
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True)
        of_all = mean.mean(1, keepdim=True)
        variance_of_all = (variance + mean**2).mean(1, keepdim=True) - of_all**2
        means, variances = self.mean_weight.softmax(0), self.var_weight.softmax(0)
        shift = means[0] * mean + means[1] * of_all
        spread = variances[0] * variance + variances[1] * variance_of_all
        return ((x - shift) / (spread + 1e-5).sqrt()).view(shape) * self.weight + self.bias


class Unit(nn.Sequential):
    """Convolution, activation, normalisation."""

    def __init__(self, inputs: int, outputs: int, *, active: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.GELU = nn.GELU() if active else nn.Identity()
        self.SwitchNorm3d = SwitchNorm3d(outputs)


class Residual(nn.Module):
    """Three convolutions, and the first added to the last."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = Unit(inputs, outputs)
        self.conv2 = Unit(outputs, outputs)
        self.conv3 = Unit(outputs, outputs, active=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute one level."""
        first = self.conv1(x)
        return nn.functional.gelu(self.conv3(self.conv2(first)) + first)


class Encoder(nn.Module):
    """One level on the way down."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool) -> None:
        super().__init__()
        self.pooling = nn.Conv3d(inputs, inputs, 3, 2, 1, bias=False) if halve else nn.Identity()
        self.basic_module = Residual(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halve the grid, then compute."""
        result: torch.Tensor = self.basic_module(self.pooling(x))
        return result


def pointwise(inputs: int, outputs: int) -> nn.Sequential:
    """Mix channels, then normalise."""
    return nn.Sequential(nn.Conv3d(inputs, outputs, 1), SwitchNorm3d(outputs))


class Gate(nn.Module):
    """Weights of the skip connection's voxels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W_g, self.W_x = pointwise(channels, channels // 2), pointwise(channels, channels // 2)
        self.psi = pointwise(channels // 2, 1)

    def forward(self, signal: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Weigh the skip connection."""
        return skip * self.psi(nn.functional.gelu(self.W_g(signal) + self.W_x(skip))).sigmoid()


class Doubling(nn.Module):
    """Transposed convolution to the size of the skip connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose3d(inputs, outputs, 3, 2, 1)

    def forward(self, x: torch.Tensor, size: Any) -> torch.Tensor:
        """Double the grid."""
        return self.upsample(x, size)


class Decoder(nn.Module):
    """One level on the way up."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.upsampling = Doubling(inputs, outputs)
        self.attention = Gate(outputs)
        self.basic_module = Residual(outputs, outputs)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Double the grid and add the weighed skip connection."""
        x = self.upsampling(x, skip.size()[2:])
        result: torch.Tensor = self.basic_module(self.attention(x, skip) + x)
        return result


class Network(nn.Module):
    """The whole network."""

    def __init__(self) -> None:
        super().__init__()
        pairs = zip((1, *FILTERS[:-1]), FILTERS, strict=True)
        self.encoders = nn.ModuleList(Encoder(i, o, halve=i > 1) for i, o in pairs)
        back = FILTERS[::-1]
        self.decoders = nn.ModuleList(Decoder(i, o) for i, o in pairwise(back))
        self.final_conv = nn.Conv3d(FILTERS[0], CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return probabilities."""
        skips = []
        for encoder in self.encoders:
            x = encoder(x)
            skips.append(x)
        for decoder, skip in zip(self.decoders, skips[-2::-1], strict=True):
            x = decoder(x, skip)
        return self.final_conv(x).softmax(1)


def build() -> nn.Module:
    """Return the network."""
    return Network()
