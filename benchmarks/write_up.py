"""Write the measurements down: docs/benchmarks.json for programs, docs/benchmarks.md for people."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from write_training import training

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]

HOW = """\
Each tool is one live process; the tools take turns (A B C A B C ...) with equal threads, and the numbers are
medians over the rounds, with the range in brackets. Imports are not timed. *Load* is reading the weights into
a new model, *first call* the first one after that (it compiles, where a backend does), *next call* any later
one. A tool that takes more than 20 s per call is called only twice: *calls* says how often *next call* was
measured. *x original* and *x torch* divide a tool's time by that of the original tool, or of the faster
PyTorch twin, in the same run: below 1 is faster. *Memory* is the largest resident memory of the process (on
Linux since the case began, libraries included). *Share of matrix rate* is the arithmetic of the published
network, divided by the time of the next call, over the rate of NumPy's float32 matrix product with the same
threads, measured in every round. Repeat with `make bench`.
"""
JOBS = """\
From the weight file to the saved results, against the original tools in environments of their own. Both write
the same files: deepbet brain, mask and volume; nobrainer the mask. *End to end* is load plus first call, for
a model loaded anew in a live process; in a *fresh process* libraries warm up, too (one measurement). The
blocks are scans of one block each. A volume is done in the same processes after the blocks, with the weights
loaded anew; tools that would need too long are measured on blocks only and named at the end of this page.
"""
FORWARD = """\
The network alone, NumPy array in, NumPy array out: kerasneuro's graph through `kerasneuro.inference.Engine`
with default options, against the same architecture in plain `torch.nn` (`benchmarks/twins/`) in two memory
formats, under `torch.inference_mode`. Weights are random and equal, the input is equal; *difference* is the
largest difference from the first twin's output, relative to that output's largest value. (FastSurferCNN puts
values back where the maximum of a window was: where two values of a window differ by no more than rounding, a
value moves by a pixel. Its largest difference is of this kind.) The first call and loading are measured once.
"""
BUSY = "The machine was busy with other work when this run began: do not rely on these numbers."
SCALING = "Median seconds of the next call of nobrainer's U-Net; best of each column in bold."
STEPS = """\
256 cubed, no slice empty, one process without a network: the logits are random, the class map has all 79
classes in many pieces.
"""
SPECIALISED = """\
A file of random values in the layout of synthmorph-deform's becomes the network for one regularisation; each
step in a process of its own, medians (memory: the most), imports not timed. Promised: the first load within
1.5 times reading and hashing the file once, and 5 s; 1.2 GB of memory; from the cache within 2 s.
"""
HSF = """\
A network of full width with random weights, in an ONNX file as PyTorch's exporter writes it: through
onnxruntime, as HSF runs it, and the same weights in our graph. *Difference* is that of the probabilities.
"""
GPU = """\
As above, with the arrays in main memory before and after the call. Convolutions run in each library's own
default precision, which may be TF32; the matrix product is true float32, so shares above 100% can occur. GPU
memory is the most that the library has taken since the process began.
"""


def processor() -> str:
    """Name the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine(threads: int) -> dict[str, Any]:
    """Describe the machine, and how busy it is."""
    import psutil

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads_used": threads,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": round(psutil.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def number(name: str, form: str = ".2f", scale: float = 1.0) -> Callable[[Row], str]:
    """Return a formatter of one entry; a missing one gives an empty cell."""
    return lambda row: "" if row.get(name) is None else format(row[name] * scale, form)


def ranged(name: str) -> Callable[[Row], str]:
    """Return a formatter of a median with its range."""

    def cell(row: Row) -> str:
        """Show the reason where nothing was measured."""
        if row[f"{name}_s"] is None:
            return "failed" if row["failure"] else ""
        low, high = row[f"{name}_range_s"]
        if low == high:
            return f"{low:.2f}"
        return f"{row[f'{name}_s']:.2f} ({low:.2f}-{high:.2f})"

    return cell


MEMORY: Column = ("memory, GB", number("peak_bytes", ".2f", 1e-9))
SHARE: Column = ("share of matrix rate", number("share_of_matrix_rate", ".0%"))
CALLS: tuple[Column, ...] = (
    ("load, s", number("load_s")),
    ("first call, s", number("first_call_s")),
    ("next call, s", ranged("next_call")),
    ("calls", number("calls", ".0f")),
)
UNLIKE: Column = ("voxels unlike the original", number("differing_voxels", ",.0f"))
END: tuple[Column, ...] = (
    ("end to end, s", ranged("end_to_end")),
    ("x original", number("end_to_end_ratio")),
)
FRESH: Column = ("end to end, fresh process, s", number("fresh_process_s"))
AGAINST: tuple[Column, ...] = (
    ("x torch", number("ratio")),
    ("difference", number("largest_difference", ".0e")),
)
COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "deepbet": (*END, FRESH, *CALLS, ("x original, next call", number("ratio")), MEMORY, SHARE, UNLIKE),
    "nobrainer": (*END, ("load, s", number("load_s")), ("scan, s", number("first_call_s")), MEMORY, UNLIKE),
    "block": (*CALLS, ("x original", number("ratio")), MEMORY, SHARE, UNLIKE),
    "forward": (*CALLS, *AGAINST, MEMORY, SHARE),
    "hsf": (*CALLS, ("x onnxruntime", number("ratio")), AGAINST[1], MEMORY, SHARE),
    "gpu": (*CALLS, *AGAINST, ("GPU memory, GB", number("device_peak_bytes", ".2f", 1e-9)), SHARE),
}


