"""Worker: an ONNX network through onnxruntime, NumPy to NumPy."""

from __future__ import annotations

from typing import Any

from common import claim_output, parse_arguments, serve


class Worker:
    """One network of a file."""

    def __init__(self, file: str, threads: int) -> None:
        self.file, self.threads = file, threads
        self.session: Any = None
        self.block: Any = None
        self.output: Any = None

    def prepare(self, family: str, edge: int, batch: int) -> None:
        """Make the input, channels first in memory."""
        import numpy as np
        from random_weights import random_input

        self.output = None
        self.block = np.ascontiguousarray(np.moveaxis(random_input(family, edge, batch), -1, 1))

    def load(self, family: str) -> None:
        """Open the file; `family` is that of the file."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        self.session = onnxruntime.InferenceSession(self.file, options, providers=["CPUExecutionProvider"])

    def run(self) -> None:
        """Compute the output of the current input."""
        self.output = self.session.run(None, {self.session.get_inputs()[0].name: self.block})[0]

    def sample(self, path: str) -> None:
        """Write every fourth voxel of the last output, channels last."""
        import numpy as np

        every_fourth = (slice(None, None, 4),) * (self.output.ndim - 2)
        np.save(path, np.moveaxis(self.output[(..., *every_fourth)], 1, -1))


def main() -> None:
    """Import what a run uses, then answer until the input ends."""
    answers = claim_output()
    options = parse_arguments(__doc__, "file")
    import onnxruntime  # noqa: F401  (imported here, so that no clock sees it)

    serve(Worker(options.file, options.threads), ("onnxruntime",), answers)


if __name__ == "__main__":
    main()
