"""Time Grad-CAM against a forward pass of the FCD network, on every training backend (target: at most 4 x).

Each backend runs in a process of its own; forward pass and Grad-CAM take turns, with random weights.

    python benchmarks/explain.py [--edge 128] [--rounds 5] [--threads 2] [--json FILE]
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
from statistics import median
from typing import Any

from common import limit_threads

BACKENDS = ("tensorflow", "jax", "torch")
TARGET = 4.0
LAYERS = (
    None,
    "block4",
)  # None: conv_head, the default; block4: a finer map, with most of the network behind it


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edge", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--json", type=Path, help="write the figures into this file, too")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(edge: int, rounds: int) -> dict[str, float]:
    """Return median seconds of each call on the current backend, and of the first Grad-CAM."""
    import numpy as np
    from random_weights import fill

    from kerasneuro.explain import grad_cam
    from kerasneuro.inference import Engine
    from kerasneuro.models.fcd import graph

    model = graph.build()
    fill(model)
    volume = np.random.default_rng(0).uniform(size=(1, edge, edge, edge, 2)).astype(np.float32)
    engine = Engine(model)
    calls: dict[str, Callable[[], Any]] = {"forward": lambda: engine(volume)}
    calls |= {
        f"grad-cam {layer or 'conv_head'}": lambda layer=layer: grad_cam(model, volume, 1, layer)
        for layer in LAYERS
    }
    first = {f"first {name}": seconds(call) for name, call in calls.items()}
    series: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            series[name].append(seconds(call))
    return first | {name: median(values) for name, values in series.items()}


def seconds(call: Callable[[], Any]) -> float:
    """Time one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def run_backend(backend: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure one backend in a fresh process."""
    command = [sys.executable, __file__, "--worker", "--edge", str(options.edge)]
    command += ["--rounds", str(options.rounds), "--threads", str(options.threads)]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print a table of all backends, or, as a worker, the figures of one."""
    options = parse()
    if options.worker:
        limit_threads(options.threads)
        if os.environ["KERAS_BACKEND"] == "torch":
            import torch

            torch.set_num_threads(options.threads)
        print(json.dumps(measure(options.edge, options.rounds)))
        return
    found = {}
    for backend in options.backends:
        row = found[backend] = run_backend(backend, options)
        for name in [name for name in row if name.startswith("grad-cam")]:
            ratio = row[name] / row["forward"]
            verdict = "ok" if ratio <= TARGET else f"above {TARGET:g}"
            times = f"{row[name]:7.3f} s = {ratio:4.2f} x forward ({row['forward']:.3f} s)"
            print(
                f"{backend:10} {name:20} {times}, first {row[f'first {name}']:.1f} s: {verdict}", flush=True
            )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
