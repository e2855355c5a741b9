"""Judge a fine-tuning by cross-validation: five folds, every person tested by a network that has not seen it.

    python examples/finetune_cross_validation.py --quick

makes ten persons out of one real head, and trains a small network to find the brain five times, each time
without two of them.

    python examples/finetune_cross_validation.py pairs.csv --parent nobrainer-brainy --tumour 1 -o folds

takes the scans of a CSV (columns: one for each channel, labels, subject); all scans of a person are in one
fold. Needs a backend that trains: KERAS_BACKEND=tensorflow, jax or torch. For research only; no result is a
diagnosis.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common.heads import write_people

import kerasneuro
from kerasneuro.finetuning.evaluate import evaluate_segmentation
from kerasneuro.tasks.result import table_text, write_text
from kerasneuro.training.data import Pair, find_pairs

FOLDS = 5
QUICK: dict[str, Any] = {
    "start": "random",
    "config": {"filters": 4},
    "epochs": 3,
    "patch_shape": (16, 16, 16),
    "batch_size": 4,
    "patches_per_volume": 3,
    "learning_rate": 1e-2,
    "augmented": False,
    "loss_options": {"smooth": 1.0},
}


def divide(pairs: Sequence[Pair], folds: int, seed: int = 0) -> list[list[Pair]]:
    """Divide scans into folds; all scans of a person are in one."""
    subjects = np.random.default_rng(seed).permutation(sorted({pair.subject for pair in pairs}))
    parts = [set(part.tolist()) for part in np.array_split(subjects, folds)]
    return [[pair for pair in pairs if pair.subject in part] for part in parts]


def cross_validate(
    parent: str, pairs: Sequence[Pair], classes: dict[str, Any], folder: Path, **options: Any
) -> list[dict[str, Any]]:
    """Train once for each fold without it, and score the fold."""
    parts, rows = divide(pairs, FOLDS), []
    for number, held_out in enumerate(parts):
        rest = [pair for part in parts if part is not held_out for pair in part]
        task = kerasneuro.finetune(
            parent,
            rest,
            classes=classes,
            others=0,
            name=f"fold-{number}",
            output=folder / f"fold-{number}",
            overwrite=True,
            **options,
        )
        found = evaluate_segmentation(task, held_out)
        rows += [{"fold": number, **row} for row in found]
        print(f"fold {number}: Dice {np.mean([row['dice'] for row in found]):.3f} of {len(held_out)} scans")
    return rows


def main() -> None:
    """Read the options, and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pairs", nargs="?", help="CSV of scans and label maps")
    parser.add_argument("--quick", action="store_true", help="small, on synthetic tumours")
    parser.add_argument("-o", "--output", type=Path, default=Path("cross_validation"))
    parser.add_argument("--parent", default="nobrainer-brainy")
    parser.add_argument("--tumour", type=int, default=1, help="label value of the tumour")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    began = time.time()
    if options.quick:
        people = find_pairs(write_people(options.output / "people", range(300, 310)))
        rows = cross_validate(options.parent, people, {"brain": [1, 2]}, options.output, **QUICK)
    elif options.pairs:
        pairs = find_pairs(options.pairs)
        classes = {"tumour": options.tumour}
        rows = cross_validate(options.parent, pairs, classes, options.output, epochs=options.epochs)
    else:
        parser.error("give --quick, or a CSV of scans and label maps")
    write_text(options.output / "scores.csv", table_text(rows))
    dice = np.array([row["dice"] for row in rows])
    print(f"{len(rows)} scans in {FOLDS} folds: Dice {dice.mean():.3f} (standard deviation {dice.std():.3f})")
    print(f"scores in {options.output / 'scores.csv'}; took {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
