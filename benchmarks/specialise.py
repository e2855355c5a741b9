"""Time how the hypernetwork of synthmorph-deform becomes the network for one regularisation.

A file of the published layout and size (3.5 GB) with random values is written first; then, each in a process
of its own, its bytes are read and hashed once, it is loaded for the first time, and from the cache. The file
is deleted at the end.

    python benchmarks/specialise.py [--folder DIR] [--width 256] [--rounds 2] [--backend torch]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

BACKEND = "torch"
WIDTH = 256
MOST_MEMORY, FACTOR, ALLOWANCE, SECOND = 1.2e9, 1.5, 5.0, 2.0
"""What is promised: bytes, times reading and hashing, seconds besides, seconds from the cache."""


def write_file(path: Path, width: int) -> None:
    """Write a file of Keras 2 with random values, as the original's `save_weights` lays it out."""
    import h5py
    import numpy as np

    from kerasneuro import networks, registry
    from kerasneuro.models.synthmorph import graph

    config = {"network": "deform", **dict.fromkeys(("enc_nf", "dec_nf", "add_nf"), (width,) * 4)}
    sketch = networks.sketch_graph(registry.get("synthmorph-deform"), graph, config, "")
    rng = np.random.default_rng(0)
    layers: dict[str, list[Any]] = {}
    for variable in sketch.variables:
        layers.setdefault(variable.path.split("/")[0], []).append(variable)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in ("input_1", *layers)]
        file.create_group("input_1").attrs["weight_names"] = np.array([])
        for layer, variables in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{variable.path}:0".encode() for variable in variables]
            for variable in variables:
                # Such that neither the hidden units nor the activations of the network vanish or grow.
                values = rng.random(variable.shape, dtype=np.float32)
                values -= np.float32(0.5)
                values *= np.float32(0.2 if variable.path.startswith("dense") else 0.02)
                group.create_dataset(f"{variable.path}:0", data=values)


def read_and_hash(path: Path) -> Any:
    """Do what any safe loader must do at least."""
    hasher = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def load(path: Path) -> Any:
    """Load the task as a user does; its network is that for the default regularisation."""
    import kerasneuro

    return kerasneuro.load("synthmorph-deform", weights=path)


def measured(job: Callable[[Path], Any], path: Path) -> dict[str, float]:
    """Run a job in this process; imports are done before and not timed."""
    import keras

    keras.ops.zeros((1,))
    for name in ("graph", "task", "specialise"):
        importlib.import_module(f"kerasneuro.models.synthmorph.{name}")

    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    job(path)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall_s": wall,
        "user_s": after.ru_utime - before.ru_utime,
        "system_s": after.ru_stime - before.ru_stime,
        "peak_bytes": common.peak_bytes(),
    }


def call(step: str, path: Path, cache: Path, backend: str, width: int) -> dict[str, float]:
    """Run one step in a process of its own."""
    command = [sys.executable, __file__, "--worker", step, "--file", str(path), "--width", str(width)]
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "KERASNEURO_CACHE": str(cache),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads((output.splitlines() or ["{}"])[-1])
    return result


def run(folder: Path, width: int, rounds: int, backend: str) -> dict[str, Any]:
    """Measure all steps, taking turns; the times are medians, the memory the most."""
    work = Path(tempfile.mkdtemp(dir=folder, prefix="specialise-"))
    try:
        path, cache = work / "synthmorph.deform.random.h5", work / "cache"
        call("write", path, cache, backend, width)
        found: dict[str, list[dict[str, float]]] = {"hash": [], "first": [], "second": []}
        for _ in range(rounds):
            shutil.rmtree(cache, ignore_errors=True)
            for step, results in found.items():
                results.append(call(step, path, cache, backend, width))
        record: dict[str, Any] = {"backend": backend, "width": width, "file_bytes": path.stat().st_size}
        for step, results in found.items():
            record[step] = {
                key: (max if key == "peak_bytes" else statistics.median)(result[key] for result in results)
                for key in results[0]
            }
        bound = FACTOR * record["hash"]["wall_s"] + ALLOWANCE
        record["bound_s"] = bound
        record["kept"] = {
            "wall": record["first"]["wall_s"] <= bound,
            "memory": record["first"]["peak_bytes"] <= MOST_MEMORY,
            "second": record["second"]["wall_s"] <= SECOND,
        }
        return record
    finally:
        shutil.rmtree(work)


def main() -> None:
    """Measure and print one JSON line, or run one step of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="needs 4 GB")
    parser.add_argument("--width", type=int, default=WIDTH, help="channels; 256 is the published network")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--backend", default=os.environ.get("KERAS_BACKEND", BACKEND))
    parser.add_argument("--worker", choices=["write", "hash", "first", "second"], help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker == "write":
        write_file(options.file, options.width)
    elif options.worker:
        job = read_and_hash if options.worker == "hash" else load
        print(json.dumps(measured(job, options.file)))
    else:
        print(json.dumps(run(options.folder, options.width, options.rounds, options.backend)))


if __name__ == "__main__":
    main()
