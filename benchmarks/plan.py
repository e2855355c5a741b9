"""What a run measures: sizes, rounds and the time it may take."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path


def available_cores() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Sizes:
    """Edges in voxels, numbers of rounds, and minutes.

    Attributes
    ----------
    rounds, starts : int
        Rounds of a case, and how many of them load anew (whole jobs; networks load once).
    volume, block : int
        The block-wise U-Net job.
    whole_rounds : int
        How often the whole volume is done.
    unet, deepbet, kwyk, fastsurfer, fcd : int
        Input of the networks alone.
    slices : int
        Batch of the 2-D network.
    unet_sizes, batch_edge, batches, thread_edge
        The scaling curves, all of the U-Net.
    minutes : float
        After these, what has not begun is left out and said to be.
    """

    rounds: int
    starts: int
    volume: int
    block: int
    whole_rounds: int
    unet: int
    deepbet: int
    kwyk: int
    fastsurfer: int
    fcd: int
    slices: int
    unet_sizes: tuple[int, ...]
    batch_edge: int
    batches: tuple[int, ...]
    thread_edge: int
    minutes: float


SIZES = {
    "full": Sizes(5, 5, 256, 128, 1, 96, 256, 32, 256, 128, 8, (64, 96, 128), 32, (1, 2, 4), 64, 45.0),
    "quick": Sizes(3, 1, 64, 32, 3, 32, 128, 16, 256, 128, 2, (32, 48, 64), 16, (1, 2, 4), 32, 4.0),
    "tiny": Sizes(2, 1, 32, 16, 1, 16, 64, 8, 32, 32, 2, (16, 24), 8, (1, 2), 16, 10.0),
}


@dataclass
class Plan:
    """One run of the benchmark."""

    sizes: Sizes
    backends: tuple[str, ...]
    threads: int
    folder: Path
    started: float = field(default_factory=time.monotonic)
    left_out: list[str] = field(default_factory=list)

    @property
    def deadline(self) -> float:
        """When nothing new begins, on the clock of `time.monotonic`."""
        return self.started + 60 * self.sizes.minutes

    def has_time_for(self, what: str) -> bool:
        """Tell whether there is time left; note what is left out where there is none."""
        if time.monotonic() < self.deadline:
            return True
        self.leave_out(f"{what}: the {self.sizes.minutes:g} minutes of this run were over")
        return False

    def leave_out(self, line: str) -> None:
        """Note something that was not measured, and why."""
        print(f"left out: {line}", flush=True)
        self.left_out.append(line)

    def thread_counts(self) -> list[int]:
        """Return 1, 2, 4, ... up to the threads of this run, which are last."""
        counts = [1]
        while counts[-1] * 2 < self.threads:
            counts.append(counts[-1] * 2)
        return sorted({*counts, self.threads})
