"""From the seconds of many calls to one row per tool."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fleet import Contender, Fleet, Series, WorkerFailed


def median(values: Sequence[float]) -> float | None:
    """Return the median, or None where nothing was measured."""
    return statistics.median(values) if values else None


def span(values: Sequence[float]) -> list[float] | None:
    """Return the smallest and the largest."""
    return [min(values), max(values)] if values else None


def make_row(
    contender: Contender, series: Series, fleet: Fleet, operations: int, rate: float
) -> dict[str, Any]:
    """Sum up one tool; `rate` is the matrix product's in GFLOP/s."""
    following = median(series.following)
    totals = [load + first for load, first in zip(series.load, series.first, strict=False)]
    row: dict[str, Any] = {
        "tool": contender.tool,
        "backend": contender.backend,
        "is_reference": contender.is_reference,
        "load_s": median(series.load),
        "first_call_s": median(series.first),
        "next_call_s": following,
        "next_call_range_s": span(series.following),
        "end_to_end_s": median(totals),
        "end_to_end_range_s": span(totals),
        "fresh_process_s": totals[0] if totals else None,
        "starts": len(series.first),
        "calls": len(series.following),
        "peak_bytes": series.peak or None,
        "share_of_matrix_rate": operations / following / 1e9 / rate if following else None,
        "seconds": {"load": series.load, "first_call": series.first, "next_call": series.following},
        "versions": fleet.workers[contender].versions,
        "failure": series.failure,
    }
    if "device_peak_bytes" in series.last:
        row["device_peak_bytes"] = series.last["device_peak_bytes"]
    return row


def add_ratios(rows: Sequence[dict[str, Any]], measure: str, name: str) -> None:
    """Divide a measure by that of the reference (the faster one, where there are two)."""
    references = [row[measure] for row in rows if row["is_reference"] and row[measure]]
    for row in rows:
        row[name] = row[measure] / min(references) if references and row[measure] else None


def make_case(
    name: str,
    title: str,
    fleet: Fleet,
    measured: tuple[Mapping[Contender, Series], Sequence[float]],
    operations: int,
) -> dict[str, Any]:
    """Sum up one case, and print a line per tool."""
    series, rates = measured
    rate = statistics.median(rates)
    rows = [make_row(each, found, fleet, operations, rate) for each, found in series.items()]
    add_ratios(rows, "next_call_s", "ratio")
    for row in rows:
        seconds = "failed" if row["next_call_s"] is None else f"{row['next_call_s']:8.3f} s"
        print(f"{name:<12} {row['tool']:<14} {row['backend']:<18} {seconds}", flush=True)
    return {
        "case": name,
        "title": title,
        "operations": operations,
        "matrix_gflops": rate,
        "rounds": len(rates),
        "rows": rows,
    }


def differing_voxels(first: str, second: str) -> int:
    """Count the voxels in which two masks differ."""
    import nibabel as nib
    import numpy as np

    masks = (np.asarray(nib.load(path).dataobj) for path in (first, second))
    return int(np.count_nonzero(np.not_equal(*masks)))


def largest_differences(fleet: Fleet, folder: Path) -> dict[Contender, float]:
    """Compare the last outputs with the first reference's: largest difference over its largest value."""
    import numpy as np

    samples: dict[Contender, Any] = {}
    for number, (contender, worker) in enumerate(fleet.workers.items()):
        path = folder / f"sample-{number}.npy"
        try:
            worker.ask("sample", path=str(path))
        except WorkerFailed:
            continue
        samples[contender] = np.load(path)
    reference = next((samples[each] for each in samples if each.is_reference), None)
    if reference is None:
        return {}
    scale = float(np.abs(reference).max())
    return {each: float(np.abs(found - reference).max()) / scale for each, found in samples.items()}
