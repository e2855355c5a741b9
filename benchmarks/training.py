"""How fast segmentation training is: how much of the time goes into the step, and what the step costs.

    KERAS_BACKEND=torch python benchmarks/training.py --part data --threads 2

`data`: the same network is trained on one batch over and over, and on patches that are cut and augmented
meanwhile; the ratio of the two times is the share of the time that is spent in the training step.

    python benchmarks/training.py --part step --threads 2

`step`: the network is trained by `fit` under each backend, and by a plain loop in bare PyTorch, in turns.

One JSON object is printed for each size of patch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import limit_threads
from training_step import measure_steps

FILTERS = 16
SCAN = (160, 192, 160)
SCANS = 4
# Edge of the patch -> patches in a batch.
BATCHES = {32: 2, 48: 1, 64: 1}
CACHES = ("memory", "disk", "none")


def make_scans(folder: Path) -> list[tuple[Path, Path]]:
    """Write scans of noise with a ball for a label, compressed as scans are."""
    import nibabel
    import numpy as np

    generator = np.random.default_rng(0)
    grid = np.indices(SCAN, dtype=np.float32, sparse=True)
    pairs = []
    for number in range(SCANS):
        centre = [size / 2 + generator.uniform(-20, 20) for size in SCAN]
        distance = sum((axis - middle) ** 2 for axis, middle in zip(grid, centre, strict=True))
        labels = (distance < 30**2).astype(np.uint8)
        image = (400.0 * labels + generator.normal(500, 100, SCAN)).astype(np.int16)
        paths = folder / f"scan{number}.nii.gz", folder / f"labels{number}.nii.gz"
        for path, array in zip(paths, (image, labels), strict=True):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
        pairs.append(paths)
    return pairs


def make_network(edge: int) -> Any:
    """Build the U-Net of nobrainer, ready to be trained."""
    import keras

    from kerasneuro.models.nobrainer.graph import build

    network = build(input_shape=(edge, edge, edge, 1), filters=FILTERS, activation="relu")
    network.compile(optimizer=keras.optimizers.Adam(1e-4), loss="binary_crossentropy")
    return network


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def make_data(pairs: Sequence[tuple[Path, Path]], edge: int, steps: int, cache: str, folder: str) -> Any:
    """Make the data set of augmented patches, its cache filled as it is after the first epoch."""
    from kerasneuro.training.data import Augmentation, PatchDataset, standardise

    data = PatchDataset(
        pairs,
        patch_shape=edge,
        batch_size=BATCHES[edge],
        classes="binary",
        patches_per_volume=-(-steps * BATCHES[edge] // SCANS),
        prepare=standardise,
        augment=Augmentation(flip_axes=(0,)),
        cache={"memory": "memory", "disk": folder, "none": None}[cache],
        one_hot=False,
    )
    for number in range(SCANS):
        _ = data.store[number]
    return data


def make_timed(batches: Callable[[int], Any], count: int) -> Any:
    """Make a data set that notes how long the training waits for its batches."""
    import keras

    class Timed(keras.utils.PyDataset):
        waited = 0.0

        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> Any:
            started = time.perf_counter()
            batch = batches(index)
            self.waited += time.perf_counter() - started
            return batch

    return Timed()


def measure_data(data: Any, rounds: int) -> dict[str, Any]:
    """Compare training on patches with training on one batch, in turns.

    The processor time tells what the making of patches costs the step where other programs disturb the clock;
    the time waited is what the trainer itself lost (TensorFlow waits in a thread of its own).
    """
    network, first = make_network(data.patch_shape[0]), data.batch(0, 0)
    alone = statistics.median(seconds(lambda n=n: data.batch(1, n)) for n in range(min(len(data), 20)))
    kinds = {
        "step": make_timed(lambda index: first, len(data)),
        "all": make_timed(data.__getitem__, len(data)),
    }
    for each in kinds.values():  # Compile.
        network.fit(each, steps_per_epoch=1, shuffle=False, verbose=0)
    clock: dict[str, list[float]] = {name: [] for name in kinds}
    processor: dict[str, list[float]] = {name: [] for name in kinds}
    kinds["all"].waited = 0.0
    for _ in range(rounds):
        for name, each in kinds.items():
            before = time.process_time()
            spent = seconds(lambda each=each: network.fit(each, shuffle=False, verbose=0))
            clock[name].append(spent / len(data))
            processor[name].append((time.process_time() - before) / len(data))
        data.on_epoch_end()
    step, whole = (statistics.median(clock[name]) for name in kinds)
    step_cpu, whole_cpu = (statistics.median(processor[name]) for name in kinds)
    return {
        "batch_alone_s": round(alone, 4),
        "step_s": round(step, 4),
        "with_data_s": round(whole, 4),
        "share_of_time": round(min(step / whole, 1.0), 3),
        "share_of_processor": round(min(step_cpu / whole_cpu, 1.0), 3),
        "share_not_waiting": round(1 - kinds["all"].waited / len(data) / rounds / whole, 3),
    }


def measure_edge(
    pairs: Sequence[tuple[Path, Path]], edge: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Measure one size of patch."""
    import keras

    head = {"backend": keras.backend.backend(), "edge": edge, "batch": BATCHES[edge], "cache": options.cache}
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(pairs, edge, options.steps, options.cache, folder)
        return {"part": "data", **head, **measure_data(data, options.rounds)}


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", choices=["data", "step"], default="data")
    parser.add_argument("--edges", type=int, nargs="+", default=sorted(BATCHES), choices=sorted(BATCHES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", choices=CACHES, default="memory")
    options = parser.parse_args()
    if options.part == "step":
        sizes = {edge: BATCHES[edge] for edge in options.edges}
        for record in measure_steps(sizes, options.steps, options.rounds, options.threads):
            print(json.dumps(record), flush=True)
        return
    limit_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        pairs = make_scans(Path(folder))
        for edge in options.edges:
            print(json.dumps(measure_edge(pairs, edge, options)), flush=True)


if __name__ == "__main__":
    main()
