"""Worker: a bare PyTorch twin of a network, NumPy to NumPy, in one of two memory formats."""

from __future__ import annotations

import gc
import importlib
from typing import Any

from common import claim_output, parse_arguments, serve


class Worker:
    """One network at a time, with random weights."""

    def __init__(self, channels_last: bool, device: str) -> None:
        self.channels_last = channels_last
        self.memory_format: Any = None
        self.where = "cuda" if device == "gpu" else "cpu"
        self.model: Any = None
        self.block: Any = None
        self.output: Any = None

    def prepare(self, family: str, edge: int, batch: int) -> None:
        """Make the input, channels first in memory."""
        import numpy as np
        from random_weights import random_input

        self.output = None
        self.block = np.ascontiguousarray(np.moveaxis(random_input(family, edge, batch), -1, 1))

    def load(self, family: str) -> None:
        """Build the network and fill it with weights."""
        import torch
        from random_weights import PLANES
        from twins.weights import fill

        self.model = self.output = None
        gc.collect()
        model = importlib.import_module(f"twins.{family}").build()
        fill(model)
        layout = torch.channels_last if family in PLANES else torch.channels_last_3d
        self.memory_format = layout if self.channels_last else torch.contiguous_format
        self.model = model.eval().to(self.where, memory_format=self.memory_format)

    def run(self) -> dict[str, int]:
        """Compute the output of the current input."""
        import torch

        with torch.inference_mode():
            block = torch.from_numpy(self.block).to(self.where)
            self.output = self.model(block.contiguous(memory_format=self.memory_format)).cpu().numpy()
        return {"device_peak_bytes": torch.cuda.max_memory_allocated()} if self.where == "cuda" else {}

    def sample(self, path: str) -> None:
        """Write every fourth voxel of the last output, channels last."""
        import numpy as np

        every_fourth = (slice(None, None, 4),) * (self.output.ndim - 2)
        np.save(path, np.moveaxis(self.output[(..., *every_fourth)], 1, -1))


def main() -> None:
    """Import what a run uses, then answer until the input ends."""
    answers = claim_output()
    options = parse_arguments(__doc__, "format")
    import torch

    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    serve(Worker(options.format == "channels_last", options.device), ("torch",), answers)


if __name__ == "__main__":
    main()
