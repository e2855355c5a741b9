"""There is no graph without the file: an ONNX file holds its own."""

from __future__ import annotations

from typing import Any, NoReturn

from kerasneuro.errors import InvalidOption


def build(**config: Any) -> NoReturn:
    """Refuse to build a network without its file.

    Raises
    ------
    InvalidOption
        Always.
    """
    raise InvalidOption(
        "a network that was added as ONNX is built from its file alone; use kerasneuro.load(NAME), without a "
        "configuration"
    )
