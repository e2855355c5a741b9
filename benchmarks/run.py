"""Time kerasneuro against the original tools and bare PyTorch on this machine; write benchmarks.md and .json.

Every tool is a live process with the same number of threads; the tools take turns (A B C A B C ...). Imports
are not timed; loading, the first call and later calls are timed apart. ``make bench`` sets up the
environments of the original tools and calls this script; ``make bench QUICK=1`` takes under five minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerator import measure_gpu
from hsf import measure_hsf
from networks import measure_networks
from plan import SIZES, Plan, available_cores
from training_step import BACKENDS as TRAINED
from training_step import measure_steps
from whole_jobs import deepbet, nobrainer
from write_up import machine, write

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("tensorflow", "jax", "torch", "openvino")
CASES = ("deepbet", "nobrainer", "parcellation", "specialise", "hsf", "training", "gpu", "networks")
PATCHES, TRAINING_STEPS = {32: 2}, 2  # edge of the patch -> patches in a batch; steps of a round
HYPERNETWORK_BYTES = 45 * 10**8  # room for its file, and for what is made of it


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="full", help="tiny only tests this benchmark itself")
    parser.add_argument(
        "--quick", action="store_const", const="quick", dest="size", help="the same as --size quick"
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--rounds", type=int, help="default: 5; with --quick: 3")
    parser.add_argument("--edges", nargs="+", type=int, help="sizes of the scaling curve; default: 64 96 128")
    parser.add_argument(
        "--keep", action="store_true", help="keep the cases not asked for as the last full run left them"
    )
    parser.add_argument("--minutes", type=float, help="begin nothing new after these; default: 45, quick 4")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs", help="folder for benchmarks.md and .json"
    )
    return parser.parse_args(argv)


def make_plan(options: argparse.Namespace, folder: Path) -> Plan:
    """Turn the command line into a plan."""
    changed: dict[str, Any] = {"rounds": options.rounds, "minutes": options.minutes}
    changed["unet_sizes"] = tuple(sorted(options.edges)) if options.edges else None
    given = {name: value for name, value in changed.items() if value is not None}
    sizes = dataclasses.replace(SIZES[options.size], **given)
    return Plan(sizes, tuple(options.backends), options.threads, folder)


def kept_record(folder: Path, size: str, cases: list[str]) -> dict[str, Any]:
    """Return what an earlier run of this size measured for the cases that are not asked for now."""
    path = folder / "benchmarks.json"
    last = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = [name for name in CASES if name not in cases]
    if last.get("size") != size or not kept:
        return {}
    record: dict[str, Any] = {"kept": kept_runs(last, kept)}
    for name in ("cases", "blocks"):
        record[name] = [case for case in last[name] if case["case"].removesuffix("-block") in kept]
    for name in ("parcellation", "specialise", "hsf", "training"):
        if name in kept:
            record[name] = last.get(name)
    if "gpu" in kept:
        record["gpu"] = last["gpu"]
    if "networks" in kept:
        record |= {"forward": last["forward"], "scaling": last["scaling"]}
    return record


def kept_runs(last: Mapping[str, Any], kept: list[str]) -> list[dict[str, Any]]:
    """Name the runs that the kept cases come from: the last one may have kept some of an earlier one."""
    runs = [{**run, "cases": [name for name in run["cases"] if name in kept]} for run in last.get("kept", [])]
    older = {name for run in runs for name in run["cases"]}
    own = [name for name in kept if name not in older]
    runs.append({"cases": own, "date": last["date"], "machine": last["machine"]})
    return [run for run in runs if run["cases"]]


def measure(plan: Plan, cases: list[str], kept: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Run the cases asked for; yields the record after each, so that an interrupted run is not lost."""
    record: dict[str, Any] = {"cases": [], "blocks": [], "gpu": None, "forward": [], "scaling": {}, **kept}
    if "deepbet" in cases:
        record["cases"].append(deepbet(plan))
        yield record
    if "nobrainer" in cases:
        volume, block = nobrainer(plan)
        record["cases"].append(volume)
        record["blocks"].append(block)
        yield record
    if "parcellation" in cases:
        record["parcellation"] = parcellation(plan)
        yield record
    if "specialise" in cases:
        record["specialise"] = specialise(plan)
        yield record
    if "hsf" in cases:
        record["hsf"] = measure_hsf(plan)
        yield record
    if "training" in cases:
        record["training"] = training(plan)
        yield record
    if "gpu" in cases:
        record["gpu"] = measure_gpu(plan)
        yield record
    if "networks" in cases:
        yield {**record, **measure_networks(plan)}


def parcellation(plan: Plan) -> dict[str, Any] | None:
    """Time the steps of FastSurfer's pipeline in a process of its own; they have one size, 256 cubed."""
    if plan.sizes.volume < 256 or not plan.has_time_for("FastSurfer's pipeline outside its networks"):
        return None
    return script("parcellation.py")


def specialise(plan: Plan) -> dict[str, Any] | None:
    """Time how a hypernetwork's file becomes a network for one regularisation; small where the run is."""
    full = plan.sizes.volume >= 256
    if full and shutil.disk_usage(plan.folder).free < HYPERNETWORK_BYTES:
        plan.leave_out(f"synthmorph-deform from its file: {plan.folder} has no 4.5 GB to spare")
        return None
    if not plan.has_time_for("synthmorph-deform from its file"):
        return None
    width, rounds = (256, 3) if full else (32, 1)
    options = ["--folder", str(plan.folder), "--width", str(width), "--rounds", str(rounds)]
    return script("specialise.py", *options, "--backend", plan.backends[0])


def training(plan: Plan) -> dict[str, Any] | None:
    """Time a step of training under each backend, and what the making of patches adds to it."""
    backends = [name for name in TRAINED if name in plan.backends]
    if not backends or not plan.has_time_for("the training of a U-Net"):
        return None
    steps = next(measure_steps(PATCHES, TRAINING_STEPS, plan.sizes.rounds, plan.threads, backends))
    options = ["--part", "data", "--edges", *map(str, PATCHES), "--threads", str(plan.threads)]
    return {"step": steps, "data": script("training.py", *options, backend=backends[0])}


def script(name: str, *options: str, backend: str | None = None) -> dict[str, Any]:
    """Run a benchmark that is a script of its own; its last line is its record."""
    command = [sys.executable, str(Path(__file__).with_name(name)), *options]
    chosen = {"KERAS_BACKEND": backend} if backend else {}
    environment = {**os.environ, **chosen}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    record: dict[str, Any] = json.loads(output.splitlines()[-1])
    return record


def main(argv: list[str] | None = None) -> int:
    """Measure, and write both files."""
    options = parse(argv)
    here = machine(options.threads)
    with tempfile.TemporaryDirectory() as name:
        plan = make_plan(options, Path(name))
        kept = kept_record(options.output, options.size, options.cases) if options.keep else {}
        for record in measure(plan, options.cases, kept):
            minutes = round((time.monotonic() - plan.started) / 60, 1)
            print(f"{minutes} minutes", flush=True)
            facts = {"size": options.size, "minutes": minutes, "machine": here, "left_out": plan.left_out}
            write(options.output, {**facts, **record})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
