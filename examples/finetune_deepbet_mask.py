"""Adapt deepbet's brain network to another convention of brain masks.

    python examples/finetune_deepbet_mask.py --quick

makes several persons out of one real head, and masks that end 6 mm further inside than deepbet's, as those of
a tool that leaves the outer fluid out. A small network of the same architecture first learns the wide masks;
then its encoder is frozen, and two scans teach it the narrow ones.

    python examples/finetune_deepbet_mask.py --train T1_a.nii.gz mask_a.nii.gz \
        --train T1_b.nii.gz mask_b.nii.gz --test T1_c.nii.gz mask_c.nii.gz -o masks

starts from the published weights, which are fetched. The new model runs block by block on the grid of the
scan, as it was trained; scans of about 1 mm suit it best. Needs a backend that trains:
KERAS_BACKEND=tensorflow, jax or torch. For research only; no result is a diagnosis.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from common.heads import write_people
from scipy import ndimage

import kerasneuro
from kerasneuro.finetuning.evaluate import evaluate_segmentation
from kerasneuro.tasks import Task

QUICK: dict[str, Any] = {
    "patch_shape": (32, 32, 32),
    "batch_size": 2,
    "patches_per_volume": 3,
    "augmented": False,
    "schedule": "cosine",
}
SMALL = {"widths": (4, 8), "head_width": 4}


def narrow(pairs: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """Write masks that end one voxel of 6 mm further inside, beside those that are given."""
    found = []
    for image, labels in pairs:
        given = nibabel.load(labels)
        inside = ndimage.binary_erosion(np.asarray(given.dataobj) > 0)
        path = labels.with_name(labels.name.replace("labels", "narrow"))
        nibabel.save(nibabel.Nifti1Image(inside.astype(np.uint8), given.affine), path)
        found.append((image, path))
    return found


def dice(task: Task, pairs: list[tuple[Path, Path]]) -> float:
    """Return the mean Dice of some persons."""
    return float(np.mean([row["dice"] for row in evaluate_segmentation(task, pairs, classes="binary")]))


def quick(folder: Path) -> None:
    """Learn wide masks, then narrow ones from a few scans."""
    people = write_people(folder / "people", range(9), tumour=False)
    wide, few, test = people[:5], narrow(people[5:7]), narrow(people[7:])
    parent = kerasneuro.finetune(
        "deepbet",
        wide,
        start="random",
        config=SMALL,
        classes="binary",
        epochs=8,
        learning_rate=1e-2,
        name="deepbet-wide",
        **QUICK,
    )
    before = dice(parent, test)
    task = kerasneuro.finetune(
        parent,
        few,
        freeze="encoder",
        epochs=10,
        learning_rate=5e-3,
        name="deepbet-narrow",
        output=folder / "narrow",
        overwrite=True,
        **QUICK,
    )
    after = dice(kerasneuro.load(folder / "narrow" / "model"), test)
    print(
        f"narrow masks of {len(test)} persons that were not seen: Dice {before:.3f} before, {after:.3f} after"
    )
    print(f"margin: {after - before:+.3f} by fine-tuning with {len(few)} scans")
    print(f"{task.card.name} is in {folder / 'narrow' / 'model'}")


def full(options: argparse.Namespace) -> None:
    """Fine-tune the published network on scans of the user."""
    task = kerasneuro.finetune(
        "deepbet",
        options.train,
        options.validate or None,
        classes="binary",
        head="keep",
        freeze=None if options.everything else "encoder",
        epochs=options.epochs,
        output=options.output,
        resume=options.resume,
        say=print,
    )
    if options.test:
        print(f"Dice {dice(task, options.test):.3f}")


def main() -> None:
    """Read the options, and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, on synthetic persons")
    parser.add_argument("-o", "--output", type=Path, default=Path("finetuned_deepbet"))
    for name in ("train", "validate", "test"):
        parser.add_argument(f"--{name}", nargs=2, action="append", default=[], metavar=("IMAGE", "MASK"))
    parser.add_argument("--everything", action="store_true", help="train the encoder, too")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUTPUT")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    began = time.time()
    if options.quick:
        quick(options.output)
    elif options.train:
        full(options)
    else:
        parser.error("give --quick, or --train IMAGE MASK")
    print(f"took {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
