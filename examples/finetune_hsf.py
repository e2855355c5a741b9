"""Fine-tune a network of HSF on labels of your own protocol, block by block as its authors do.

    python examples/finetune_hsf.py --quick

trains a small network on synthetic crops with six classes, then gives it four crops of a protocol with four
classes (background, DG, CA, SUB): the last layer is new, and the decoder opens after it. It prints Dice on
crops that no network has seen, beside that of a network that learns the same from random weights.

    python examples/finetune_hsf.py --weights arunet_4.0.0single.ckpt --labels 0 1 2 3 \
        --train crop_a.nii.gz labels_a.nii.gz --train crop_b.nii.gz labels_b.nii.gz \
        --validate crop_c.nii.gz labels_c.nii.gz -o finetuned.pth

starts from a published file (ONNX or checkpoint) and uses your crops; without --weights the published network
is fetched. Needs a backend that trains: KERAS_BACKEND=tensorflow, jax or torch.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from train_hsf import QUICK_FILTERS, dice, write_crops

import kerasneuro
from kerasneuro.models.hsf import graph, steps, training
from kerasneuro.training.data import WholeDataset

UNITED = {"background": 0, "DG": 1, "CA": [2, 3, 4], "SUB": 5}
NAME = "hsf-single-fast"
PARENT_EPOCHS = 10


def fit(
    network: keras.Model, data: WholeDataset, options: argparse.Namespace, epochs: int, *callbacks: Any
) -> None:
    """Train with the loss, the optimiser and the rates of the original."""
    accumulated = 1 if options.quick else training.ACCUMULATED
    training.compile_network(network, len(data), epochs, learning_rate=options.rate, accumulated=accumulated)
    follow = [data.follow(), *callbacks]
    network.fit(data, epochs=epochs, callbacks=follow, shuffle=False, verbose=0 if options.quick else 1)


def make_parent(folder: Path, options: argparse.Namespace) -> keras.Model:
    """Train a small network on synthetic crops, as a stand-in for the published one."""
    pairs = write_crops(folder, range(100, 112), quick=True)
    data = WholeDataset(pairs, classes=6, shuffle=True, cache="memory", prepare=steps.prepare)
    network = graph.build(filters=QUICK_FILTERS, name="parent")
    fit(network, data, options, PARENT_EPOCHS)
    return network


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small network, synthetic crops, few epochs")
    parser.add_argument("--weights", type=Path, help="published file to start from (.onnx, .ckpt, .pth)")
    parser.add_argument("--train", nargs=2, action="append", default=[], metavar=("CROP", "LABELS"))
    parser.add_argument("--validate", nargs=2, action="append", default=[], metavar=("CROP", "LABELS"))
    parser.add_argument("--labels", type=int, nargs="+", help="values of the classes, the background first")
    parser.add_argument("--mode", choices=training.MODES, default="decoder", help="which blocks are opened")
    parser.add_argument(
        "--depth", type=int, default=-1, help="index of the last block that is opened; -1: all"
    )
    parser.add_argument("--frequency", type=int, help="epochs between two blocks; default 2 or 4")
    parser.add_argument("--augment", choices=("numpy", "torchio"), default="numpy")
    parser.add_argument("--epochs", type=int, help="default: 8 with --quick, else 64")
    parser.add_argument("--rate", type=float, default=training.LEARNING_RATE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("finetuned-hsf.pth"))
    options = parser.parse_args()
    if bool(options.train) != bool(options.validate) or (options.train and not options.labels):
        parser.error("give crops to --train and to --validate, and the values of their --labels")
    if not options.quick and not options.train:
        parser.error("give your crops by --train and --validate, or look at --quick first")
    options.epochs = options.epochs or (8 if options.quick else training.EPOCHS)
    options.frequency = options.frequency or (2 if options.quick else 4)
    return options


def main() -> None:
    """Fine-tune, compare, save."""
    options = arguments()
    keras.utils.set_random_seed(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        train, judge, classes = options.train, options.validate, options.labels
        if options.quick:
            train = write_crops(Path(folder), range(4), quick=True)
            judge = write_crops(Path(folder), range(900, 904), quick=True)
            parent, classes = make_parent(Path(folder), options), UNITED
        else:
            parent = kerasneuro.load(NAME, weights=options.weights).model
        common = {"classes": classes, "multiple": steps.MULTIPLE, "prepare": steps.prepare, "cache": "memory"}
        changes = training.augmentation(options.augment)
        data = WholeDataset(train, augment=changes, shuffle=True, seed=options.seed, **common)
        unseen = WholeDataset(judge, **common)

        network = training.with_classes(parent, len(data.classes))
        before = dice(network, unseen)
        unfreezing = training.unfreezing(network, options.mode, options.frequency, options.depth)
        fit(network, data, options, options.epochs, unfreezing)
        after = dice(network, unseen)
        print(f"mean Dice on unseen crops: {np.nanmean(before):.3f} -> {np.nanmean(after):.3f}")
        print(f"margin: {np.nanmean(after) - np.nanmean(before):+.3f} by fine-tuning")
        if options.quick:
            scratch = graph.build(filters=QUICK_FILTERS, n_classes=len(data.classes), name="scratch")
            fit(scratch, data, options, options.epochs)
            gained = np.nanmean(after) - np.nanmean(dice(scratch, unseen))
            print(f"margin: {gained:+.3f} over the same epochs from random weights")
    training.write_network(network, options.output)
    print(f"wrote {options.output}; kerasneuro.load({NAME!r}, weights=...) takes it")


if __name__ == "__main__":
    main()
