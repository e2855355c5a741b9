"""Matrix products and sums of products."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasneuro.nn.onnx.base import OnnxLayer, as_list, broadcast


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxMatMul(OnnxLayer):
    """Multiply two operands as matrices; settings ``swap_first``, ``swap_second`` transpose them first."""

    def compute(
        self,
        first: Any,
        second: Any,
        swap_first: bool = False,
        swap_second: bool = False,
        factor: float = 1.0,
    ) -> Any:
        """Multiply the last two axes, and broadcast the others."""
        first = ops.swapaxes(first, -1, -2) if swap_first else first
        second = ops.swapaxes(second, -1, -2) if swap_second else second
        product = ops.matmul(first, second)
        return product if factor == 1.0 else product * factor

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result."""
        (first, dtype), (second, _) = self.operand_specs(as_list(inputs))
        if min(len(first), len(second)) < 2:
            return super().compute_output_spec(inputs)
        rows = first[-1 if self.settings.get("swap_first") else -2]
        columns = second[-2 if self.settings.get("swap_second") else -1]
        return keras.KerasTensor((*broadcast([first[:-2], second[:-2]]), rows, columns), dtype=dtype)


@keras.saving.register_keras_serializable(package="kerasneuro")
class OnnxEinsum(OnnxLayer):
    """Sum products of the operands; setting ``equation``."""

    def compute(self, *operands: Any, equation: str) -> Any:
        """Sum."""
        return ops.einsum(equation, *operands)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Describe the result by the letters of the equation."""
        terms, _, result = self.settings["equation"].partition("->")
        specs = self.operand_specs(as_list(inputs))
        sizes: dict[str, int | None] = {}
        for term, (shape, _) in zip(terms.split(","), specs, strict=True):
            for letter, size in zip(term, shape, strict=True):
                sizes[letter] = size if sizes.get(letter) is None else sizes[letter]
        return keras.KerasTensor(tuple(sizes[letter] for letter in result), dtype=specs[0][1])
