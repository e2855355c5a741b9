"""Teach a brain-extraction network to label tumours, and compare that with training from scratch.

    python examples/finetune_brainy_tumour.py --quick

bends one real head into several persons and paints tumours into them, each as bright as the scalp: only who
knows brain from head can tell them. A small network of the architecture of nobrainer-brainy first learns
brain masks, and is written as the original's weight file. Then the same few scans of tumours are learned
twice, from these weights and from random ones, and both are judged on persons that neither has seen.

    python examples/finetune_brainy_tumour.py --weights brain-extraction-unet-128iso-model.h5 \
        --train T1_a.nii.gz labels_a.nii.gz --train T1_b.nii.gz labels_b.nii.gz \
        --test T1_c.nii.gz labels_c.nii.gz --tumour 1 -o tumour

starts from the published weights (without --weights they are fetched) and uses your scans. Needs a backend
that trains: KERAS_BACKEND=tensorflow, jax or torch. For research only; no result is a diagnosis.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from common.heads import TUMOUR_LABEL, write_people

import kerasneuro
from kerasneuro.finetuning.evaluate import evaluate_segmentation
from kerasneuro.tasks import Task

QUICK = {
    "patch_shape": (16, 16, 16),
    "batch_size": 4,
    "augmented": False,
    "loss_options": {"smooth": 1.0},
    "schedule": "cosine",
}
SMALL = {"filters": 4}


def pretrain(folder: Path) -> Path:
    """Train a small network on brain masks, and write it in the format of the original."""
    brains = write_people(folder / "brains", range(8))
    task = kerasneuro.finetune(
        "nobrainer-brainy",
        brains,
        start="random",
        config=SMALL,
        classes={"brain": [1, 2]},
        epochs=6,
        patches_per_volume=6,
        learning_rate=5e-3,
        name="brainy-small",
        output=folder / "brainy",
        overwrite=True,
        **QUICK,
    )
    print(f"brain masks: Dice {task.saved['metrics']['dice']:.3f} on the scans that were learned")
    flat, original = folder / "brainy" / "model" / "weights.h5", folder / "brainy_small_keras2.h5"
    kerasneuro.convert_weights(flat, "nobrainer-brainy", original, to_original=True, overwrite=True)
    return original


def dice(task: Task, pairs: list[tuple[Path, Path]], tumour: int) -> float:
    """Return the mean Dice of the tumours of some persons."""
    rows = evaluate_segmentation(task, pairs, classes={"tumour": tumour})
    return float(np.mean([row["dice"] for row in rows]))


def quick(folder: Path) -> None:
    """Learn from brain masks to tumours, and from nothing to tumours."""
    weights = pretrain(folder)
    train, test = (write_people(folder / "tumours", seeds) for seeds in (range(100, 108), range(200, 203)))
    scores = {}
    for start in ("pretrained", "random"):
        task = kerasneuro.finetune(
            "nobrainer-brainy",
            train,
            start=start,
            weights={"": str(weights)} if start == "pretrained" else {},
            config=SMALL if start == "random" else {},
            classes={"tumour": TUMOUR_LABEL},
            others=0,
            epochs=12,
            patches_per_volume=4,
            learning_rate=5e-3,
            name=f"tumour-{start}",
            output=folder / f"tumour-{start}",
            overwrite=True,
            **QUICK,
        )
        scores[start] = dice(task, test, TUMOUR_LABEL)
        print(f"tumours, {start} weights: Dice {scores[start]:.3f} on {len(test)} persons that were not seen")
    print(f"margin: {scores['pretrained'] - scores['random']:+.3f} by fine-tuning")
    again = kerasneuro.load(folder / "tumour-pretrained" / "model")
    again(test[0][0]).save(folder / "result", overwrite=True)
    print(f"model in {folder / 'tumour-pretrained' / 'model'}, a result in {folder / 'result'}")


def full(options: argparse.Namespace) -> None:
    """Fine-tune the published network on scans of the user."""
    task = kerasneuro.finetune(
        "nobrainer-brainy",
        options.train,
        options.validate or None,
        weights={"": options.weights} if options.weights else {},
        classes={"tumour": options.tumour},
        others=0,
        epochs=options.epochs,
        output=options.output,
        resume=options.resume,
        say=print,
    )
    if options.test:
        print(f"Dice {dice(task, options.test, options.tumour):.3f}")


def main() -> None:
    """Read the options, and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, on synthetic tumours")
    parser.add_argument("-o", "--output", type=Path, default=Path("finetuned_brainy"))
    parser.add_argument("--weights", help="published or own weight file of nobrainer-brainy")
    for name in ("train", "validate", "test"):
        parser.add_argument(f"--{name}", nargs=2, action="append", default=[], metavar=("IMAGE", "LABELS"))
    parser.add_argument("--tumour", type=int, default=1, help="label value of the tumour")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUTPUT")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    began = time.time()
    if options.quick:
        quick(options.output)
    elif options.train:
        full(options)
    else:
        parser.error("give --quick, or --train IMAGE LABELS")
    print(f"took {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
