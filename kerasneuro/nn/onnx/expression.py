"""Numbers that depend on the sizes of tensors, computed when a graph runs.

An expression is a number, or a list: ``["dim", i, axis]`` is the size of an axis of input i, and
``[operation, first, second]`` combines two expressions. It is plain JSON, so it is kept in the configuration
of a layer.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops


def _larger(first: Any, second: Any) -> Any:
    plain = isinstance(first, int | float) and isinstance(second, int | float)
    return max(first, second) if plain else ops.maximum(first, second)


def _smaller(first: Any, second: Any) -> Any:
    plain = isinstance(first, int | float) and isinstance(second, int | float)
    return min(first, second) if plain else ops.minimum(first, second)


def _float(value: Any, _: Any) -> Any:
    return float(value) if isinstance(value, int | float) else ops.cast(value, "float32")


def _int(value: Any, _: Any) -> Any:
    return int(value) if isinstance(value, int | float) else ops.cast(value, "int32")


def _floor(value: Any, _: Any) -> Any:
    return float(math.floor(value)) if isinstance(value, int | float) else ops.floor(value)


def _ceil(value: Any, _: Any) -> Any:
    return float(math.ceil(value)) if isinstance(value, int | float) else ops.ceil(value)


def _sqrt(value: Any, _: Any) -> Any:
    return math.sqrt(value) if isinstance(value, int | float) else ops.sqrt(value)


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "div": operator.truediv,
    "mod": operator.mod,
    "max": _larger,
    "min": _smaller,
    "float": _float,
    "int": _int,
    "floor": _floor,
    "ceil": _ceil,
    "sqrt": _sqrt,
}


def evaluate(expression: Any, size: Callable[[int, int], Any]) -> Any:
    """Compute an expression; a size that is not known (None) makes the result None.

    Parameters
    ----------
    expression : int, float or list
    size : callable
        Returns the size of an axis from the number of the input and that of the axis.

    Returns
    -------
    int, float, scalar tensor or None
    """
    if not isinstance(expression, Sequence):
        return expression
    name, first, second = expression
    if name == "dim":
        return size(int(first), int(second))
    values = evaluate(first, size), evaluate(second, size)
    return None if None in [value for value in values if value is None] else OPERATIONS[name](*values)


def static_sizes(shapes: Sequence[Sequence[int | None]]) -> Callable[[int, int], int | None]:
    """Look sizes up in shapes as far as they are known while a graph is built."""
    return lambda place, axis: shapes[place][axis]


def dynamic_sizes(tensors: Sequence[Any]) -> Callable[[int, int], Any]:
    """Look sizes up in tensors: integers where they are known, scalar tensors elsewhere."""
    return lambda place, axis: ops.shape(tensors[place])[axis]
