"""Train HSF's network for the subfields of the hippocampus from random weights, by the recipe of its authors.

    python examples/train_hsf.py --quick

makes crops by computation (nested bent tubes with noise), trains a small network on them with AdamP, the
forgiving Tversky loss and random changes of the crops, and prints Dice on crops that it has not seen.

    python examples/train_hsf.py --train crop_a.nii.gz labels_a.nii.gz --train crop_b.nii.gz labels_b.nii.gz \
        --validate crop_c.nii.gz labels_c.nii.gz -o trained.pth

trains the network in its full size on your crops; the labels are 0 to 5 (background, DG, CA1, CA2, CA3, SUB)
unless --labels names others. --ca-mode, --head and --tail are for labels of coarser protocols. Needs a
backend that trains: KERAS_BACKEND=tensorflow, jax or torch. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import nibabel as nib
import numpy as np

from kerasneuro.models.hsf import graph, phantom, steps, training
from kerasneuro.training.data import WholeDataset
from kerasneuro.training.metrics.class_overlap import class_overlap

QUICK_FILTERS, QUICK_SHAPE = (4, 8), (16, 24, 16)
Pairs = list[tuple[Path, Path]]


def write_crops(folder: Path, seeds: Sequence[int], *, quick: bool, contrast: str = "t1") -> Pairs:
    """Write crops that are made by computation, with their labels."""
    pairs, more = [], {"shape": QUICK_SHAPE} if quick else {}
    for seed in seeds:
        pair = folder / f"{contrast}-{seed}.nii.gz", folder / f"labels-{contrast}-{seed}.nii.gz"
        for path, array in zip(pair, phantom.make_crop(seed, contrast=contrast, **more), strict=True):
            nib.save(nib.Nifti1Image(array, np.eye(4)), path)
        pairs.append(pair)
    return pairs


def dice(network: keras.Model, data: WholeDataset) -> np.ndarray:
    """Return Dice of each class but the background over all crops of a data set."""
    total = None
    for index in range(len(data)):
        crop, truth = data[index]
        predicted = np.asarray(network.predict_on_batch(crop)).argmax(-1)
        counts = class_overlap(np.asarray(truth).argmax(-1), predicted, truth.shape[-1])
        total = counts if total is None else total + counts
    return total.dice[1:]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small network, synthetic crops, few epochs")
    parser.add_argument("--train", nargs=2, action="append", default=[], metavar=("CROP", "LABELS"))
    parser.add_argument("--validate", nargs=2, action="append", default=[], metavar=("CROP", "LABELS"))
    parser.add_argument(
        "--labels", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5], help="values of the classes"
    )
    parser.add_argument("--ca-mode", choices=("1/2/3", "1/23", "123"), default="1/2/3")
    parser.add_argument("--head", type=int, help="class that only says: head of the hippocampus")
    parser.add_argument("--tail", type=int, help="class that only says: tail of the hippocampus")
    parser.add_argument("--augment", choices=("numpy", "torchio"), default="numpy")
    parser.add_argument("--epochs", type=int, help=f"default: 10 with --quick, else {training.EPOCHS}")
    parser.add_argument("--rate", type=float, default=training.LEARNING_RATE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("trained-hsf.pth"))
    options = parser.parse_args()
    if bool(options.train) != bool(options.validate):
        parser.error("give crops to --train and to --validate, or to neither")
    options.epochs = options.epochs or (10 if options.quick else training.EPOCHS)
    return options


def main() -> None:
    """Train, judge, save."""
    options = arguments()
    keras.utils.set_random_seed(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        train, judge = options.train, options.validate
        if not train:
            count = 12 if options.quick else 48
            train = write_crops(Path(folder), range(count), quick=options.quick)
            judge = write_crops(Path(folder), range(900, 904), quick=options.quick)
        common = {"classes": options.labels, "multiple": steps.MULTIPLE, "prepare": steps.prepare}
        changes = training.augmentation(options.augment)
        data = WholeDataset(train, augment=changes, shuffle=True, seed=options.seed, cache="memory", **common)
        unseen = WholeDataset(judge, cache="memory", **common)

        network = graph.build(filters=QUICK_FILTERS if options.quick else graph.FILTERS)
        coarse = {"ca_mode": options.ca_mode, "head": options.head, "tail": options.tail}
        coarse["accumulated"] = 1 if options.quick else training.ACCUMULATED
        training.compile_network(network, len(data), options.epochs, learning_rate=options.rate, **coarse)
        judged = options.ca_mode == "1/2/3" and options.head is None and options.tail is None
        before = dice(network, unseen) if judged else None
        started = time.perf_counter()
        history = network.fit(
            data,
            epochs=options.epochs,
            callbacks=[data.follow()],
            shuffle=False,
            verbose=0 if options.quick else 1,
        ).history["loss"]
        seconds = time.perf_counter() - started
        print(f"loss {history[0]:.3f} -> {history[-1]:.3f} in {options.epochs} epochs ({seconds:.0f} s)")
        if before is not None:
            after = dice(network, unseen)
            for name, *row in zip(phantom.LABELS[1:], before, after, strict=True):
                print(f"{name:>10} {row[0]:7.3f} {row[1]:7.3f}")
            print(f"margin: {np.nanmean(after) - np.nanmean(before):+.3f} of mean Dice on unseen crops")
    training.write_network(network, options.output)
    print(f"wrote {options.output}; kerasneuro.load('hsf-single-fast', weights=...) takes it")


if __name__ == "__main__":
    main()
