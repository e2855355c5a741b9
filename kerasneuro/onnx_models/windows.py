"""Padding and output sizes of convolutions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kerasneuro.errors import UnsupportedGraph
from kerasneuro.onnx_models.operators.shaping import padded
from kerasneuro.onnx_models.symbols import combine
from kerasneuro.onnx_models.values import Tensor, channels_last
from kerasneuro.onnx_models.walker import Walker
from kerasneuro.weights.onnx_graph import OnnxNode

Pair = tuple[Any, Any]
MOST_SPATIAL = 3
PADDING = (keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D, keras.layers.ZeroPadding3D)
CROPPING = (keras.layers.Cropping1D, keras.layers.Cropping2D, keras.layers.Cropping3D)
AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Window:
    """A kernel or a pooling window over the spatial axes.

    Attributes
    ----------
    shape, strides, dilations : list of int
    pads : list of (int or Size, int or Size)
        Before and after each axis, as stated; see `padding`.
    auto : str
        The attribute ``auto_pad``.
    """

    shape: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[Pair]
    auto: str

    @property
    def reach(self) -> list[int]:
        """Length of each axis of the dilated window."""
        return [(size - 1) * step + 1 for size, step in zip(self.shape, self.dilations, strict=True)]

    @property
    def dilated(self) -> bool:
        """Say whether any axis is dilated."""
        return any(step != 1 for step in self.dilations)


def window_of(node: OnnxNode, value: Tensor, kernel: Sequence[int] | None = None) -> Window:
    """Read the window of a node that slides over an image.

    Raises
    ------
    UnsupportedGraph
        If its parts do not fit the image.
    """
    spatial = value.rank - 2
    if not 1 <= spatial <= MOST_SPATIAL:
        raise UnsupportedGraph(f"its input has {value.rank} axes, expected 3 to 5")
    shape = [int(size) for size in node.attributes.get("kernel_shape") or kernel or ()]
    strides, dilations = (
        [int(step) for step in node.attributes.get(name) or [1] * spatial]
        for name in ("strides", "dilations")
    )
    flat = [int(size) for size in node.attributes.get("pads") or [0] * (2 * spatial)]
    auto = str(node.attributes.get("auto_pad", "NOTSET")) or "NOTSET"
    lengths = {len(shape), len(strides), len(dilations), len(flat) // 2}
    if lengths != {spatial} or auto not in AUTO_PADS or min(*shape, *strides, *dilations) < 1:
        raise UnsupportedGraph(f"its window does not fit an image of {spatial} axes")
    if auto != "NOTSET":
        flat = [0] * (2 * spatial)
    return Window(shape, strides, dilations, [*zip(flat[:spatial], flat[spatial:], strict=True)], auto)


def padding(window: Window, value: Tensor) -> list[Pair]:
    """Return what to pad before and after each axis; "SAME" depends on its size."""
    if not window.auto.startswith("SAME"):
        return window.pads
    pairs = []
    for size, step, reach in zip(value.dims[2:], window.strides, window.reach, strict=True):
        steps = (size + (step - 1)) // step if step != 1 else size
        total = combine("max", (steps - 1) * step + reach - size, 0) if step != 1 else reach - 1
        small = total // 2
        pairs.append((small, total - small) if window.auto == "SAME_UPPER" else (total - small, small))
    return pairs


def is_same(window: Window, pairs: Sequence[Pair]) -> bool:
    """Say whether the layers of Keras pad alike when told to keep the size."""
    if window.auto == "SAME_UPPER":
        return True
    if any(step != 1 for step in window.strides):
        return False
    return all(
        pair == ((reach - 1) // 2, reach // 2) for pair, reach in zip(pairs, window.reach, strict=True)
    )


def ceiled(window: Window, value: Tensor, pairs: Sequence[Pair]) -> list[Any]:
    """Return the rows after the padding that the last windows need when sizes are rounded up.

    A window that would begin after the last row of the image, or of the padding before it, is left out.
    """
    ends = []
    for size, step, reach, (before, after) in zip(
        value.dims[2:], window.strides, window.reach, pairs, strict=True
    ):
        total = size + before + after
        count = combine("min", (total - reach + (step - 1)) // step + 1, (size + before - 1) // step + 1)
        ends.append(combine("max", (count - 1) * step + reach - total, 0))
    return ends


def pad_image(walk: Walker, value: Tensor, pairs: Sequence[Pair], fill: float = 0.0) -> Tensor:
    """Pad the spatial axes of an image; by the layer of Keras where it can."""
    if all(pair == (0, 0) for pair in pairs):
        return value
    whole = all(isinstance(size, int) for pair in pairs for size in pair)
    signs = {size > 0 for pair in pairs for size in pair if size} if whole else set()
    if fill or len(signs) != 1:
        image = walk.tensor(walk.image(value), channels_last(value.rank), value.dims, channel=value.channel)
        return padded(walk, image, [(0, 0), (0, 0), *pairs], fill=fill)
    kinds, suffix = (PADDING, "_pad") if True in signs else (CROPPING, "_crop")
    sizes = [(abs(before), abs(after)) for before, after in pairs]
    layer = kinds[len(pairs) - 1](sizes[0] if len(sizes) == 1 else tuple(sizes), name=walk.name(suffix))
    stored = walk.layer(layer, walk.image(value))
    dims = [*value.dims[:2]]
    dims += [size + pair[0] + pair[1] for size, pair in zip(value.dims[2:], pairs, strict=True)]
    return walk.tensor(stored, channels_last(value.rank), dims)
