"""How much memory a block needs, and what to try when there is not enough."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kerasneuro.inference.graph import GraphPlan, Step, functional_of
from kerasneuro.inference.grid import per_axis

# Measured peak over the live activations, a 16-filter U-Net on 128^3 blocks on a CPU (Keras 3.15).
OVERHEAD = {"torch": 1.1, "tensorflow": 1.5, "jax": 2.7, "openvino": 1.3}
# Layers whose result takes the place of an input that is not read again.
IN_PLACE = ("Activation", "ReLU", "LeakyReLU", "BatchNormalization", "Dropout", "SpatialDropout3D", "Softmax")
PROBE = 64
SMALLEST = 16
SIGNS = (
    "resource_exhausted",
    "resource exhausted",
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "unable to allocate",
    "bad_alloc",
    "failed to allocate",
)


def estimate_memory(
    model: Any, block_shape: Sequence[int], batch_size: int = 1, *, engine: str = "auto"
) -> int:
    """Estimate the memory that one batch of blocks needs while it is computed.

    The graph is walked with symbolic shapes; the largest sum of activations that live at the same time is
    multiplied by an overhead measured per backend. The interpreter, the backend itself (0.4 to 0.7 GB) and
    the arrays of the whole volume are not included.

    Parameters
    ----------
    model : keras.Model
        Any model; without a functional graph a rough guess per voxel is returned.
    block_shape : sequence of int
        Spatial shape as the network sees it, without batch and channels.
    batch_size : int
        Blocks at once.
    engine : str
        ``"eager"`` on TensorFlow, JAX or PyTorch keeps all activations until the end.

    Returns
    -------
    int
        Bytes.
    """
    import keras

    backend = keras.backend.backend()
    weights = sum(4 * math.prod(variable.shape) for variable in model.variables)
    live = live_bytes(model, block_shape, keep_all=engine == "eager" and backend != "openvino")
    if live is None:
        live = 4 * 256 * math.prod(block_shape)
    return int(2 * weights + OVERHEAD.get(backend, 2.0) * batch_size * live)


def live_bytes(model: Any, block_shape: Sequence[int], *, keep_all: bool = False) -> int | None:
    """Return the largest sum of live activations in bytes for one block, None without a functional graph."""
    peak = [0, 0]  # the peak so far; what earlier steps left behind when everything is kept

    def record(step: Step, tensors: dict[int, Any]) -> None:
        reused = type(step.operation).__name__ in IN_PLACE and set(step.inputs) <= set(step.dying)
        counted = [key for key in tensors if not (reused and key in step.inputs)]
        peak[0] = max(peak[0], peak[1] + sum(_bytes(tensors[key]) for key in counted))
        if keep_all:
            peak[1] += sum(_bytes(tensors[key]) for key in step.dying if key not in step.outputs)

    return peak[0] if _walk(model, block_shape, record) is not None else None


def output_shape(model: Any, block_shape: Sequence[int]) -> tuple[int, ...] | None:
    """Return the spatial shape and channels that a block leads to, None if it cannot be told beforehand.

    Raises
    ------
    ValueError
        If the layers do not fit together for this block.
    """
    result = _walk(model, block_shape, lambda step, tensors: None)
    return None if result is None else tuple(result.shape[1:])


def network_multiple(model: Any) -> tuple[int, ...]:
    """Find by how much the network shrinks each axis: blocks have to be multiples of it."""
    functional = functional_of(model)
    if functional is None:
        return (1,) * (len(getattr(model, "input_shape", (0,) * 5)) - 2)
    spatial = functional.inputs[0].shape[1:-1]
    probe = [extent or PROBE for extent in spatial]
    smallest = list(probe)

    def record(step: Step, tensors: dict[int, Any]) -> None:
        for key in step.outputs:
            shape = getattr(tensors[key], "shape", ())
            if len(shape) == len(probe) + 2:
                smallest[:] = [min(a, b) for a, b in zip(smallest, shape[1:-1], strict=True)]

    try:
        _walk(model, probe, record)
    except (ValueError, TypeError):
        return (1,) * len(probe)
    return tuple(max(1, round(p / s)) for p, s in zip(probe, smallest, strict=True))


def _walk(model: Any, block_shape: Sequence[int], after: Any) -> Any | None:
    import keras

    functional = functional_of(model)
    if functional is None:
        return None
    entry = functional.inputs[0]
    tensor = keras.KerasTensor((1, *block_shape, entry.shape[-1]), dtype=entry.dtype)
    plan = GraphPlan(model)
    return plan.run(tensor, lambda step, args, kw: step.operation.compute_output_spec(*args, **kw), after)


def _bytes(tensor: Any) -> int:
    return 4 * math.prod(extent or 1 for extent in getattr(tensor, "shape", ()))


def available_memory() -> int | None:
    """Return the free physical memory in bytes, None where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Recognise a lack of memory in the errors of Python and of every backend."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}:
        return True
    text = str(error).lower()
    return isinstance(error, (RuntimeError, ValueError)) and any(sign in text for sign in SIGNS)


@dataclass(frozen=True)
class Attempt:
    """One way to compute: block shape, blocks at once, device (None: the backend's choice)."""

    block: tuple[int, ...]
    batch_size: int
    device: str | None

    def __str__(self) -> str:
        """Describe the attempt in words."""
        where = f" on {self.device}" if self.device else ""
        return f"blocks of {' x '.join(map(str, self.block))}, batch {self.batch_size}{where}"


def attempts(first: Attempt, multiple: Sequence[int] | int, fixed: bool) -> Iterator[Attempt]:
    """Yield ever smaller ways to compute: half the batch, half the longest axis of the block, then the CPU.

    Parameters
    ----------
    first : Attempt
        What was asked for.
    multiple : int or sequence of int
        Blocks stay a multiple of this.
    fixed : bool
        The network takes one block shape only.
    """
    devices = [first.device] if (first.device or "").startswith("cpu") else [first.device, "cpu"]
    for device in devices:
        attempt: Attempt | None = replace(first, device=device)
        while attempt is not None:
            yield attempt
            attempt = _smaller(attempt, per_axis(multiple, len(first.block)), fixed)


def _smaller(attempt: Attempt, multiple: tuple[int, ...], fixed: bool) -> Attempt | None:
    if attempt.batch_size > 1:
        return replace(attempt, batch_size=attempt.batch_size // 2)
    halves = [-(-(b // 2) // m) * m for b, m in zip(attempt.block, multiple, strict=True)]
    able = [i for i, b in enumerate(attempt.block) if halves[i] < b and halves[i] >= SMALLEST]
    if fixed or not able:
        return None
    axis = max(able, key=lambda i: attempt.block[i])
    return replace(attempt, block=(*attempt.block[:axis], halves[axis], *attempt.block[axis + 1 :]))
