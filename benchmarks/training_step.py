"""What a step of training costs: `fit` of the U-Net under each backend, and bare PyTorch, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fleet import OUR_PYTHON, Contender, Fleet, Series

BACKENDS = ("torch", "tensorflow", "jax")
FORMATS = ("contiguous", "channels_last")
PATIENCE_S = 1200.0


def contenders(backends: Sequence[str]) -> list[Contender]:
    """Return kerasneuro under each backend, and bare PyTorch in both memory formats."""
    ours = [Contender("kerasneuro", name, OUR_PYTHON, "step.py") for name in backends]
    bare = [
        Contender("bare torch", name, OUR_PYTHON, "step.py", ("--format", name), True) for name in FORMATS
    ]
    return ours + bare


def measure_steps(
    batches: Mapping[int, int],
    steps: int,
    rounds: int,
    threads: int,
    backends: Sequence[str] = BACKENDS,
) -> Iterator[dict[str, Any]]:
    """Time steps on patches of each edge; the bare time is that of the better memory format.

    Parameters
    ----------
    batches : mapping of int to int
        Edge of the patch -> patches in a batch.
    steps : int
        Steps of a round.
    """
    with Fleet(contenders(backends), threads, time.monotonic() + PATIENCE_S) as fleet:
        for edge, batch in batches.items():
            prepare = {"edge": edge, "batch": batch, "steps": steps}
            series, _ = fleet.take_turns(rounds, starts=1, load={"edge": edge}, run={}, prepare=prepare)
            yield {"part": "step", "edge": edge, "batch": batch, **compare(series, steps)}


def compare(series: Mapping[Contender, Series], steps: int) -> dict[str, Any]:
    """Set each backend against the better memory format of bare PyTorch.

    The processor's time tells what was worked even where other jobs share the machine.
    """
    found: dict[str, dict[str, float]] = {"seconds": {}, "cpu_seconds": {}, "loss": {}}
    for contender, times in series.items():
        if times.following:
            name = contender.backend if contender.tool == "kerasneuro" else f"bare {contender.backend}"
            found["seconds"][name] = round(statistics.median(times.following) / steps, 4)
            found["cpu_seconds"][name] = round(times.last["cpu_seconds"] / steps, 4)
            found["loss"][name] = round(times.last["loss"], 5)
    ratios = {}
    for clock in ("seconds", "cpu_seconds"):
        bare = min(spent for name, spent in found[clock].items() if name.startswith("bare"))
        ours = {name: spent for name, spent in found[clock].items() if not name.startswith("bare")}
        ratios[f"{clock}_of_bare_torch"] = {name: round(spent / bare, 2) for name, spent in ours.items()}
    return {**found, **ratios}
