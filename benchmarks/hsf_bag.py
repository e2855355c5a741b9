"""A whole bag of HSF on both hippocampi, against as many single forwards of its networks.

Augmentation, its undoing and the vote may cost a tenth of the networks at most, and the memory must not grow
with the number of augmented copies. The networks are of full width, with random weights; KERAS_BACKEND says
who computes.

    python benchmarks/hsf_bag.py [--networks 2] [--copies 20] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BOUND = 1.1
CROP = (40, 56, 56)
BOXES = {"right": [50, 20, 20, 90, 76, 76], "left": [5, 20, 20, 45, 76, 76]}
FORWARDS = 5


def measure(files: list[str], copies: int) -> dict[str, Any]:
    """Time the bag, and single forwards before and after it."""
    import nibabel
    import numpy as np
    import psutil

    import kerasneuro

    rng = np.random.default_rng(0)
    scan = nibabel.Nifti1Image(rng.normal(100, 20, (96, 96, 96)).astype(np.float32), np.eye(4))
    task = kerasneuro.load("hsf-bagging-accurate", weights=files)
    engine = task.engine("bag0", task.settings({}))
    batch = rng.normal(size=(1, *CROP, 1)).astype(np.float32)
    engine(batch)

    def forwards() -> list[float]:
        taken = []
        for _ in range(FORWARDS):
            start = time.perf_counter()
            engine(batch)
            taken.append(time.perf_counter() - start)
        return taken

    single = forwards()
    start = time.perf_counter()
    task(scan, boxes=BOXES, num_aug=copies)
    whole = time.perf_counter() - start
    single += forwards()
    count = len(BOXES) * len(files) * (copies + 1 if copies > 1 else 1)
    median = statistics.median(single)
    memory = psutil.Process().memory_info()
    peak = getattr(memory, "peak_wset", None) or peak_bytes()
    return {"copies": copies, "forwards": count, "single_s": median, "bag_s": whole, "peak_bytes": peak} | {
        "ratio": whole / (count * median)
    }


def peak_bytes() -> int:
    """Return the largest resident size of this process."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> int:
    """Measure a few copies and many, each in a process of its own; fail where the bound is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=int, default=2)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--files", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.files:
        print(json.dumps(measure(options.files, options.copies)))
        return 0
    results = []
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / f"bag{index}.onnx") for index in range(options.networks)]
        for file in files:
            subprocess.run([sys.executable, Path(__file__).with_name("hsf.py"), "--export", file], check=True)
        threads = {"OMP_NUM_THREADS": str(options.threads)}
        for copies in (2, options.copies):
            command = [sys.executable, __file__, "--files", *files, "--copies", str(copies)]
            answer = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads}
            )
            results.append(json.loads(answer.stdout.splitlines()[-1]))
            print(json.dumps(results[-1]), flush=True)
    return 0 if results[-1]["ratio"] <= BOUND else 1


if __name__ == "__main__":
    raise SystemExit(main())
