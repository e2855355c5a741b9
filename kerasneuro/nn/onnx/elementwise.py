"""Operators that act on each element, with the broadcasting of NumPy.

Definitions: onnx/onnx@v1.17.0, docs/Operators.md.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasneuro.nn.onnx.base import OnnxLayer, as_list, broadcast

LOGICAL = frozenset(
    {"greater", "less", "equal", "greater_equal", "less_equal", "and", "or", "xor", "not", "isnan", "isinf"}
)


def _divide(first: Any, second: Any) -> Any:
    """Divide; integers are cut off towards zero, as in C."""
    if _is_float(first) or _is_float(second):
        return ops.true_divide(first, second)
    quotient = ops.floor_divide(ops.abs(first), ops.abs(second))
    return quotient * ops.cast(ops.sign(first) * ops.sign(second), _dtype(quotient))


def _dtype(value: Any) -> str:
    return keras.backend.standardize_dtype(value.dtype)


def _is_float(value: Any) -> bool:
    return isinstance(value, float) or "float" in str(getattr(value, "dtype", ""))


def _modulo(first: Any, second: Any, fmod: int = 0) -> Any:
    if not fmod:
        return ops.mod(first, second)
    rest = ops.mod(ops.abs(first), ops.abs(second))
    return rest * ops.cast(ops.sign(first), _dtype(rest))


def _where(condition: Any, first: Any, second: Any) -> Any:
    return ops.where(ops.cast(condition, "bool"), first, second)


def _clip(x: Any, low: Any = None, high: Any = None) -> Any:
    x = x if low is None else ops.maximum(x, low)
    return x if high is None else ops.minimum(x, high)


def _fold(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def apply(first: Any, *others: Any) -> Any:
        for other in others:
            first = function(first, other)
        return first

    return apply


def _mean(*parts: Any) -> Any:
    return _fold(operator.add)(*parts) / len(parts)


def _celu(x: Any, alpha: float = 1.0) -> Any:
    return ops.maximum(x, 0.0) + ops.minimum(alpha * ops.expm1(ops.minimum(x, 0.0) / alpha), 0.0)


def _selu(x: Any, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Any:
    return gamma * (ops.maximum(x, 0.0) + alpha * ops.expm1(ops.minimum(x, 0.0)))


def _elu(x: Any, alpha: float = 1.0) -> Any:
    return ops.maximum(x, 0.0) + alpha * ops.expm1(ops.minimum(x, 0.0))


def _prelu(x: Any, slope: Any) -> Any:
    return ops.maximum(x, 0.0) + slope * ops.minimum(x, 0.0)


def _hard_sigmoid(x: Any, alpha: float = 0.2, beta: float = 0.5) -> Any:
    return ops.clip(alpha * x + beta, 0.0, 1.0)


def _hard_swish(x: Any) -> Any:
    return x * ops.clip(x / 6 + 0.5, 0.0, 1.0)


def _thresholded_relu(x: Any, alpha: float = 1.0) -> Any:
    return ops.where(x > alpha, x, ops.zeros_like(x))


def _gelu(x: Any, approximate: str = "none") -> Any:
    return keras.activations.gelu(x, approximate=approximate == "tanh")


def _cast(x: Any, to: str = "float32") -> Any:
    return ops.cast(x, to)


def _shrink(x: Any, lambd: float = 0.5, bias: float = 0.0) -> Any:
    return ops.where(x < -lambd, x + bias, ops.where(x > lambd, x - bias, ops.zeros_like(x)))


# Not `ops.add`: on TensorFlow it takes an operand with one long axis for a bias of the last axis.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": _fold(operator.add), "sub": ops.subtract, "mul": ops.multiply, "div": _divide, "pow": ops.power,
    "mod": _modulo, "max": _fold(ops.maximum), "min": _fold(ops.minimum), "mean": _mean,
    "where": _where, "greater": ops.greater, "less": ops.less, "equal": ops.equal,
    "greater_equal": ops.greater_equal, "less_equal": ops.less_equal, "and": ops.logical_and,
    "or": ops.logical_or, "xor": ops.logical_xor, "not": ops.logical_not, "isnan": ops.isnan,
    "isinf": ops.isinf, "abs": ops.abs, "neg": ops.negative, "exp": ops.exp, "log": ops.log,
    "sqrt": ops.sqrt, "reciprocal": ops.reciprocal, "floor": ops.floor, "ceil": ops.ceil,
    "round": ops.round, "sign": ops.sign, "erf": ops.erf, "sin": ops.sin, "cos": ops.cos, "tan": ops.tan,
    "asin": ops.arcsin, "acos": ops.arccos, "atan": ops.arctan, "sinh": ops.sinh, "cosh": ops.cosh,
    "tanh": ops.tanh, "clip": _clip, "celu": _celu, "selu": _selu, "elu": _elu, "prelu": _prelu,
    "hard_sigmoid": _hard_sigmoid, "hard_swish": _hard_swish, "thresholded_relu": _thresholded_relu,
    "gelu": _gelu, "shrink": _shrink, "cast": _cast,
}  # fmt: skip


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxElementwise(OnnxLayer):
    """Apply one of `FUNCTIONS` to each element.

    Parameters
    ----------
    function : str
        Name of the function.
    **kwargs
        See `OnnxLayer`; numbers of the operator (alpha, ...) are settings.
    """

    def __init__(self, function: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function = function

    def compute(self, *operands: Any, **settings: Any) -> Any:
        """Apply the function to operands that broadcast."""
        given = [_as_dtype(operand, operands) for operand in operands]
        return FUNCTIONS[self.function](*given, **settings)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result: the broadcast shape."""
        specs = self.operand_specs(as_list(inputs))
        shapes = [shape for shape, _ in specs if shape is not None]
        kinds = [kind for _, kind in specs[1 if self.function == "where" else 0 :] if kind is not None]
        dtype = self.settings.get("to") or ("bool" if self.function in LOGICAL else (kinds or ["float32"])[0])
        return keras.KerasTensor(broadcast(shapes), dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "function": self.function}


def _as_dtype(operand: Any, operands: Any) -> Any:
    """Give a plain number the type of the tensors, so that no backend widens the result."""
    if not isinstance(operand, int | float):
        return operand
    tensors = [other for other in operands if other is not None and not isinstance(other, int | float)]
    kinds = [_dtype(tensor) for tensor in tensors if _dtype(tensor) != "bool"]
    dtype = (kinds or ["float32"])[0]
    return ops.convert_to_tensor(np.asarray(operand, dtype if dtype != "bfloat16" else "float32"), dtype)
