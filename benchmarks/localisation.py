"""Compare where the ways of localisation see the hippocampi, with ANTs as in the original.

    python benchmarks/localisation.py [HEAD...] [--contrast t1] [--bet] [--margin 8 8 8] [--ways WAYS]

Without a head the registered group average is used. ANTs needs KERASNEURO_ANTS_PYTHON (see the model card of
HSF). Boxes are half-open voxel indices of the head in RAS+ orientation; the difference is that to ANTs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import kerasneuro
from kerasneuro.models.hsf.boxes import Box
from kerasneuro.models.hsf.localise import METHODS, locate
from kerasneuro.volume import load, to_axcodes


def compare(path: Path, options: argparse.Namespace) -> int:
    """Print the boxes of one head and return the largest difference to ANTs in voxels."""
    head, _ = to_axcodes(load(path))
    needs = {"localisation": lambda: kerasneuro.load("synthmorph-affine")}
    shown = {"contrast": options.contrast, "bet": options.bet, "margin": options.margin}
    reference: dict[str, Box] = {}
    largest = 0
    for way in options.ways.split(","):
        start = time.perf_counter()
        boxes = locate(head, roi=way, needs=needs, **shown)
        print(f"{path.name}: {way}, {time.perf_counter() - start:.1f} s")
        reference = reference or (boxes if way == "ants" else {})
        for side, box in boxes.items():
            edges = differences(box, reference.get(side, box))
            print(f"  {side:5} {list(box.low)}-{list(box.high)}  differs by {edges}")
            largest = max(largest, *map(abs, edges))
    return largest


def differences(box: Box, reference: Box) -> list[int]:
    """Return by how many voxels each edge of a box differs."""
    return [a - b for a, b in zip(box.as_list(), reference.as_list(), strict=True)]


def main() -> None:
    """Compare every head."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("heads", nargs="*", type=Path)
    parser.add_argument("--contrast", choices=("t1", "t2"), default="t1")
    parser.add_argument("--bet", action="store_true", help="the heads have no skull")
    parser.add_argument("--margin", nargs=3, type=int, default=(8, 8, 8))
    parser.add_argument("--ways", default="ants,template", help=f"some of {', '.join(METHODS)}; ANTs first")
    options = parser.parse_args()
    heads = options.heads or list(kerasneuro.fetch("t1-group-average").values())
    largest = max(compare(head, options) for head in heads)
    print(f"largest difference to ANTs: {largest} voxels")


if __name__ == "__main__":
    main()
