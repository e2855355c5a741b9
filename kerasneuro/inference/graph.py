"""Walk a functional Keras graph step by step, letting go of each tensor after its last use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """One call of one layer: where its arguments come from and which tensors die with it."""

    operation: Any
    node: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    dying: tuple[int, ...]


def functional_of(model: Any) -> Any | None:
    """Return the functional graph of a functional or Sequential model, None for a subclassed one."""
    inner = getattr(model, "_functional", None) or model
    known = all(hasattr(inner, name) for name in ("_nodes_by_depth", "inputs", "outputs"))
    return inner if known and len(inner.inputs) == 1 and len(inner.outputs) == 1 else None


class GraphPlan:
    """The layer calls of a single-input single-output functional graph, in order.

    Keras itself keeps every activation until the whole model has run; here a tensor is dropped after
    the last layer that reads it, so an encoder-decoder needs its skip connections and little more.

    Parameters
    ----------
    model : keras.Model
        A graph accepted by `functional_of`.
    """

    def __init__(self, model: Any) -> None:
        functional = functional_of(model)
        if functional is None:
            raise TypeError("GraphPlan needs a functional model with one input and one output.")
        self.input, self.output = id(functional.inputs[0]), id(functional.outputs[0])
        nodes = [
            node
            for depth in sorted(functional._nodes_by_depth, reverse=True)
            for node in functional._nodes_by_depth[depth]
            if node.operation and not node.is_input
        ]
        last_reader: dict[int, int] = {}
        for position, node in enumerate(nodes):
            for tensor in [*node.input_tensors, *node.outputs]:
                last_reader[id(tensor)] = position
        last_reader[self.output] = len(nodes)
        self.steps = tuple(self._step(position, node, last_reader) for position, node in enumerate(nodes))

    @staticmethod
    def _step(position: int, node: Any, last_reader: dict[int, int]) -> Step:
        inputs = tuple(dict.fromkeys(id(tensor) for tensor in node.input_tensors))
        outputs = tuple(id(tensor) for tensor in node.outputs)
        dying = tuple(key for key in {*inputs, *outputs} if last_reader[key] == position)
        return Step(node.operation, node, inputs, outputs, dying)

    def run(
        self,
        tensor: Any,
        call: Callable[[Step, tuple[Any, ...], dict[str, Any]], Any],
        after: Callable[[Step, dict[int, Any]], None] | None = None,
    ) -> Any:
        """Compute the output for one input tensor.

        Parameters
        ----------
        tensor : tensor
            The input, a tensor or a ``KerasTensor``.
        call : callable
            ``call(step, args, kwargs)`` computes one step.
        after : callable, optional
            ``after(step, tensors)`` is called with all live tensors once the step has run and before
            its dying tensors are dropped.

        Returns
        -------
        tensor
            The output of the graph.
        """
        tensors = {self.input: tensor}
        del tensor
        for step in self.steps:
            args, kwargs = step.node.arguments.fill_in(tensors)
            result = call(step, args, kwargs)
            del args, kwargs
            results = result if isinstance(result, (list, tuple)) else (result,)
            tensors.update(zip(step.outputs, results, strict=True))
            del result, results
            if after is not None:
                after(step, tensors)
            for key in step.dying:
                del tensors[key]
        return tensors[self.output]
