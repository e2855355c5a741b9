"""Worker: a Keras graph of kerasneuro through its Engine, NumPy to NumPy, under KERAS_BACKEND."""

from __future__ import annotations

import gc
import importlib
from typing import Any

from common import claim_output, parse_arguments, serve

BACKEND_PACKAGES = {"tensorflow": "tensorflow-cpu", "jax": "jax", "torch": "torch", "openvino": "openvino"}


def device_peak(backend: str) -> dict[str, int]:
    """Return the largest memory the backend has taken on the GPU."""
    if backend == "torch":
        import torch

        return {"device_peak_bytes": torch.cuda.max_memory_allocated()}
    if backend == "jax":
        import jax

        return {"device_peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)}
    import tensorflow as tf

    return {"device_peak_bytes": tf.config.experimental.get_memory_info("GPU:0")["peak"]}


class Worker:
    """One network at a time, with random weights."""

    def __init__(self, backend: str, device: str) -> None:
        self.backend, self.device = backend, device
        self.engine: Any = None
        self.block: Any = None
        self.output: Any = None

    def prepare(self, family: str, edge: int, batch: int) -> None:
        """Make the input."""
        from random_weights import random_input

        self.output = None
        self.block = random_input(family, edge, batch)

    def load(self, family: str) -> None:
        """Build the graph and fill it with weights."""
        from random_weights import fill

        from kerasneuro.inference import Engine

        self.engine = self.output = None
        gc.collect()
        model = importlib.import_module(f"kerasneuro.models.{family}.graph").build()
        fill(model)
        self.engine = Engine(model)

    def run(self) -> dict[str, int]:
        """Compute the output of the current input."""
        self.output = self.engine(self.block)
        return device_peak(self.backend) if self.device == "gpu" else {}

    def sample(self, path: str) -> None:
        """Write every fourth voxel of the last output."""
        import numpy as np

        every_fourth = (slice(None, None, 4),) * (self.output.ndim - 2)
        np.save(path, self.output[(slice(None), *every_fourth)])


def main() -> None:
    """Import what a run uses, then answer until the input ends."""
    answers = claim_output()
    options = parse_arguments(__doc__)
    import keras

    import kerasneuro.inference  # imported here, so that no clock sees it

    backend = keras.backend.backend()
    package = BACKEND_PACKAGES[backend]
    if backend == "tensorflow" and options.device == "gpu":
        package = "tensorflow"
    serve(Worker(backend, options.device), (kerasneuro.__name__, "keras", package), answers)


if __name__ == "__main__":
    main()
