"""Ask a network how sure it is: Monte-Carlo dropout shows where a segmentation is likely to be wrong.

    python examples/uncertainty_mc_dropout.py --quick

makes volumes of blobs, some so faint that the noise hides them, and trains a small MeshNet with dropout on
them (kwyk's network, doi:10.3389/fninf.2019.00067). Then it predicts a volume that it has not seen several
times, with other voxels dropped each time, and compares the entropy of the mean where the labels are wrong
with where they are right. It ends with an error if the network is not less sure where it errs. Image, labels,
probability, entropy and variance are written as NIfTI.

Needs a backend that trains: KERAS_BACKEND=tensorflow, jax or torch. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras
import nibabel as nib
import numpy as np
from scipy import ndimage

from kerasneuro.inference import predict_blocks
from kerasneuro.models.kwyk.graph import build
from kerasneuro.nn.monte_carlo import reseed, with_monte_carlo
from kerasneuro.training.losses.by_name import get_loss
from kerasneuro.training.metrics.class_overlap import class_overlap
from kerasneuro.training.metrics.classification import area_under_roc

BLOBS = (3, 6)
RADIUS = (0.12, 0.24)  # of the edge
CONTRAST = (0.5, 2.0)  # of the deviation of the noise
KEPT = 0.9
DILATIONS = (1, 2, 4, 1)


def make_volume(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Make an image (size, size, size) of standard scores, float32, and its blobs, 0 and 1."""
    generator = np.random.default_rng(seed)
    grid = np.indices((size,) * 3).astype(np.float32)
    image = generator.normal(size=(size,) * 3)
    labels = np.zeros((size,) * 3, np.uint8)
    for _ in range(generator.integers(*BLOBS, endpoint=True)):
        centre, radii = generator.uniform(0.15, 0.85, 3) * size, generator.uniform(*RADIUS, 3) * size
        apart = [(line - middle) / radius for line, middle, radius in zip(grid, centre, radii, strict=True)]
        inside = np.sum(np.square(apart), axis=0) < 1
        image[inside & (labels == 0)] += generator.uniform(*CONTRAST)
        labels[inside] = 1
    image = ndimage.gaussian_filter(image, 0.7)
    return ((image - image.mean()) / image.std()).astype(np.float32), labels


class Blobs(keras.utils.PyDataset):
    """Batches of volumes that are drawn anew for every one."""

    def __init__(self, seed: int, size: int, batch: int, batches: int) -> None:
        super().__init__()
        self.seed, self.size, self.batch, self.batches = seed, size, batch, batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return images (B, X, Y, Z, 1) and class indices (B, X, Y, Z)."""
        seeds = range(self.seed + index * self.batch, self.seed + (index + 1) * self.batch)
        images, labels = zip(*(make_volume(seed, self.size) for seed in seeds), strict=True)
        return np.stack(images)[..., None], np.stack(labels)


def train(options: argparse.Namespace) -> keras.Model:
    """Train the network with Dice and cross entropy."""
    network = build("bwn_multi", 2, options.filters, DILATIONS, keep_probability=KEPT)
    network.compile(
        keras.optimizers.Adam(options.rate),
        loss=get_loss("dice+cross_entropy", per_class=True, background=False),
    )
    started = time.perf_counter()
    for epoch in range(options.epochs):
        first = 10**6 + epoch * options.batches * options.batch
        data = Blobs(first, options.size, options.batch, options.batches)
        loss = network.fit(data, shuffle=False, verbose=0).history["loss"][0]
        print(f"epoch {epoch + 1}: loss {loss:.3f}", flush=True)
    volumes = options.epochs * options.batches * options.batch
    print(f"{network.count_params()} weights, {volumes} volumes in {time.perf_counter() - started:.0f} s")
    return network


def predict(network: keras.Model, image: np.ndarray, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Predict many times with dropout: mean probability of the blobs, entropy, variance, (X, Y, Z) each."""
    random = with_monte_carlo(network, True)
    reseed(random, options.seed)
    found = predict_blocks(
        random, image, block_shape=image.shape, n_samples=options.samples, uncertainty=True
    )
    return {
        "probability": found.array[..., 1],
        "entropy": found.entropy,
        "variance": found.variance,
    }


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small volumes, few of them")
    parser.add_argument("--size", type=int, help="voxels along each axis; default: 24 with --quick, else 64")
    parser.add_argument("--epochs", type=int, help="default: 4 with --quick, else 20")
    parser.add_argument("--batches", type=int, default=25, help="batches of an epoch")
    parser.add_argument("--batch", type=int, default=2, help="volumes of a batch")
    parser.add_argument("--filters", type=int, help="width of the network; default: 8 with --quick, else 24")
    parser.add_argument("--samples", type=int, help="predictions; default: 10 with --quick, else 30")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("uncertainty"))
    options = parser.parse_args()
    defaults = {"size": (24, 64), "epochs": (4, 20), "filters": (8, 24), "samples": (10, 30)}
    for name, (quick, full) in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    return options


def main() -> None:
    """Train, predict, compare."""
    options = arguments()
    keras.utils.set_random_seed(options.seed)
    network = train(options)
    image, labels = make_volume(options.seed, 2 * options.size)
    maps = predict(network, image, options)
    found = (maps["probability"] > 0.5).astype(np.uint8)
    wrong = found != labels
    dice = class_overlap(labels, found, 2).dice[1]
    print(f"\nunseen volume: Dice {dice:.3f}, {wrong.mean():.1%} of the voxels wrong")
    for name in ("entropy", "variance"):
        means = [maps[name][where].mean() for where in (~wrong, wrong)]
        area = area_under_roc(wrong.ravel(), maps[name].ravel())
        print(f"{name:>9}: {means[0]:.4f} where right, {means[1]:.4f} where wrong; AUROC {area:.3f}")
    margin = maps["entropy"][wrong].mean() - maps["entropy"][~wrong].mean()
    print(f"margin: {margin:+.3f} nats less sure where it errs")

    options.output.mkdir(parents=True, exist_ok=True)
    for name, array in {"image": image, "labels": labels, "found": found, **maps}.items():
        nib.save(nib.Nifti1Image(array, np.eye(4)), options.output / f"{name}.nii.gz")
    print(f"wrote {options.output}")
    if not margin > 0:
        raise SystemExit("the network is as sure where it errs; train for longer")


if __name__ == "__main__":
    main()
