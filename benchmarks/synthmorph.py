"""Time SynthMorph's networks in full width, and watch the memory of a whole registration.

    python benchmarks/synthmorph.py [--extent 192] [--peak-extent 256] [--backends torch,jax] [--threads 2]
        [--peak-backends torch] [--rounds 1]

One process for each backend, with random weights (neither time nor memory depends on them). `gflops` is the
arithmetic of both passes of the deformable network and both of the detector over their time; `of_product` is
that over the rate of a float32 matrix product (NumPy) measured before and after in this process. `whole_*`
are a whole joint registration of two scans of 256 cubed voxels: its seconds, and the peak of the process in
gigabytes. At 100 GFLOP/s, 192 takes 6 minutes for each backend (one round after one to compile) and 256, 14.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import forget_peak, limit_threads, peak_bytes

BACKENDS = ("tensorflow", "jax", "torch", "openvino")
EDGE = 2048
WIDTH = 256


def operations(extent: int) -> tuple[int, int]:
    """Return the multiplications and additions of one pass of the deformable network and of the detector."""
    half, kernel = (extent // 2) ** 3, 27
    down = [(2, 1), (WIDTH, 8), (WIDTH, 64), (WIDTH, 512)]
    up = [(WIDTH, 4096), (2 * WIDTH, 512), (2 * WIDTH, 64), (2 * WIDTH, 8)]
    last = [(2 * WIDTH, 1), (WIDTH, 1), (WIDTH, 1), (WIDTH, 1)]
    deform = sum(channels * WIDTH * half // share for channels, share in down + up + last) + WIDTH * 3 * half
    detector = [(1, 1), (WIDTH, 8), (WIDTH, 64), (WIDTH, 512)] + [(WIDTH, 4096)] * 4
    tower = sum(channels * WIDTH * half // share for channels, share in detector) + WIDTH * 64 * half // 4096
    return 2 * kernel * deform, 2 * kernel * tower


def product_rate() -> float:
    """Return the best rate of a few float32 matrix products, in operations per second."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((EDGE, EDGE), dtype=np.float32) for _ in range(2))
    return 2 * EDGE**3 / min(timed(lambda: a @ b) for _ in range(4))


def timed(call: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def make_task() -> Any:
    """Return the joint task with random weights in full width."""
    from kerasneuro import registry
    from kerasneuro.models.synthmorph.graph import build
    from kerasneuro.models.synthmorph.task import WarpTask

    models = {
        "affine": build("affine", bidir=True, make_dense=False),
        "deform": build("deform", specialised=True, bidir=True, mid_space=True),
    }
    return WarpTask(registry.get("synthmorph-joint"), models, {})


def networks(task: Any) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return detector and deformable network as the pipeline computes them."""
    from kerasneuro.inference.settings import Settings
    from kerasneuro.models.synthmorph.options import Options
    from kerasneuro.models.synthmorph.pipeline import Run

    parts = task.networks(Options())
    run = Run(task, parts, Options(), Settings())
    return {part: run.compute(part) for part in parts}


def forward(task: Any, extent: int, rounds: int) -> dict[str, Any]:
    """Time two passes of each network on the half grid of an extent."""
    computing, half = networks(task), extent // 2
    rng = np.random.default_rng(0)
    seconds = {}
    before = product_rate()
    forget_peak()
    for part, channels in (("tower", 1), ("velocity", 2)):
        batch = rng.random((1, half, half, half, channels), np.float32)
        computing[part](batch)  # compiles
        passes = [timed(lambda part=part, batch=batch: computing[part](batch)) for _ in range(rounds)]
        seconds[part] = 2 * min(passes)
    deform, tower = operations(extent)
    rate = 2 * (deform + tower) / sum(seconds.values())
    product = max(before, product_rate())
    return {
        "seconds": {part: round(value, 2) for part, value in seconds.items()},
        "gflops": round(rate / 1e9, 1),
        "product_gflops": round(product / 1e9, 1),
        "of_product": round(rate / product, 3),
        "planes": {part: network.planes((half,) * 3) for part, network in computing.items()},
        "peak_gb": round(peak_bytes() / 1e9, 2),
    }


def whole(task: Any, extent: int) -> dict[str, Any]:
    """Register two scans of 256 cubed voxels."""
    import nibabel

    rng = np.random.default_rng(0)
    scans = [nibabel.Nifti1Image(rng.random((256,) * 3, np.float32), np.eye(4)) for _ in range(2)]
    forget_peak()
    seconds = timed(lambda: task(*scans, extent=extent))
    return {"whole_seconds": round(seconds, 1), "whole_peak_gb": round(peak_bytes() / 1e9, 2)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the backend of this process."""
    import keras

    found: dict[str, Any] = {"backend": keras.backend.backend()}
    task = make_task()
    if options.extent:
        found |= forward(task, options.extent, options.rounds)
    if options.peak_extent:
        found |= whole(task, options.peak_extent)
    return found


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extent", type=int, default=192, help="0 leaves this out")
    parser.add_argument("--peak-extent", type=int, default=256, help="0 leaves this out")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--peak-backends", default="torch", help="backends of the whole registration")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure each backend in a process of its own; one line of JSON each."""
    options = parse(argv)
    if options.worker:
        limit_threads(options.threads)
        print(json.dumps(measure(options)))
        return 0
    for backend in options.backends.split(","):
        peak = options.peak_extent if backend in options.peak_backends.split(",") else 0
        command = [sys.executable, str(Path(__file__)), "--worker", f"--threads={options.threads}"]
        command += [f"--extent={options.extent}", f"--peak-extent={peak}", f"--rounds={options.rounds}"]
        quiet = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        answer = subprocess.run(command, env=quiet, check=False, stdout=subprocess.PIPE, text=True).stdout
        print(
            answer.splitlines()[-1] if answer else json.dumps({"backend": backend, "failed": True}),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
