"""Count the floating-point operations of the published networks, from their tables, not from our graphs.

Only convolutions count; a multiplication and an addition are two operations.
"""

from __future__ import annotations

import math
from itertools import pairwise


def convolution(edge: int, kernel: int, inputs: int, outputs: int) -> int:
    """Return the operations of a cubic convolution whose *output* has `edge` voxels per axis."""
    return 2 * edge**3 * kernel**3 * inputs * outputs


def transposed(edge: int, kernel: int, inputs: int, outputs: int) -> int:
    """Return the operations of a transposed convolution whose *input* has `edge` voxels per axis."""
    return convolution(edge, kernel, inputs, outputs)


def residual_block(edge: int, inputs: int, outputs: int) -> int:
    """Two 3x3x3 convolutions, and a pointwise one where the width changes (deepbet)."""
    total = convolution(edge, 3, inputs, outputs) + convolution(edge, 3, outputs, outputs)
    return total + (convolution(edge, 1, inputs, outputs) if inputs != outputs else 0)


def up_block(edge: int, inputs: int, outputs: int, stride: int) -> int:
    """Pointwise, transposed 3x3x3, pointwise (deepbet)."""
    hidden = inputs // 4
    total = convolution(edge, 1, inputs, hidden) + transposed(edge, 3, hidden, hidden)
    return total + convolution(edge * stride, 1, hidden, outputs)


def deepbet_network(edge: int) -> int:
    """Operations of one deepbet network for a cube of `edge` voxels per axis."""
    total = convolution(edge // 2, 7, 1, 16)
    widths = (16, 16, 32, 64, 128)
    for level, (inputs, outputs) in enumerate(pairwise(widths)):
        size = edge // 4 >> level
        total += residual_block(size, inputs, outputs) + residual_block(size, outputs, outputs)
    for divisor, inputs, outputs, stride in (
        (32, 128, 64, 2),
        (16, 64, 32, 2),
        (8, 32, 16, 2),
        (4, 16, 16, 1),
    ):
        total += up_block(edge // divisor, inputs, outputs, stride)
    total += transposed(edge // 4, 3, 16, 8) + convolution(edge // 2, 3, 8, 8)
    return total + transposed(edge // 2, 2, 8, 2)


def deepbet_case() -> int:
    """Operations of a whole deepbet run: 128 cubed, then 256 cubed."""
    return deepbet_network(128) + deepbet_network(256)


def nobrainer_network(edge: int) -> int:
    """Operations of nobrainer's U-Net for a block of `edge` voxels per axis."""
    down = ((1, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128, 256))
    total = 0
    for level, (inputs, middle, outputs) in enumerate(down):
        size = edge >> level
        total += convolution(size, 3, inputs, middle) + convolution(size, 3, middle, outputs)
    for level, (below, skip) in enumerate(((256, 128), (128, 64), (64, 32))):
        size = edge >> (2 - level)
        total += transposed(size // 2, 2, below, below)
        total += convolution(size, 3, below + skip, skip) + convolution(size, 3, skip, skip)
    return total + convolution(edge, 1, 32, 1)


def nobrainer_case(edge: int, block: int) -> int:
    """Operations of a whole volume of `edge` voxels per axis, block by block."""
    return (edge // block) ** 3 * nobrainer_network(block)


def kwyk_network(edge: int, classes: int = 50) -> int:
    """Operations of kwyk's MeshNet for a block of `edge` voxels per axis."""
    total = convolution(edge, 3, 1, 96) + 6 * convolution(edge, 3, 96, 96)
    return total + convolution(edge, 1, 96, classes)


def fastsurfer_network(edge: int, classes: int = 79) -> int:
    """Operations of one FastSurferCNN network for a slice of `edge` pixels per axis."""

    def block(size: int, inputs: int) -> int:
        return 2 * size**2 * 64 * (25 * inputs + 25 * 64 + 64)

    total = block(edge, 7) + block(edge >> 4, 64)
    total += sum(block(edge >> level, 64) for level in (1, 2, 3))
    total += sum(block(edge >> level, 64) for level in (3, 2, 1, 0))
    return total + 2 * edge**2 * 64 * classes


def fcd_network(edge: int) -> int:
    """Operations of the FCD classifier for a volume of `edge` voxels per axis (means and norms left out)."""
    blocks = (
        (16, 3, 2, 1), (24, 3, 2, 4), (24, 3, 1, 3), (40, 5, 2, 3), (40, 5, 1, 3), (48, 5, 1, 3),
        (96, 5, 2, 6), (96, 5, 1, 6),
    )  # fmt: skip
    size, inputs = edge // 2, 16
    total = convolution(size, 3, 2, 16)
    for outputs, kernel, stride, expansion in blocks:
        wide = inputs * expansion
        total += convolution(size, 1, inputs, wide) if expansion > 1 else 0
        size //= stride
        total += convolution(size, kernel, 1, wide) + convolution(size, 1, wide, outputs)
        inputs = outputs
    total += 3 * 2 * size**3 * 3 * 96 + convolution(size, 1, 288, 96) + convolution(size, 1, 96, 576)
    return total + 2 * (576 * 256 + 256 * 2)


def hsf_crop(edge: int) -> tuple[int, int, int]:
    """Return the shape of a crop around a hippocampus, a multiple of 8; 56 gives 40 x 56 x 56."""
    return (max(8, edge * 5 // 7 // 8 * 8), edge, edge)


def hsf_network(edge: int) -> int:
    """Operations of one network of HSF (generation 4) for a crop."""
    filters = (64, 128, 256, 512)
    voxels = math.prod(hsf_crop(edge))
    total = voxels * filters[0] * 6  # the last, pointwise convolution
    for level, width in enumerate(filters):
        size, before = voxels >> 3 * level, filters[level - 1] if level else 1
        total += size * 27 * (before * width + 2 * width * width)
        if level:
            total += size * 27 * (before * before + before * width)  # from and to the finer level
        if level < len(filters) - 1:
            gate = 2 * width * (width // 2) + width // 2
            total += size * (27 * 3 * width * width + gate)
    return 2 * total
