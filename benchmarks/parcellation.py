"""Time FastSurfer's pipeline outside its networks, step by step, on 256 cubed.

The networks give the same random logits for every batch, so what is timed is cutting the slices, the scratch
files and the decision; the steps after that see a class map with all 79 classes, in blocks within a brain.

    python benchmarks/parcellation.py [--work-dir DIR]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "data" / "fastsurfer"
BATCH = 8


def busy_classes() -> np.ndarray:
    """Return a class map ``(256, 256, 256)`` of a brain, unnamed voxels as blocks of cortical parcels."""
    from kerasneuro.models.fastsurfer.task import load_scan
    from kerasneuro.volume import conform_mgh

    stored = np.load(FIXTURES / "e2e_result.npz")
    place = json.loads(str(stored["meta"]))
    classes = np.zeros((256,) * 3, np.uint8)
    box = zip(place["crop_lo"], place["crop_hi"], strict=True)
    classes[tuple(slice(*ends) for ends in box)] = stored["class_index_crop"]
    brain = conform_mgh(load_scan(FIXTURES / "e2e_t1.nii.gz"))[0].array > 0
    parcels = np.random.default_rng(0).integers(34, 79, (32,) * 3).astype(np.uint8)
    unnamed = brain & ((classes == 0) | (classes > 33))
    np.copyto(classes, parcels.repeat(8, 0).repeat(8, 1).repeat(8, 2), where=unnamed)
    return classes


def steps(folder: Path, work: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the steps in order; a scan of 256 cubed without an empty slice is the input."""
    import nibabel

    from kerasneuro.models.fastsurfer.aggregation import CLASSES, aggregate_views
    from kerasneuro.models.fastsurfer.findings import measure
    from kerasneuro.models.fastsurfer.task import load_scan, name_structures
    from kerasneuro.volume import conform_mgh, save_image, to_image

    rng = np.random.default_rng(0)
    logits = {part: rng.normal(size=(BATCH, 256, 256, n)).astype(np.float32) for part, n in CLASSES.items()}
    networks = {part: lambda batch, part=part: logits[part][: len(batch)] for part in CLASSES}
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (-127.3, -126.2, -120.9)
    scan = folder / "scan.nii.gz"
    noise = rng.integers(1, 256, (256,) * 3).astype(np.int16)
    save_image(nibabel.Nifti1Image(noise, affine), scan)
    classes = busy_classes()
    found: dict[str, Any] = {}

    def keep(name: str, job: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: found.__setitem__(name, job())

    yield "read the scan", keep("scan", lambda: load_scan(scan))
    yield "conform", keep("conformed", lambda: conform_mgh(found["scan"])[0])
    array = found["conformed"].array
    yield "join three planes", lambda: aggregate_views(array, networks, batch_size=BATCH, work_dir=work)
    yield "labels, split, clean, mask, aseg", keep("maps", lambda: name_structures(classes, clean=True))
    maps = found["maps"]
    yield "table", lambda: measure(maps.labels, found["conformed"])
    for name, dtype in (("labels", np.int16), ("aseg", np.uint8), ("mask", np.uint8)):
        image = to_image(getattr(maps, name), found["conformed"], dtype=dtype)
        yield f"save {name}", lambda image=image, name=name: save_image(image, folder / f"{name}.mgz")
    original = to_image(array, found["conformed"], dtype=np.uint8)
    yield "save conformed", lambda: save_image(original, folder / "orig.mgz")


def main(argv: list[str] | None = None) -> int:
    """Print one JSON object: seconds of each step, and the peak memory of the process."""
    from common import peak_bytes

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work-dir", type=Path, help="folder of the scratch files; default: the system's")
    options = parser.parse_args(argv)
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        for title, job in steps(Path(name), options.work_dir or Path(name)):
            began = time.perf_counter()
            job()
            seconds[title] = round(time.perf_counter() - began, 2)
    total = round(sum(seconds.values()), 2)
    print(json.dumps({"seconds": seconds, "total_s": total, "peak_bytes": peak_bytes()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
