"""Fit a model and an array together: axes, channels, block shape, slices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.inference.grid import per_axis
from kerasneuro.inference.memory import network_multiple, output_shape

DEFAULT_BLOCK = 128


@dataclass(frozen=True)
class Problem:
    """A model and a volume that fit.

    Attributes
    ----------
    model : keras.Model
        One input, one output.
    volume : ndarray
        ``(X, Y[, Z], C)``, a view of what the user gave.
    block : tuple of int
        Voxels per axis of the volume.
    multiple : tuple of int
        The block is a multiple of this, per axis of the volume.
    fixed : bool
        The model takes no other block.
    slice_axis : int or None
        Axis of the volume that a 2-D network does not see.
    """

    model: Any
    volume: np.ndarray
    block: tuple[int, ...]
    multiple: tuple[int, ...]
    fixed: bool
    slice_axis: int | None

    @property
    def clip_multiple(self) -> tuple[int, ...] | None:
        """What a block is rounded to when it is cut to a small volume; None where it may not be cut."""
        return None if self.fixed else self.multiple

    def network_shape(self, block: Sequence[int]) -> tuple[int, ...]:
        """Return a block as the network sees it."""
        return tuple(extent for axis, extent in enumerate(block) if axis != self.slice_axis)

    def volume_bytes(self, output: str, uncertainty: bool) -> int:
        """Return the bytes of the arrays of the whole volume that the prediction adds."""
        voxels = math.prod(self.volume.shape[:-1])
        per_voxel = 1 if output == "label" else 4 * _channels(self.model)
        return voxels * (per_voxel + 8 * uncertainty)

    def check_output(self, block: Sequence[int]) -> int:
        """Return the number of classes; the output must have the spatial shape of the block.

        Raises
        ------
        InvalidOption
            If the network does not give back the shape of the block.
        """
        wanted = self.network_shape(block)
        try:
            found = output_shape(self.model, wanted)
        except ValueError as error:
            raise InvalidOption(
                f"The layers of this network do not fit together for blocks of {wanted}; a multiple of "
                f"{self.multiple} should."
            ) from error
        if found is None:
            return _channels(self.model)
        if found[:-1] != wanted:
            raise InvalidOption(
                f"predict_blocks needs a network whose output has the shape of its block {wanted}; "
                f"this one gives {found[:-1]}; blocks must be a multiple of {self.multiple}."
            )
        return int(found[-1])

    def compute(
        self, engine: Callable[[np.ndarray], np.ndarray], batch: np.ndarray, activation: str | None
    ) -> np.ndarray:
        """Compute ``(B, X, Y[, Z], C)`` blocks and apply the activation."""
        if self.slice_axis is not None:
            result = np.expand_dims(engine(batch.squeeze(self.slice_axis + 1)), self.slice_axis + 1)
        else:
            result = engine(batch)
        if result.shape[:-1] != batch.shape[:-1]:
            raise InvalidOption(
                f"The network turned blocks of {batch.shape[1:-1]} into {result.shape[1:-1]}; "
                "predict_blocks needs the same shape."
            )
        return _activate(result, activation)


def _activate(values: np.ndarray, activation: str | None) -> np.ndarray:
    if activation == "softmax":
        values = np.exp(values - values.max(axis=-1, keepdims=True))
        values /= values.sum(axis=-1, keepdims=True)
    elif activation == "sigmoid":
        values = 0.5 * (1.0 + np.tanh(0.5 * values))
    return values


def _channels(model: Any) -> int:
    return int(model.output_shape[-1])


def describe(
    model: Any,
    array: np.ndarray,
    block_shape: Sequence[int] | None,
    multiple: int | Sequence[int] | None,
) -> Problem:
    """Find out how an array goes through a model.

    Raises
    ------
    InvalidOption
        If they do not fit; the sentence says what does.
    """
    spatial = _spatial_input(model)
    rank = len(spatial)
    array = np.asanyarray(array)
    block = _block(array, spatial, block_shape)
    axes = len(block)
    slice_axis = _slice_axis(block, rank)
    volume = array if array.ndim == axes + 1 else array[..., np.newaxis]
    if volume.ndim != axes + 1 or 0 in volume.shape:
        raise InvalidOption(
            f"For blocks of {block} the array needs {axes} axes, or {axes + 1} with channels; "
            f"got shape {array.shape}."
        )
    channels = model.input_shape[-1]
    if channels is not None and volume.shape[-1] != channels:
        raise InvalidOption(f"The network takes {channels} channels; the array has {volume.shape[-1]}.")
    wanted = list(network_multiple(model) if multiple is None else per_axis(multiple, rank))
    fixed = any(extent is not None for extent in spatial)
    if slice_axis is not None:
        spatial.insert(slice_axis, 1)
        wanted.insert(slice_axis, 1)
    if any(n is not None and n != b for n, b in zip(spatial, block, strict=True)):
        raise InvalidOption(f"This network takes blocks of {tuple(spatial)} only; got block_shape {block}.")
    if not fixed and any(b % m for b, m in zip(block, wanted, strict=True)):
        raise InvalidOption(
            f"block_shape must be a multiple of {tuple(wanted)} for this network; got {block}."
        )
    return Problem(model, volume, block, tuple(wanted), fixed, slice_axis)


def _spatial_input(model: Any) -> list[int | None]:
    shape: Any = getattr(model, "input_shape", None)
    single = isinstance(shape, tuple) and all(n is None or isinstance(n, int) for n in shape)
    if not single or len(shape) not in (4, 5) or len(getattr(model, "outputs", None) or [0]) != 1:
        raise InvalidOption(
            "predict_blocks needs a built model with one input (B, X, Y, Z, C) or (B, X, Y, C) "
            "and one output."
        )
    return list(shape[1:-1])


def _block(
    array: np.ndarray, spatial: Sequence[int | None], block_shape: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the block asked for; the default is cut to the rank of a 2-D network on an image."""
    if block_shape is None:
        return tuple(extent or DEFAULT_BLOCK for extent in spatial)
    block = tuple(int(extent) for extent in block_shape)
    whole = block == (DEFAULT_BLOCK,) * 3 and len(spatial) == 2 and array.ndim == 2
    return block[:2] if whole else block


def _slice_axis(block: tuple[int, ...], rank: int) -> int | None:
    if len(block) == rank:
        return None
    ones = [axis for axis, extent in enumerate(block) if extent == 1]
    if len(block) != rank + 1 or len(ones) != 1:
        raise InvalidOption(
            f"This network sees {rank} axes: block_shape needs {rank} numbers, or {rank + 1} with a single 1 "
            f"on the axis of the slices; got {block}."
        )
    return ones[0]
