"""The section of docs/benchmarks.md about the training of segmentation networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BOUNDS = {"torch": 1.3, "tensorflow": 3.0, "jax": 3.0}
LEAST_SHARE = 0.9
TRAINING = """\
Nobrainer's U-Net with 16 filters, `fit` under each backend against a plain loop in bare PyTorch (the better
memory format), in turns; the processor's seconds are those of all threads. Then the part of the time that is
spent in the step while patches are cut and augmented beside it.
"""


def training(record: Mapping[str, Any]) -> list[str]:
    """Return the section."""
    step, data = record["step"], record["data"]
    lines = [f"## Training on {step['batch']} patches of {step['edge']} cubed", "", TRAINING]
    lines += ["| backend | step, s | x bare torch | processor s | x |", "|---|---:|---:|---:|---:|"]
    for name, seconds in step["seconds"].items():
        ratio = step["seconds_of_bare_torch"].get(name)
        work = step["cpu_seconds_of_bare_torch"].get(name)
        cells = [f"{seconds:.2f}", ratio or "", f"{step['cpu_seconds'][name]:.2f}", work or ""]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    missed = [name for name, ratio in step["seconds_of_bare_torch"].items() if ratio > BOUNDS[name]]
    bounds = ", ".join(f"{name} {bound:g}" for name, bound in BOUNDS.items())
    lines += ["", f"At most ({bounds}): {'missed by ' + ', '.join(missed) if missed else 'kept'}.", ""]
    share = data["share_of_time"]
    verdict = "kept" if share >= LEAST_SHARE else "missed"
    return [
        *lines,
        f"With data ({data['backend']}): {share:.0%} of the time in the step, waiting for data "
        f"{1 - data['share_not_waiting']:.1%} of it; at least {LEAST_SHARE:.0%}: {verdict}.",
        "",
    ]
