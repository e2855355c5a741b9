"""What every benchmark worker shares: threads, the clock, peak memory, and the conversation with run.py.

A worker is a script that keeps one tool alive in one process. It reads commands, one JSON object a line, on
standard input (``{"do": "run", ...}``) and answers each with one JSON line. So loading, the first call and
later calls are timed apart from each other and from imports, and the tools can take turns. This module needs
the standard library alone, because the workers run in different environments.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

BYTES_PER_MAXRSS = 1 if sys.platform == "darwin" else 1024
COMMANDS = ("prepare", "load", "run", "sample")


def parse_arguments(description: str | None, *extra: str) -> argparse.Namespace:
    """Read a worker's command line and limit the process to the threads asked for.

    `extra` are the names of further options, which are text.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    for name in extra:
        parser.add_argument(f"--{name}")
    options = parser.parse_args()
    if options.device == "cpu":
        limit_threads(options.threads)
    return options


def limit_threads(threads: int) -> None:
    """Give this process `threads` processors, before any library starts its pool."""
    for name in ("OMP", "MKL", "OPENBLAS", "TF_INTRAOP", "TF_INTEROP"):
        variable = f"{name}_NUM_THREADS" if not name.startswith("TF_") else f"TF_NUM_{name[3:]}_THREADS"
        os.environ[variable] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def peak_bytes() -> int:
    """Return the largest resident memory of this process since `forget_peak`, or since its start."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_MAXRSS


def forget_peak() -> bool:
    """Start a new peak, where the system can (Linux); otherwise the peak is that of the whole process."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def claim_output() -> TextIO:
    """Keep standard output for answers; whatever a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def answer(worker: object, command: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out one command, timed."""
    arguments = dict(command)
    name = arguments.pop("do")
    if name == "forget_peak":
        return {"done": forget_peak()}
    if name not in COMMANDS:
        raise ValueError(f"no command {name!r}: expected one of {', '.join(COMMANDS)}")
    started = time.perf_counter()
    more = getattr(worker, name)(**arguments)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_bytes": peak_bytes(), **(more or {})}


def serve(worker: object, packages: Sequence[str], answers: TextIO) -> None:
    """Say which versions are at work, then answer commands until standard input ends.

    A worker has methods named like the commands: `prepare` (what no table shows), `load`, `run`, `sample`
    (write a piece of the last result, to compare). Each returns None or a dict to add to the answer.
    """
    versions = {name: metadata.version(name) for name in packages}
    print(json.dumps({"ready": True, "versions": versions}), file=answers)
    for line in sys.stdin:
        try:
            reply = answer(worker, json.loads(line))
        except Exception:
            reply = {"error": traceback.format_exc()[-3000:]}
        print(json.dumps(reply), file=answers)
