"""Texts that change with what a function does, to name what it computed."""

from __future__ import annotations

import functools
from dataclasses import fields, is_dataclass
from hashlib import sha256
from types import CodeType, MethodType
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption


def describe(function: Any) -> str:
    """Return a text that changes with what a function does: its ``key``, its settings or its code.

    Raises
    ------
    InvalidOption
        If nothing of the kind can be told.
    """
    if function is None or isinstance(function, (str, int, float, bool, bytes)):
        return repr(function)
    if isinstance(function, (tuple, list)):
        return f"[{', '.join(map(describe, function))}]"
    if isinstance(function, dict):
        return describe([part for name in sorted(function) for part in (name, function[name])])
    if isinstance(function, (np.ndarray, np.generic)):
        return f"{function.dtype}{function.shape}:{sha256(function.tobytes()).hexdigest()}"
    if hasattr(function, "key"):
        return f"{type(function).__qualname__}:{function.key}"
    if isinstance(function, MethodType):
        return f"{describe(function.__self__)}.{describe(function.__func__)}"
    if isinstance(function, functools.partial):
        named = [(name, function.keywords[name]) for name in sorted(function.keywords)]
        return f"partial({describe(function.func)}, {describe(function.args)}, {describe(named)})"
    if hasattr(function, "__code__"):
        held = [cell.cell_contents for cell in function.__closure__ or ()]
        name = f"{function.__module__}.{function.__qualname__}"
        return f"{name}:{_digest(function.__code__)}:{describe((*(function.__defaults__ or ()), *held))}"
    if is_dataclass(function) and not isinstance(function, type):
        settings = [getattr(function, field.name) for field in fields(function)]
        return f"{type(function).__qualname__}({describe(settings)})"
    raise InvalidOption(
        f"a cache on disk cannot tell what {function!r} does; give it an attribute key, a text that changes "
        "with what it computes, or use cache='memory'"
    )


def _digest(code: CodeType) -> str:
    """Return a digest of what code does, and of the functions inside it."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    plain = [
        # The order of a set's texts differs between processes.
        sorted(map(repr, each)) if isinstance(each, frozenset) else each
        for each in code.co_consts
        if not isinstance(each, CodeType)
    ]
    text = f"{code.co_names}|{plain!r}|{[_digest(each) for each in inner]}"
    return sha256(code.co_code + text.encode()).hexdigest()[:16]
