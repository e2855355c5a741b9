"""The networks alone, NumPy to NumPy: kerasneuro's graphs against bare PyTorch twins, and scaling curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import operations
from fleet import OUR_PYTHON, Contender, Fleet
from plan import Plan
from random_weights import PLANES
from summary import largest_differences, make_case

FORMATS = ("contiguous", "channels_last")
OPERATIONS: Mapping[str, Callable[[int], int]] = {
    "deepbet": operations.deepbet_network,
    "nobrainer": operations.nobrainer_network,
    "kwyk": operations.kwyk_network,
    "fastsurfer": operations.fastsurfer_network,
    "fcd": operations.fcd_network,
}
TITLES = {
    "deepbet": "deepbet's network",
    "nobrainer": "nobrainer's U-Net",
    "kwyk": "kwyk's MeshNet (bwn, 50 classes)",
    "fastsurfer": "FastSurferCNN (axial)",
    "fcd": "the FCD classifier (two channels)",
}


def twins(device: str = "cpu") -> list[Contender]:
    """Return the bare PyTorch networks in both memory formats."""
    return [
        Contender("bare torch", name, OUR_PYTHON, "twin.py", ("--format", name), True, device)
        for name in FORMATS
    ]


def graphs(backends: Sequence[str], device: str = "cpu") -> list[Contender]:
    """Return kerasneuro under each backend."""
    return [Contender("kerasneuro", name, OUR_PYTHON, "network.py", device=device) for name in backends]


class Networks:
    """Cases on one fleet; a network stays loaded from one case to the next where it is the same."""

    def __init__(self, fleet: Fleet, plan: Plan) -> None:
        self.fleet, self.plan = fleet, plan
        self.loaded = ""

    def measure(self, family: str, edge: int, batch: int = 1, *, rounds: int | None = None) -> dict[str, Any]:
        """Measure one network on one size."""
        starts = 0 if self.loaded == family else 1
        self.loaded = family
        measured = self.fleet.take_turns(
            rounds or self.plan.sizes.rounds,
            starts=starts,
            load={"family": family},
            run={},
            prepare={"family": family, "edge": edge, "batch": batch},
        )
        title = f"{TITLES[family]} on {batch} x {edge} {'squared' if family in PLANES else 'cubed'}"
        case = make_case(
            f"{family} {batch}x{edge}", title, self.fleet, measured, batch * OPERATIONS[family](edge)
        )
        differences = largest_differences(self.fleet, self.plan.folder)
        for row, contender in zip(case["rows"], self.fleet.workers, strict=True):
            row["largest_difference"] = differences.get(contender)
        return {**case, "family": family, "edge": edge, "batch": batch}


def forward_cases(networks: Networks) -> list[dict[str, Any]]:
    """Measure every family once, the smallest first, so that the peak of one does not hide the next one's."""
    sizes = networks.plan.sizes
    jobs = (
        ("kwyk", sizes.kwyk, 1),
        ("fastsurfer", sizes.fastsurfer, sizes.slices),
        ("fcd", sizes.fcd, 1),
        ("deepbet", sizes.deepbet, 1),
        ("nobrainer", sizes.unet, 1),
    )
    return [
        networks.measure(family, edge, batch)
        for family, edge, batch in jobs
        if networks.plan.has_time_for(f"the network of {family} alone")
    ]


def all_threads(plan: Plan) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure what uses every thread: (networks, sizes of the U-Net, batches of the U-Net)."""
    sizes = plan.sizes
    with Fleet(twins() + graphs(plan.backends), plan.threads, plan.deadline) as fleet:
        networks = Networks(fleet, plan)
        forward = forward_cases(networks)
        batches = [
            networks.measure("nobrainer", sizes.batch_edge, batch)
            for batch in sizes.batches
            if plan.has_time_for(f"batch of {batch}")
        ]
        known = {case["edge"]: case for case in forward if case["family"] == "nobrainer"}
        for edge in sizes.unet_sizes:
            if edge not in known and plan.has_time_for(f"U-Net on {edge} cubed"):
                known[edge] = networks.measure("nobrainer", edge)
    return forward, [known[edge] for edge in sorted(known)], batches


def fewer_threads(plan: Plan) -> list[dict[str, Any]]:
    """Measure the U-Net with fewer threads, a fresh fleet for each number."""
    found = []
    for threads in plan.thread_counts()[:-1]:
        if plan.has_time_for(f"{threads} thread(s)"):
            with Fleet(twins() + graphs(plan.backends), threads, plan.deadline) as fleet:
                case = Networks(fleet, plan).measure("nobrainer", plan.sizes.thread_edge)
            found.append({**case, "threads": threads})
    return found


def measure_networks(plan: Plan) -> dict[str, Any]:
    """Return the networks alone and the three curves."""
    threads = fewer_threads(plan)
    forward, by_size, batches = all_threads(plan)
    full = [{**case, "threads": plan.threads} for case in by_size if case["edge"] == plan.sizes.thread_edge]
    return {
        "forward": forward,
        "scaling": {"size": by_size, "batch": batches, "threads": threads + full},
    }
