"""Train a registration network from noise alone, as SynthMorph does: no scan, no label map, no download.

    python examples/train_synthmorph_shapes.py --quick

draws label maps of random shapes, makes pairs of images of random contrast from them (each warped on its
own), and trains a small 3-D VoxelMorph network to bring their labels together. It prints Dice of held-out
shapes, as they are and registered, and ends with an error if nothing was gained. Quick mode makes the task
easier than the article does: small volumes, four labels, little noise, and a black background.

    python examples/train_synthmorph_shapes.py -o shapes --epochs 1500

is the recipe of the article (26 labels, 160 x 160 x 192 voxels, 100 maps) and wants a large GPU for days; the
network is written every 20 epochs. Needs a backend that trains: KERAS_BACKEND=tensorflow, jax or torch.

M. Hoffmann et al. (2022), doi:10.1109/TMI.2021.3116879.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras
import numpy as np

from kerasneuro.models.voxelmorph.graph import build, registration_model
from kerasneuro.training.losses.field import FieldGradient
from kerasneuro.training.losses.similarity import LabelDice
from kerasneuro.training.metrics.registration import RegistrationScores, score_pairs
from kerasneuro.training.registration.graph import training_model
from kerasneuro.training.registration.pairs import SynthesisPairs
from kerasneuro.training.registration.shapes import ShapeSettings, random_shapes
from kerasneuro.training.registration.synthesis import SynthesisSettings

# What is easier in quick mode; the rest is fitted to the smaller volumes.
QUICK = {"size": [24, 24, 24], "labels": 4, "maps": 12, "epochs": 6, "batches": 25, "batch": 4}
QUICK |= {"filters": 8, "rate": 5e-3, "smoothness": 0.1, "judged": 16}
FULL = {"size": [160, 160, 192], "labels": 26, "maps": 100, "epochs": 1500, "batches": 100, "batch": 1}
FULL |= {"filters": 64, "rate": 1e-4, "smoothness": 1.0, "judged": 10}
QUICK_SHAPES = ShapeSettings(image_scales=(10, 20), warp_scales=(8, 16), warp_deviation=3)
QUICK_IMAGES = SynthesisSettings(
    warp_scales=(8, 16),
    warp_deviation=1.5,
    spread=(0, 8),
    zero_background=1.0,
    blur=0.7,
    bias_scales=(16,),
    bias_deviation=0.1,
)
SAVED_EVERY = 20


def make_pairs(
    options: argparse.Namespace, first_seed: int, maps: int, size: tuple[int, int], seed: int
) -> SynthesisPairs:
    """Draw label maps of random shapes, and return pairs made from them; `size`: of a batch, of an epoch."""
    shapes = QUICK_SHAPES if options.quick else ShapeSettings().fitted(options.size)
    shapes = ShapeSettings(**{**vars(shapes), "labels": options.labels})
    drawn = [
        random_shapes(options.size, np.random.default_rng([options.seed, first_seed + index]), shapes)
        for index in range(maps)
    ]
    images = QUICK_IMAGES if options.quick else SynthesisSettings().fitted(options.size)
    labels = range(options.labels)
    return SynthesisPairs(drawn, *size, settings=images, images=False, labels=labels, seed=seed)


def make_network(options: argparse.Namespace) -> keras.Model:
    """Build VxmDense with a velocity at half the resolution, as the released models have it."""
    n = options.filters
    features = ((n, 2 * n), (2 * n, 2 * n, n)) if options.quick else ((n,) * 4, (n,) * 6)
    return build(options.size, nb_unet_features=features, svf_resolution=2, int_steps=5)


def train(network: keras.Model, options: argparse.Namespace) -> float:
    """Train on Dice of the labels and smoothness of the displacement; return the seconds it took."""
    register = registration_model(network)
    training = training_model(register, images=False, labels=options.labels)
    training.compile(
        keras.optimizers.Adam(options.rate),
        loss=[LabelDice(), FieldGradient("l2")],
        loss_weights=[1, options.smoothness],
    )
    size = (options.batch, options.batches)
    data = make_pairs(options, 0, options.maps, size, seed=options.seed)

    def follow(epoch: int, logs: dict[str, float]) -> None:
        print(f"epoch {epoch + 1:>4}: loss {logs['loss']:.4f}", flush=True)
        if (epoch + 1) % SAVED_EVERY == 0:
            network.save(options.output / "voxelmorph_shapes.keras")

    callbacks = [data.follow(), keras.callbacks.LambdaCallback(on_epoch_end=follow)]
    started = time.perf_counter()
    training.fit(data, epochs=options.epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return time.perf_counter() - started


def arguments() -> argparse.Namespace:
    """Read the command line; what is not given depends on --quick."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small volumes, few and easy shapes")
    parser.add_argument(
        "--size", type=int, nargs="+", help="voxels along each axis, multiples of 16 (4 with --quick)"
    )
    parser.add_argument("--labels", type=int, help="labels of the shapes")
    parser.add_argument("--maps", type=int, help="label maps to train on")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batches", type=int, help="batches of an epoch")
    parser.add_argument("--batch", type=int, help="pairs of a batch")
    parser.add_argument("--filters", type=int, help="width of the network")
    parser.add_argument("--rate", type=float, help="learning rate")
    parser.add_argument("--smoothness", type=float, help="weight of the smoothness")
    parser.add_argument("--judged", type=int, help="held-out pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("synthmorph-shapes"))
    options = parser.parse_args()
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.output.mkdir(parents=True, exist_ok=True)
    return options


def report(scores: RegistrationScores, pairs: int) -> None:
    """Print the scores of held-out pairs."""
    print(f"\nDice of {pairs} pairs of held-out shapes")
    print(f"    as they are  {scores.before:.3f}")
    print(f"    registered   {scores.after:.3f}   ({scores.folding:.2f} % of the voxels fold)")
    print(f"margin: {scores.gain:+.3f} by registration")


def main() -> None:
    """Train, compare, save."""
    options = arguments()
    keras.utils.set_random_seed(options.seed)
    network = make_network(options)
    seconds = train(network, options)
    pairs = options.epochs * options.batches * options.batch
    print(f"{network.count_params()} weights, {pairs} pairs in {seconds:.0f} s")
    held_out = make_pairs(options, 10**6, options.judged, (1, options.judged), seed=options.seed + 1)
    scores = score_pairs(registration_model(network), (held_out[index] for index in range(len(held_out))))
    report(scores, options.judged)
    network.save(options.output / "voxelmorph_shapes.keras")
    print(f"wrote {options.output / 'voxelmorph_shapes.keras'}")
    if scores.gain <= 0:
        raise SystemExit("the network did not learn to register; train for longer")


if __name__ == "__main__":
    main()
