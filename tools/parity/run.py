"""Compare kerasneuro with the original packages, and write the table of differences.

The originals run in their own environments (``.venvs/NAME``, made by ``make parity``), write weight files and
predict; kerasneuro loads the same files and predicts on every backend. Then kerasneuro converts the files and
writes them back, and the originals predict with what they are given. Writes ``docs/parity.md`` and
``docs/parity.json``; the exit code is 1 if any difference is above its tolerance.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from cases import read_cases

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BACKENDS = ("tensorflow", "jax", "torch", "openvino")
SCANS = ("head_2mm_RAS.nii.gz", "head_aniso_PIL_int16.nii.gz")
PACKAGES = ("kerasneuro", "keras", "numpy", "tensorflow-cpu", "jax", "torch", "openvino")


def run_original(name: str, folder: Path) -> None:
    """Let an original package write its files and answers."""
    folder.mkdir()
    python = ROOT / ".venvs" / name / "bin" / "python"
    command = [str(python), str(HERE / f"original_{name}.py"), str(folder)]
    if name == "deepbet":
        command += [str(ROOT / "tests" / "data" / "deepbet" / scan) for scan in SCANS]
    print(f"original {name} ...", flush=True)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def run_back(names: list[str], folders: list[Path]) -> list[dict[str, object]]:
    """Let kerasneuro write the weights back, and the originals predict with them."""
    print("kerasneuro writes the weights back ...", flush=True)
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(HERE / "back.py"), *map(str, folders)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    rows = []
    for name, folder in zip(names, folders, strict=True):
        if not any(case.kind == "network" for case in read_cases(folder)[0]):
            continue
        python = ROOT / ".venvs" / name / "bin" / "python"
        command = [str(python), str(HERE / f"original_{name}.py"), "--returned", str(folder)]
        rows += json_lines(command, environment)
    return rows


def json_lines(command: list[str], environment: dict[str, str]) -> list[dict[str, object]]:
    """Run a worker and read the lines of JSON that it prints."""
    output = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def run_ours(backend: str, folders: list[Path]) -> list[dict[str, object]]:
    """Let kerasneuro compare under one backend."""
    print(f"kerasneuro on {backend} ...", flush=True)
    command = [sys.executable, str(HERE / "ours.py"), *map(str, folders)]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return json_lines(command, environment)


def run_stored(backend: str) -> list[dict[str, object]]:
    """Let kerasneuro compare every model with the stored outputs of its original."""
    print(f"stored outputs on {backend} ...", flush=True)
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return json_lines([sys.executable, str(HERE / "stored.py")], environment)


def table(rows: list[dict[str, object]], kind: str, backends: list[str]) -> str:
    """Make the Markdown table of one kind of case: a line per case, a column per backend."""
    head = f"| model | case | tolerance | {' | '.join(backends)} |\n|---|---|---|{'---|' * len(backends)}\n"
    lines = []
    for case in dict.fromkeys((str(row["model"]), str(row["title"])) for row in rows if row["kind"] == kind):
        found = {
            row["backend"]: row
            for row in rows
            if row["kind"] == kind and (row["model"], row["title"]) == case
        }
        first = next(iter(found.values()))
        cells = [cell(found.get(backend)) for backend in backends]
        lines.append(f"| {case[0]} | {case[1]} | {first['tolerance']:g} | {' | '.join(cells)} |")
    return head + "\n".join(lines) + "\n"


def cell(row: dict[str, object] | None) -> str:
    """Show one difference; what is above the tolerance is marked."""
    if row is None:
        return "-"
    if row["kind"] == "pipeline":
        text = f"{row['difference']:.0f} of {row['size']:,}"
    else:
        text = f"{row['difference']:.1e}"
    return text if row["within"] else f"**{text}**"


def page(rows: list[dict[str, object]], versions: dict[str, str], backends: list[str]) -> str:
    """Write the page."""
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"""# Parity with the original packages

Written by `make parity`: the original packages train for a step, write weight files and predict; kerasneuro
loads those files and predicts. Machine: {platform.machine()}, {os.cpu_count()} processors,
{platform.system()}, Python {platform.python_version()}. Versions: {listed}.

## Networks

Largest absolute difference of an output (a probability).

{table(rows, "network", backends)}
## Stored outputs of the originals

What the original code of each model computed with small networks of its own layout, kept in `tests/data`.
Largest absolute difference: of a probability, a logit, a place in voxels, or an entry of a matrix.

{table(rows, "stored", backends)}
## Whole pipelines

Voxels that differ from the original's mask, of the voxels in it.

{table(rows, "pipeline", backends)}
## Losses and metrics

Relative difference from MONAI, of made-up segmentations.

{table(rows, "score", backends)}
## Back to the original

kerasneuro converts the same weight files to its own format, and back to a Keras 2 file or a PyTorch state
dict (`kerasneuro convert --to-original`); the original package loads that and predicts. Largest absolute
difference from its prediction with its own file.

{table(rows, "returned", ["original"])}"""


def main() -> int:
    """Run all and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--originals", nargs="+", default=["nobrainer", "deepbet", "monai"])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument(
        "--stored", action="store_true", help="compare stored outputs alone; keep the rest of the last run"
    )
    options = parser.parse_args()
    docs = ROOT / "docs"
    stored = [row for backend in options.backends for row in run_stored(backend)]
    if options.stored:
        record = json.loads((docs / "parity.json").read_text(encoding="utf-8"))
        rest = [row for row in record["rows"] if row["kind"] != "stored"]
        return finish(docs, rest + stored, record["versions"], options.backends)
    with tempfile.TemporaryDirectory() as work:
        folders = [Path(work) / name for name in options.originals]
        for name, folder in zip(options.originals, folders, strict=True):
            run_original(name, folder)
        versions = {f"original {k}": v for folder in folders for k, v in read_cases(folder)[1].items()}
        rows = [row for backend in options.backends for row in run_ours(backend, folders)]
        rows += run_back(options.originals, folders)
    versions |= {name: metadata.version(name) for name in PACKAGES}
    return finish(docs, rows + stored, versions, options.backends)


def finish(docs: Path, rows: list[dict[str, object]], versions: dict[str, str], backends: list[str]) -> int:
    """Write both files; return 1 if any difference is above its tolerance."""
    text = page(rows, versions, backends)
    record = json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n"
    (docs / "parity.json").write_text(record, encoding="utf-8")
    (docs / "parity.md").write_text(text, encoding="utf-8")
    print(text)
    worst = [row for row in rows if not row["within"]]
    for row in worst:
        print(f"above tolerance: {row}", file=sys.stderr)
    return 1 if worst else 0


if __name__ == "__main__":
    sys.exit(main())
