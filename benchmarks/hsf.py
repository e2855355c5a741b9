"""One full-width network of HSF on a crop: kerasneuro against onnxruntime with the file that HSF would run.

The file is written by PyTorch's TorchScript exporter (opset 17, free sizes), as the published ones, from the
twin with random weights.

    python benchmarks/hsf.py [--threads 2] [--edge 56] [--rounds 5] [--backends torch openvino]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import operations
from fleet import OUR_PYTHON, Contender, Fleet
from plan import SIZES, Plan, available_cores
from summary import largest_differences, make_case

BEST, EACH = 1.0, 3.0
"""Promised: times onnxruntime for the fastest backend, and for each."""
FULL_EDGE, SMALL_EDGE = 56, 24
FAMILY = "hsf"
INPUT, OUTPUT = "cropped_hippocampus", "segmented_hippocampus"


def export(path: Path) -> None:
    """Write the ONNX file."""
    import torch
    from twins import hsf
    from twins.weights import fill

    class Module(torch.nn.Module):
        """The training module, whose name is part of those of the weights."""

        def __init__(self) -> None:
            super().__init__()
            self._model = hsf.build()
            fill(self._model)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Return probabilities."""
            return self._model(x)  # type: ignore[no-any-return]

    axes = {0: "batch", 2: "x", 3: "y", 4: "z"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an exporter that is no longer the default
        torch.onnx.export(
            Module().eval(),
            (torch.zeros(1, 1, 16, 16, 16),),
            str(path),
            opset_version=17,
            dynamo=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: axes, OUTPUT: axes},
        )


def measure_hsf(plan: Plan, edge: int | None = None) -> dict[str, Any] | None:
    """Return the case, with the verdict on both bounds; None where there is no time."""
    if not plan.has_time_for("HSF's network"):
        return None
    edge = edge or (FULL_EDGE if plan.sizes.volume >= 256 else SMALL_EDGE)
    path = plan.folder / "hsf.onnx"
    subprocess.run([sys.executable, __file__, "--export", str(path)], check=True, stdout=subprocess.DEVNULL)
    contenders = [Contender("onnxruntime", "CPU", OUR_PYTHON, "onnx_network.py", ("--file", str(path)), True)]
    contenders += [Contender("kerasneuro", name, OUR_PYTHON, "network.py") for name in plan.backends]
    with Fleet(contenders, plan.threads, plan.deadline) as fleet:
        measured = fleet.take_turns(
            plan.sizes.rounds,
            starts=1,
            load={"family": FAMILY},
            run={},
            prepare={"family": FAMILY, "edge": edge, "batch": 1},
        )
        shape = " x ".join(map(str, operations.hsf_crop(edge)))
        title = f"HSF's network (generation 4) on a crop of {shape}"
        case = make_case(FAMILY, title, fleet, measured, operations.hsf_network(edge))
        differences = largest_differences(fleet, plan.folder)
        for row, contender in zip(case["rows"], fleet.workers, strict=True):
            row["largest_difference"] = differences.get(contender)
    path.unlink()
    return {**case, "edge": edge, "kept": verdict(case)}


def verdict(case: Mapping[str, Any]) -> dict[str, bool]:
    """Say which bound is kept."""
    ratios = [row["ratio"] for row in case["rows"] if not row["is_reference"] and row["ratio"]]
    if not ratios:
        return {}
    return {
        f"fastest backend at most {BEST:g} x onnxruntime": min(ratios) <= BEST,
        f"each backend at most {EACH:g} x onnxruntime": max(ratios) <= EACH,
    }


def main() -> int:
    """Measure, print the record, and fail where a bound is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--edge", type=int, default=FULL_EDGE, help="56 is a crop of 40 x 56 x 56")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backends", nargs="+", default=["tensorflow", "jax", "torch", "openvino"])
    parser.add_argument("--export", type=Path, metavar="FILE", help="only write the ONNX file")
    options = parser.parse_args()
    if options.export:
        export(options.export)
        return 0
    from dataclasses import replace

    with tempfile.TemporaryDirectory() as name:
        sizes = replace(SIZES["full"], rounds=options.rounds)
        plan = Plan(sizes, tuple(options.backends), options.threads, Path(name))
        case = measure_hsf(plan, options.edge)
    print(json.dumps(case))
    return 0 if case and case["kept"] and all(case["kept"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
