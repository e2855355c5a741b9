"""Worker: steps of training nobrainer's U-Net, through `fit` of our graph or as a loop over its bare twin."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
from common import claim_output, parse_arguments, serve
from network import BACKEND_PACKAGES

FAMILY = "nobrainer"
RATE = 1e-4


def make_batch(edge: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image, and a mask of about half of it."""
    from random_weights import random_input

    image = random_input(FAMILY, edge, batch)
    return image, (image > 0).astype(np.float32)


class Ours:
    """`keras.Model.fit` on a batch that is ready."""

    def __init__(self) -> None:
        self.model: Any = None
        self.batch: Any = None

    def prepare(self, edge: int, batch: int, steps: int) -> None:
        """Make the batch."""
        import keras

        arrays = make_batch(edge, batch)

        class Repeated(keras.utils.PyDataset):
            def __len__(self) -> int:
                return steps

            def __getitem__(self, index: int) -> Any:
                return arrays

        self.batch = Repeated()

    def load(self, edge: int) -> None:
        """Build and compile the network."""
        import keras
        from random_weights import fill

        from kerasneuro.models.nobrainer.graph import build

        self.model = None
        gc.collect()
        self.model = build(input_shape=(edge, edge, edge, 1))
        fill(self.model)
        self.model.compile(optimizer=keras.optimizers.Adam(RATE), loss="binary_crossentropy")

    def run(self) -> dict[str, float]:
        """Train for the steps of the batch."""
        from kerasneuro.training.quick_convolutions import quick_convolutions

        started = time.process_time()
        with quick_convolutions(self.model):
            history = self.model.fit(self.batch, shuffle=False, verbose=0).history
        return {"loss": float(history["loss"][0]), "cpu_seconds": time.process_time() - started}


class Bare:
    """The loop of PyTorch's tutorials."""

    def __init__(self, channels_last: bool) -> None:
        self.channels_last = channels_last
        self.model: Any = None
        self.optimizer: Any = None
        self.batch: Any = None
        self.steps = 0

    def prepare(self, edge: int, batch: int, steps: int) -> None:
        """Make the batch, channels first."""
        self.steps = steps
        self.batch = [np.moveaxis(array, -1, 1) for array in make_batch(edge, batch)]

    def load(self, edge: int) -> None:
        """Build the network."""
        import torch
        from twins import nobrainer
        from twins.weights import fill

        self.model = self.optimizer = None
        gc.collect()
        self.model = nobrainer.build()
        fill(self.model)
        self.memory_format = torch.channels_last_3d if self.channels_last else torch.contiguous_format
        self.model.train().to(memory_format=self.memory_format)
        self.optimizer = torch.optim.Adam(self.model.parameters(), RATE, eps=1e-7)

    def run(self) -> dict[str, float]:
        """Train for the steps of the batch; as in `fit`, the loss is read after each."""
        import torch

        total, started = 0.0, time.process_time()
        for _ in range(self.steps):
            image, truth = (
                torch.from_numpy(array).contiguous(memory_format=self.memory_format) for array in self.batch
            )
            self.optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy(self.model(image), truth)
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return {"loss": total / self.steps, "cpu_seconds": time.process_time() - started}


def main() -> None:
    """Import what a run uses, then answer until the input ends."""
    answers = claim_output()
    options = parse_arguments(__doc__, "format")
    if options.format:
        import torch

        torch.set_num_threads(options.threads)
        serve(Bare(options.format == "channels_last"), ("torch",), answers)
        return
    import keras

    import kerasneuro.models.nobrainer.graph  # imported here, so that no clock sees it

    package = BACKEND_PACKAGES[keras.backend.backend()]
    serve(Ours(), (kerasneuro.__name__, "keras", package), answers)


if __name__ == "__main__":
    main()
