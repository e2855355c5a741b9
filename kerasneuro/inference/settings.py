"""The prediction options that every task shares, checked in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from kerasneuro.errors import InvalidOption

MERGES = ("constant", "gaussian", "hann")
EDGES = ("auto", "edge", "zero", "shift")
ENGINES = ("auto", "eager", "compiled", "xla")
PRECISIONS = ("float32", "bfloat16", "float16")
OUTPUTS = ("probability", "label", "logits")
UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}

Progress = bool | Callable[[int, int], None]


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise `InvalidOption` unless the value is one of the allowed words."""
    if value not in allowed:
        raise InvalidOption(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")


def check_positive(name: str, value: int) -> None:
    """Raise `InvalidOption` unless the value is a whole number of at least 1."""
    found: Any = value
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise InvalidOption(f"{name} must be a whole number of at least 1; got {value!r}.")


def parse_memory(amount: int | str | None) -> int | None:
    """Turn an amount of memory into bytes.

    Parameters
    ----------
    amount : int, str or None
        Bytes, or text such as ``"2.5GB"`` (10^9 bytes), ``"512 MiB"`` (2^20 bytes).

    Returns
    -------
    int or None
        Bytes; None (no limit) stays None.

    Raises
    ------
    InvalidOption
        If the text has no number or an unknown unit, or the amount is not positive.
    """
    if amount is None:
        return None
    text = str(amount).strip().lower()
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz").strip()
    unit = text[len(digits) :].strip() or "b"
    try:
        found = int(float(digits) * UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        found = 0
    if found < 1 or isinstance(amount, bool):
        raise InvalidOption(
            f"max_memory must be bytes or a text such as '2.5GB' or '512MiB'; got {amount!r}."
        )
    return found


@dataclass(frozen=True)
class Settings:
    """Say how a volume is cut, computed and put back.

    Parameters
    ----------
    block_shape : tuple of int, optional
        Voxels per block and axis; None stands for the default of the task.
    overlap : float
        Part of a block shared with its neighbour, 0 <= overlap < 1.
    merge : {"constant", "gaussian", "hann"}
        Weight of a voxel by its place in the block where blocks overlap.
    edge : {"auto", "edge", "zero", "shift"}
        What happens to the last block of an axis that would reach over the border: padded with the border
        value, padded with zeros, or shifted inside. ``auto``: ``edge`` without overlap, else ``shift``.
    batch_size : int
        Blocks computed at once.
    engine, precision, device
        See `kerasneuro.inference.Engine`.
    max_memory : int or str, optional
        Bytes, or text such as ``"2.5GB"``; batch and block are made smaller until the estimate fits.
    scratch : Path, optional
        Folder for temporary files; None is the system's.
    flips : bool or tuple
        Average over mirrored copies: True for all axes, or the axes (``(0, 1)`` or ``("x", "y")``).
    progress : bool or callable
        True draws a bar on stderr; a callable gets ``(done, total)``.

    Raises
    ------
    InvalidOption
        If a value is outside what is allowed.
    """

    block_shape: tuple[int, ...] | None = None
    overlap: float = 0.0
    merge: str = "constant"
    edge: str = "auto"
    batch_size: int = 1
    engine: str = "auto"
    precision: str = "float32"
    max_memory: int | str | None = None
    device: str | None = None
    scratch: Path | None = None
    flips: bool | tuple[int | str, ...] = False
    progress: Progress = False

    def __post_init__(self) -> None:
        """Check every value."""
        if self.block_shape is not None:
            for extent in self.block_shape:
                check_positive("block_shape", extent)
        if not 0.0 <= self.overlap < 1.0:
            raise InvalidOption(f"overlap must be at least 0 and below 1; got {self.overlap!r}.")
        check_choice("merge", self.merge, MERGES)
        check_choice("edge", self.edge, EDGES)
        check_positive("batch_size", self.batch_size)
        check_choice("engine", self.engine, ENGINES)
        check_choice("precision", self.precision, PRECISIONS)
        parse_memory(self.max_memory)
        if self.scratch is not None and not Path(self.scratch).is_dir():
            raise InvalidOption(f"scratch must be an existing folder; found none at {self.scratch}.")

    def updated(self, **options: Any) -> Settings:
        """Return a copy with some options changed.

        Raises
        ------
        InvalidOption
            If an option is unknown or its value not allowed.
        """
        known = [field.name for field in fields(self)]
        for name in options:
            if name not in known:
                raise InvalidOption(f"{name!r} is no prediction option; these are: {', '.join(known)}.")
        return replace(self, **options)

    def options(self) -> dict[str, Any]:
        """Return the options by name, ready for `predict_blocks`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