def table(case: Mapping[str, Any], columns: Sequence[Column]) -> str:
    """Return one case as a Markdown table."""
    head = ["tool", "backend or format", *(name for name, _ in columns)]
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'---:|' * len(columns)}"]
    for row in case["rows"]:
        cells = [row["tool"], row["backend"], *(cell(row) for _, cell in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    rounds = "1 round" if case["rounds"] == 1 else f"{case['rounds']} rounds"
    closing = f"{rounds}; matrix product {case['matrix_gflops']:.0f} GFLOP/s."
    return "\n".join([f"### {case['title']}", "", *lines, "", closing, ""])


def curve(title: str, points: Sequence[Mapping[str, Any]], label: Callable[[Row], str]) -> str:
    """Return one scaling curve: a row per tool, a column per point."""
    best = [min(row["next_call_s"] or float("inf") for row in point["rows"]) for point in points]
    lines = [f"| tool | backend or format | {' | '.join(label(point) for point in points)} |"]
    lines.append(f"|---|---|{'---:|' * len(points)}")
    for index, first in enumerate(points[0]["rows"]):
        cells = []
        for point, least in zip(points, best, strict=True):
            seconds = point["rows"][index]["next_call_s"]
            text = "failed" if seconds is None else f"{seconds:.3f}"
            cells.append(f"**{text}**" if seconds == least else text)
        lines.append(f"| {first['tool']} | {first['backend']} | {' | '.join(cells)} |")
    return "\n".join([f"### {title}", "", *lines, ""])


def steps(record: Mapping[str, Any]) -> list[str]:
    """Return the section of FastSurfer's pipeline outside its networks."""
    lines = ["## FastSurfer's pipeline outside its networks", "", STEPS, "| step | s |", "|---|---:|"]
    lines += [f"| {name} | {seconds:.2f} |" for name, seconds in record["seconds"].items()]
    peak = record["peak_bytes"] / 1e9
    return [
        *lines,
        f"| all | {record['total_s']:.2f} |",
        "",
        f"Peak memory of the process: {peak:.2f} GB.",
        "",
    ]


def specialised(record: Mapping[str, Any]) -> list[str]:
    """Return the section of the hypernetwork."""
    size = f"{record['file_bytes'] / 1e9:.2f} GB, {record['width']} channels, {record['backend']}"
    lines = [f"## A hypernetwork's file ({size})", "", SPECIALISED]
    lines += ["| step | s | processor s | peak GB |", "|---|---:|---:|---:|"]
    titles = {"hash": "read and hash once", "first": "first load", "second": "load from the cache"}
    for step, title in titles.items():
        row = record[step]
        processor, peak = row["user_s"] + row["system_s"], row["peak_bytes"] / 1e9
        lines.append(f"| {title} | {row['wall_s']:.2f} | {processor:.2f} | {peak:.2f} |")
    missed = [name for name, kept in record["kept"].items() if not kept]
    verdict = f"Missed: {', '.join(missed)}." if missed else "All kept."
    return [*lines, "", f"First load at most {record['bound_s']:.1f} s. {verdict}", ""]


def every_case(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield every case of a run."""
    yield from (*record["cases"], *record["blocks"], *record["forward"])
    yield from (record["gpu"] or {}).get("forward", ())
    yield from filter(None, [record.get("hsf")])
    for points in record["scaling"].values():
        yield from points


def versions(record: Mapping[str, Any]) -> str:
    """List every tool and library version that took part."""
    rows = (row for case in every_case(record) for row in case["rows"])
    found = {f"{name} {number}" for row in rows for name, number in row["versions"].items()}
    return ", ".join(sorted(found))


def doubts(record: Mapping[str, Any]) -> list[str]:
    """List what failed and what was left out."""
    lines = [f"- Left out: {line}." for line in record["left_out"]]
    for case in every_case(record):
        for row in case["rows"]:
            if row["failure"]:
                reason = row["failure"].strip().splitlines()[-1]
                lines.append(f"- Failed: {case['title']}, {row['tool']} {row['backend']}: {reason}")
    return ["## Not measured", "", *dict.fromkeys(lines), ""] if lines else []


def scaling(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the section of the curves."""
    if not any(curves.values()):
        return []
    described: tuple[tuple[str, str, Callable[[Row], str]], ...] = (
        ("size", "Edge of one block, voxels", lambda point: str(point["edge"])),
        ("threads", "Threads, one block of {edge} cubed", lambda point: str(point["threads"])),
        ("batch", "Blocks of {edge} cubed in one call", lambda point: str(point["batch"])),
    )
    lines = ["## Scaling", "", SCALING, ""]
    for name, title, label in described:
        if points := curves.get(name):
            lines.append(curve(title.format(edge=points[0]["edge"]), points, label))
    return lines


def page(record: Mapping[str, Any]) -> str:
    """Return docs/benchmarks.md."""
    here = record["machine"]
    place = (
        f"{record['date']}, {here['processor']}, {here['threads_used']} threads on {here['cores']} cores, "
        f"{here['memory_gb']} GB, {here['system']}, Python {here['python']}; load average at the start "
        f"{here['load_before']}; {record['minutes']} minutes. {versions(record)}."
    )
    lines = ["# Benchmarks", "", place, ""]
    if record["size"] != "full":
        lines += ["A quick run on smaller sizes with fewer rounds; the full run says more.", ""]
    if here["load_before"] > here["cores"] / 4:
        lines += [BUSY, ""]
    for kept in record.get("kept", []):
        load = kept["machine"]["load_before"]
        lines += [f"Kept from a run of {kept['date']} (load average {load}): {', '.join(kept['cases'])}.", ""]
    lines += [HOW]
    if record["cases"]:
        lines += ["## Whole jobs", "", JOBS]
        lines += [table(case, COLUMNS[case["case"]]) for case in record["cases"]]
        lines += [table(case, COLUMNS["block"]) for case in record["blocks"]]
    if record["forward"]:
        lines += ["## Networks alone", "", FORWARD]
        lines += [table(case, COLUMNS["forward"]) for case in record["forward"]]
    if record.get("hsf"):
        missed = [name for name, kept in record["hsf"]["kept"].items() if not kept]
        verdict = f"Missed: {', '.join(missed)}." if missed else f"Kept: {', '.join(record['hsf']['kept'])}."
        lines += ["## HSF against onnxruntime", "", HSF, table(record["hsf"], COLUMNS["hsf"]), verdict, ""]
    lines += scaling(record["scaling"])
    if record.get("parcellation"):
        lines += steps(record["parcellation"])
    if record.get("specialise"):
        lines += specialised(record["specialise"])
    if record.get("training"):
        lines += training(record["training"])
    if record["gpu"]:
        lines += ["## GPU", "", record["gpu"]["line"], ""]
        lines += [GPU] if record["gpu"]["forward"] else []
        lines += [table(case, COLUMNS["gpu"]) for case in record["gpu"]["forward"]]
    return "\n".join([*lines, *doubts(record)]).rstrip() + "\n"


def write(folder: Path, measured: Mapping[str, Any]) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"date": datetime.now(UTC).date().isoformat(), **measured}
    (folder / "benchmarks.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / "benchmarks.md").write_text(page(record), encoding="utf-8")
