"""Sizes that are known only when a network runs, and what is computed from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kerasneuro.errors import UnsupportedGraph

MOST_STEPS = 1000


@dataclass(frozen=True)
class Size:
    """A size: ``dim`` of a tensor (its number, and the stored axis), or an operation on two others.

    The operations are those of `kerasneuro.nn.onnx.expression`.
    """

    operation: str
    first: Any
    second: Any
    steps: int = field(default=1, compare=False)

    def __add__(self, other: Any) -> Any:
        return combine("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return combine("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return combine("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return combine("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return combine("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return combine("mul", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return combine("floordiv", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return combine("floordiv", other, self)

    def __truediv__(self, other: Any) -> Any:
        return combine("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return combine("div", other, self)

    def __mod__(self, other: Any) -> Any:
        return combine("mod", self, other)

    def __neg__(self) -> Any:
        return combine("sub", 0, self)


PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "div": lambda a, b: a / b,
    "mod": lambda a, b: a % b,
    "max": max,
    "min": min,
    "float": lambda a, _: float(a),
    "int": lambda a, _: int(a),
    "floor": lambda a, _: float(math.floor(a)),
    "ceil": lambda a, _: float(math.ceil(a)),
    "sqrt": lambda a, _: math.sqrt(a),
}
NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "floordiv": 1, "div": 1}


def combine(operation: str, first: Any, second: Any = 0) -> Any:
    """Return the result as a number, as one of the operands, or as a new size."""
    first, second = _number(first), _number(second)
    if not isinstance(first, Size) and not isinstance(second, Size):
        return PLAIN[operation](first, second)
    if operation in NEUTRAL and not isinstance(second, Size) and second == NEUTRAL[operation]:
        return first
    if operation in ("add", "mul") and not isinstance(first, Size) and first == NEUTRAL[operation]:
        return second
    if operation == "sub" and first == second:
        return 0
    steps = 1 + sum(part.steps for part in (first, second) if isinstance(part, Size))
    if steps > MOST_STEPS:
        raise UnsupportedGraph(f"it computes a size in more than {MOST_STEPS} steps")
    return Size(operation, first, second, steps)


def _number(value: Any) -> Any:
    return value if isinstance(value, Size | int | float) else value.item()


def bounds(value: Any) -> tuple[float, float]:
    """Return the least and the largest value that a size can have."""
    if not isinstance(value, Size):
        return value, value
    if value.operation == "dim":
        return 0, math.inf
    first, second = bounds(value.first), bounds(value.second)
    if value.operation == "add":
        return first[0] + second[0], first[1] + second[1]
    if value.operation in ("mul", "floordiv", "div", "float", "int", "max") and min(first[0], second[0]) >= 0:
        return (max(first[0], second[0]) if value.operation == "max" else 0), math.inf
    return -math.inf, math.inf


def compare(operation: str, first: Any, second: Any) -> bool | None:
    """Compare ("equal", "less", "greater") as far as that is possible without the sizes; else None."""
    first, second = _number(first), _number(second)
    if operation == "greater":
        return compare("less", second, first)
    if first == second:
        return operation == "equal"
    (low, high), (other_low, other_high) = bounds(first), bounds(second)
    if high < other_low:
        return operation == "less"
    if low > other_high or (low >= other_high and operation == "less"):
        return False
    return None
