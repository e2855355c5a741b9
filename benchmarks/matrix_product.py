"""Worker: the float32 matrix product, the yardstick for what the processor (NumPy) or the GPU can do."""

from __future__ import annotations

import time
from collections.abc import Callable

from common import claim_output, parse_arguments, serve

EDGE = {"cpu": 2048, "gpu": 8192}
REPETITIONS = 3


def on_processor(edge: int) -> Callable[[], object]:
    """Return a NumPy product of two square matrices."""
    import numpy as np

    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((edge, edge), dtype=np.float32) for _ in range(2))
    return lambda: a @ b


def on_gpu(edge: int) -> Callable[[], object]:
    """Return a product in true float32 on the GPU, with PyTorch or else JAX, that waits for its result."""
    import torch

    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = False
        a = torch.randn(edge, edge, device="cuda")
        return lambda: ((a @ a), torch.cuda.synchronize())
    import jax

    b = jax.random.normal(jax.random.key(0), (edge, edge))
    product = jax.jit(lambda x: jax.numpy.matmul(x, x, precision="highest"))
    return lambda: product(b).block_until_ready()


class Worker:
    """Answers `run` with the best rate of a few products."""

    def __init__(self, device: str) -> None:
        self.edge = EDGE[device]
        self.product = (on_gpu if device == "gpu" else on_processor)(self.edge)
        self.product()

    def run(self) -> dict[str, float]:
        """Return GFLOP/s."""
        seconds = []
        for _ in range(REPETITIONS):
            started = time.perf_counter()
            self.product()
            seconds.append(time.perf_counter() - started)
        return {"gflops": 2 * self.edge**3 / min(seconds) / 1e9}


def main() -> None:
    """Answer until the input ends."""
    answers = claim_output()
    options = parse_arguments(__doc__)
    serve(Worker(options.device), ("numpy",), answers)


if __name__ == "__main__":
    main()
