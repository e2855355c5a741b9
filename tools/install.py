"""Install requirements with pip, after making sure that no CUDA package would come along.

The default build of PyTorch for Linux drags in several gigabytes of CUDA packages, of no use without a
GPU. This script asks pip for its plan first (``pip install --dry-run --report``), refuses a plan that
holds a CUDA package, and only then installs. From an index that serves package metadata separately (PEP 658)
the plan costs a few kilobytes; from a plain folder of wheels nothing is downloaded at all.

Run it with the Python of the environment to fill::

    .venv/bin/python tools/install.py torch==2.13.0 --cpu-index "$TORCH_CPU_INDEX"
    .venv/bin/python tools/install.py --editable ".[all,dev]"
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

CUDA_PACKAGE = re.compile(r"(nvidia|cuda|cupy|rocm)-|(pytorch-)?triton\b|jax-cuda|nvidia$")
GPU_BUILD = re.compile(r"\+(cu\d|rocm|xpu)")

HELP = """\
No CPU build of PyTorch was found: the plan holds {found}.
Nothing was downloaded or installed. Choose one:
  - set TORCH_CPU_INDEX to the address of an index with CPU builds (PyTorch's "Get started" page has it),
    for example:  make test TORCH_CPU_INDEX=<address>
  - install a CPU build of PyTorch into this environment yourself, then repeat the command;
  - to accept the CUDA build:  make test ALLOW_CUDA=1
"""


def planned_packages(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (normalised name, version) of everything a pip report would install."""
    entries = [entry["metadata"] for entry in report.get("install", [])]
    return [(re.sub(r"[-_.]+", "-", entry["name"]).lower(), entry["version"]) for entry in entries]


def cuda_packages(report: Mapping[str, Any]) -> list[str]:
    """Return ``name==version`` of every package of a pip report that only a GPU can use."""
    return [
        f"{name}=={version}"
        for name, version in planned_packages(report)
        if CUDA_PACKAGE.match(name) or (name == "torch" and GPU_BUILD.search(version))
    ]


def make_plan(arguments: Sequence[str]) -> dict[str, Any]:
    """Ask pip what it would install, without installing it.

    Raises
    ------
    SystemExit
        With pip's own message, where the requirements can not be met.
    """
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise SystemExit(f"pip can not meet {' '.join(arguments)}:\n{answer.stderr.strip()}")
    plan: dict[str, Any] = json.loads(answer.stdout)
    return plan


def choose_arguments(arguments: list[str], cpu_index: str) -> list[str]:
    """Return the pip arguments whose plan holds no CUDA package.

    Raises
    ------
    SystemExit
        Where neither the configured index nor the given one has a CPU build.
    """
    found = cuda_packages(make_plan(arguments))
    if found and cpu_index:
        arguments = [*arguments, "--index-url", cpu_index]
        found = cuda_packages(make_plan(arguments))
    if found:
        shown = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
        raise SystemExit(HELP.format(found=shown))
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, check the plan, install."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("requirements", nargs="*", help="what to install, as pip takes it")
    parser.add_argument("--requirement", action="append", default=[], help="a requirements file")
    parser.add_argument("--editable", action="append", default=[], help="a local project to install editable")
    parser.add_argument(
        "--cpu-index", default="", help="index to try when the configured one has CUDA builds only"
    )
    parser.add_argument("--allow-cuda", action="store_true", help="do not check")
    options = parser.parse_args(argv)
    arguments = [*options.requirements]
    for flag, paths in (("--editable", options.editable), ("--requirement", options.requirement)):
        arguments += [part for path in paths for part in (flag, path)]
    if not arguments:
        parser.error("nothing to install")
    if not options.allow_cuda:
        arguments = choose_arguments(arguments, options.cpu_index)
    print("Installing " + " ".join(arguments), flush=True)
    return subprocess.call([sys.executable, "-m", "pip", "install", "-qq", *arguments])


if __name__ == "__main__":
    raise SystemExit(main())
