"""Run the test suite once per backend and sum up.

``python tools/run_tests.py`` runs tensorflow, jax and torch in full and openvino without the tests marked
``training``; tests marked ``backend_free`` run under one backend only: PyTorch where it is asked for, which
is the quickest. Arguments after ``--`` go to pytest. The tests are shared by as many processes as there are
cores and memory for; one that has no more takes over the rest of another's. The exit code is 0 only if every
run passed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

BACKENDS = ("tensorflow", "jax", "torch", "openvino")
INFERENCE_ONLY = ("openvino",)
# Tests compile more than they compute: without the compiler's optimisation JAX needs a quarter less for both.
# Threads of PyTorch that wait would otherwise keep the cores from the other test process.
SETTINGS = {
    "jax": {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
    "torch": {"OMP_WAIT_POLICY": "PASSIVE"},
}
MEMORY_PER_WORKER = 6 * 2**30  # The largest test needs 3 GB; the rest is for the system and the page cache.


@dataclass(frozen=True)
class Run:
    """What one backend's run came to."""

    backend: str
    code: int
    seconds: float
    closing_line: str


def marker_expression(backend: str, fast: bool, backend_free: bool = True) -> str:
    """Return the pytest ``-m`` expression for a backend; empty for "everything"."""
    left_out = {"training": backend in INFERENCE_ONLY, "slow": fast, "backend_free": not backend_free}
    return " and ".join(f"not {marker}" for marker, left in left_out.items() if left)


def worker_count() -> int:
    """Return how many processes this machine has cores and memory for."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, psutil.virtual_memory().total // MEMORY_PER_WORKER))


def run_backend(
    backend: str, fast: bool, extra: Sequence[str], backend_free: bool = True, workers: int = 1
) -> Run:
    """Run pytest under one backend, pass its output on, and keep its closing line."""
    command = [sys.executable, "-m", "pytest", *extra]
    if workers > 1:
        command += ["--numprocesses", str(workers), "--dist", "worksteal"]
    if expression := marker_expression(backend, fast, backend_free):
        command += ["-m", expression]
    print(f"\n===== KERAS_BACKEND={backend}: {' '.join(command[1:])}", flush=True)
    own = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment = {**SETTINGS.get(backend, {}), **os.environ, **own}
    started = time.monotonic()
    closing_line = ""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.strip():
                closing_line = line.strip().strip("= ")
    return Run(backend, process.returncode, time.monotonic() - started, closing_line)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the backends asked for, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--fast", action="store_true", help="leave out the tests marked slow")
    parser.add_argument("--workers", type=int, default=worker_count(), help="processes; default %(default)s")
    parser.add_argument("extra", nargs="*", help="arguments for pytest (after --)")
    options = parser.parse_args(argv)
    quickest = "torch" if "torch" in options.backends else options.backends[0]
    runs = [
        run_backend(backend, options.fast, options.extra, backend == quickest, options.workers)
        for backend in options.backends
    ]
    print("\n===== summary")
    for run in runs:
        verdict = "ok    " if run.code == 0 else "FAILED"
        print(f"{verdict} {run.backend:<11} {run.seconds:6.0f} s   {run.closing_line}")
    return 0 if all(run.code == 0 for run in runs) else 1


if __name__ == "__main__":
    raise SystemExit(main())
