"""The FCD classifier (two channels, two classes) in plain PyTorch, returning logits.

Source: model card "MobileNetV3-Small-3D-FCD"; A. Howard et al., arXiv:1905.02244.
"""

from __future__ import annotations

import torch
from torch import nn

# channels, kernel, stride, expansion, squeeze-excite, hard swish
BLOCKS = (
    (16, 3, 2, 1, True, False),
    (24, 3, 2, 4, False, False),
    (24, 3, 1, 3, False, False),
    (40, 5, 2, 3, True, True),
    (40, 5, 1, 3, True, True),
    (48, 5, 1, 3, True, True),
    (96, 5, 2, 6, True, True),
    (96, 5, 1, 6, True, True),
)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv3d:
    """Convolution without bias, padded equally."""
    return nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)


class SqueezeExcite(nn.Module):
    """Channel weights from channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(channels, inner, 1),
            nn.ReLU(),
            nn.Conv3d(inner, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply by the weights."""
        return x * self.se(x)


class Block(nn.Module):
    """Inverted residual block."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, squeeze: bool, swish: bool
    ) -> None:
        super().__init__()
        wide = inputs * expansion
        act = nn.Hardswish if swish else nn.ReLU
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(nn.Sequential(convolution(inputs, wide, 1), nn.BatchNorm3d(wide), act()))
        layers += [convolution(wide, wide, kernel, stride, wide), nn.BatchNorm3d(wide), act()]
        if squeeze:
            layers.append(SqueezeExcite(wide))
        layers += [convolution(wide, outputs, 1), nn.BatchNorm3d(outputs)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Widen, convolve, weigh, narrow; add the input where the shape allows it."""
        result: torch.Tensor = self.conv(x)
        return x + result if self.residual else result


class Fusion(nn.Module):
    """One convolution along each axis, mixed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for index, view in enumerate(("axial", "coronal", "sagittal")):
            kernel, padding = [1, 1, 1], [0, 0, 0]
            kernel[index], padding[index] = 3, 1
            self.add_module(
                view, nn.Conv3d(channels, channels, tuple(kernel), padding=tuple(padding), groups=channels)
            )
        self.fusion = nn.Conv3d(3 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mixture of the three views."""
        views = torch.cat([self.axial(x), self.coronal(x), self.sagittal(x)], dim=1)
        result: torch.Tensor = self.fusion(views)
        return result


class FcdNetwork(nn.Module):
    """MobileNetV3-Small in three dimensions with a fusion of views."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(2, 16, 3, 2), nn.BatchNorm3d(16), nn.Hardswish())
        widths = (16, *(block[0] for block in BLOCKS))
        self.blocks = nn.Sequential(
            *(Block(inputs, *block) for inputs, block in zip(widths[:-1], BLOCKS, strict=True))
        )
        self.fusion = Fusion(96)
        self.conv_head = nn.Sequential(convolution(96, 576, 1), nn.BatchNorm3d(576), nn.Hardswish())
        self.classifier = nn.Sequential(
            nn.Linear(576, 256), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(256, 2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, 2, X, Y, Z) to logits (B, 2)."""
        x = self.conv_head(self.fusion(self.blocks(self.stem(x))))
        logits: torch.Tensor = self.classifier(x.mean(dim=(2, 3, 4)))
        return logits


def build() -> nn.Module:
    """Return the published size."""
    return FcdNetwork()
