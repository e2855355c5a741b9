"""Ask the backend for kernels that give the same bits at each run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def repeatable(wanted: bool = True) -> Iterator[None]:
    """Use deterministic kernels while a network runs, where the backend can be told so.

    On CPUs all four backends repeat their bits as they are, with the same number of threads. PyTorch is told
    for the time of the context. TensorFlow can only be told for the whole process, and is, if it sees an
    accelerator. JAX on an accelerator reads ``XLA_FLAGS=--xla_gpu_deterministic_ops=true`` when it starts.

    Parameters
    ----------
    wanted : bool
        False does nothing.
    """
    import keras

    backend = keras.backend.backend() if wanted else ""
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            tf.config.experimental.enable_op_determinism()
    if backend != "torch":
        yield
        return
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
