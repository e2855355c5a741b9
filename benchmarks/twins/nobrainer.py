"""The U-Net of nobrainer in plain PyTorch, one class, returning probabilities.

Source: neuronets/nobrainer@976691d, nobrainer/models/unet.py; O. Cicek et al. (2016),
doi:10.1007/978-3-319-46723-8_49.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

# Channels (in, out) of the 3 x 3 x 3 convolutions in order: encoder, bottom, decoder.
CONVOLUTIONS = (
    *((1, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256)),
    *((384, 128), (128, 128), (192, 64), (64, 64), (96, 32), (32, 32)),
)
TRANSPOSED = (256, 128, 64)
LEVELS = 3


def numbered(name: str, index: int) -> str:
    """Return the name of the layer: the first one has no number."""
    return f"{name}_{index}" if index else name


class UNet(nn.Module):
    """Three poolings; skip connections are joined in front of the upsampled channels."""

    def __init__(self) -> None:
        super().__init__()
        for index, (inputs, outputs) in enumerate(CONVOLUTIONS):
            self.add_module(numbered("conv3d", index), nn.Conv3d(inputs, outputs, 3, padding=1))
        for index, width in enumerate(TRANSPOSED):
            self.add_module(numbered("conv3d_transpose", index), nn.ConvTranspose3d(width, width, 2, 2))
        self.add_module(numbered("conv3d", len(CONVOLUTIONS)), nn.Conv3d(32, 1, 1))

    def convolve_twice(self, x: torch.Tensor, first: int) -> torch.Tensor:
        """Apply two convolutions, each with ReLU."""
        for index in (first, first + 1):
            x = torch.relu_(self.get_submodule(numbered("conv3d", index))(x))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, 1, X, Y, Z) to probabilities of the same shape."""
        skips = []
        for level in range(LEVELS):
            x = self.convolve_twice(x, 2 * level)
            skips.append(x)
            x = functional.max_pool3d(x, 2)
        x = self.convolve_twice(x, 2 * LEVELS)
        for index in range(LEVELS):
            x = self.get_submodule(numbered("conv3d_transpose", index))(x)
            x = self.convolve_twice(torch.cat([skips.pop(), x], 1), 2 * (LEVELS + 1 + index))
        return torch.sigmoid(self.get_submodule(numbered("conv3d", len(CONVOLUTIONS)))(x))


def build() -> nn.Module:
    """Return the published size."""
    return UNet()
