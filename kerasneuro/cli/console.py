"""What the command line says: results on stdout, all else on stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import click

LONGEST_MESSAGE = 1500  # characters of an error on one line; --verbose shows the rest


def say_error(message: str) -> None:
    """Print one line on stderr that starts with ``kerasneuro: error:``."""
    click.echo(f"kerasneuro: error: {one_line(message)}", err=True)


def say_warning(message: str) -> None:
    """Print one line on stderr that starts with ``kerasneuro: warning:``."""
    click.echo(f"kerasneuro: warning: {one_line(message)}", err=True)


def one_line(message: str) -> str:
    """Join the lines of a message, and cut a very long one."""
    text = " ".join(message.split()) or "no message"
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ... (all with --verbose)"


class Steps:
    """Print a line on stderr for every step, with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def say(self, message: str) -> None:
        """Print one step."""
        elapsed = time.monotonic() - self.start
        click.echo(f"[{elapsed:6.1f} s] {message}", err=True)


def say_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def finite(value: Any) -> Any:
    """Turn a value into what JSON can hold; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)


def size_text(count: int | None) -> str:
    """Write a number of bytes for a reader."""
    if count is None:
        return "?"
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} GB"


def on_terminal() -> bool:
    """Say whether a person watches stderr."""
    return sys.stderr.isatty()
