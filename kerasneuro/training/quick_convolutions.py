"""Train 3-D networks in half the time under JAX on a CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kerasneuro.inference.engine import accelerated
from kerasneuro.inference.jax_graph import rewritten

if TYPE_CHECKING:
    import keras

LEAST_PRODUCTS = 5_000_000  # Below, the rewritten convolution takes longer to compile than it saves.


@contextmanager
def quick_convolutions(network: keras.Model) -> Iterator[None]:
    """Let JAX on a CPU compute the 3-D convolutions of a network as prediction does, as sums of 2-D ones.

    XLA's own 3-D convolutions, and their gradients more so, are slow on CPUs (`inference.jax_graph`). The
    numbers agree up to rounding. Under another backend, or with an accelerator, nothing changes.

    Parameters
    ----------
    network : keras.Model
        Channels-last, `compile`d or not. What is traced within the block keeps the rewritten convolutions.

    Examples
    --------
    >>> with quick_convolutions(network):
    ...     network.fit(data)
    """
    changed = [*_changes(network)] if _on_jax_cpu() else []
    for layer, call in changed:
        layer.call = call
    try:
        yield
    finally:
        for layer, _ in changed:
            del layer.call  # The method of the class shows again.


def _on_jax_cpu() -> bool:
    import keras

    return keras.backend.backend() == "jax" and not accelerated("jax", None)


def _changes(network: keras.Model) -> Iterator[tuple[Any, Any]]:
    for layer in network._flatten_layers(include_self=False):
        quick = rewritten(layer)
        if quick is not None and "call" not in vars(layer):
            yield layer, _choice(layer, quick)


def _choice(layer: Any, quick: Any) -> Any:
    plain = layer.call

    def call(inputs: Any) -> Any:
        products = math.prod(layer.kernel.shape) * math.prod(inputs.shape[:-1])
        return (quick if products >= LEAST_PRODUCTS else plain)(inputs)

    return call
