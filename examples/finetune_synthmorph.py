"""Fine-tune the deformable network of SynthMorph on scans and label maps of your own, in two ways.

"specialised": the network for one regularisation, with kernels of its own, is trained like any other.
"hyper": the hypernetwork is trained with a random regularisation lambda for each pair, as in HyperMorph; the
loss is (1 - lambda) * similarity + lambda * smoothness, and lambda is an input that stays free afterwards.

    python examples/finetune_synthmorph.py --quick

makes a few subjects of one anatomy by computation, starts from small networks with random weights, and prints
Dice of held-out pairs as they are and registered, before and after training; the hypernetwork's for several
lambda.

    python examples/finetune_synthmorph.py --weights synthmorph.deform.3.h5 \
        --scans a.nii.gz b.nii.gz c.nii.gz d.nii.gz --labels la.nii.gz lb.nii.gz lc.nii.gz ld.nii.gz -o tuned

starts from the published file and uses your scans: all lie in one space (register them affinely first), the
last two are held out. The published hypernetwork has 877 million weights; train it on a large GPU, or choose
--network specialised (26.6 million). Needs a backend that trains: KERAS_BACKEND=tensorflow, jax or torch.

M. Hoffmann et al. (2024), doi:10.1162/imag_a_00197; A. Hoopes et al. (2022), doi:10.59275/j.melba.2022-74f1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasneuro.models.synthmorph.graph import build, velocity_network
from kerasneuro.training.changes.noise import random_displacement, warp_labels
from kerasneuro.training.losses.field import FieldGradient
from kerasneuro.training.losses.similarity import ImageMSE, LabelDice, LocalNCC
from kerasneuro.training.metrics.registration import RegistrationScores, score_pairs
from kerasneuro.training.registration.graph import training_model
from kerasneuro.training.registration.pairs import HyperPairs, RegistrationPairs, ScanPairs
from kerasneuro.training.registration.shapes import ShapeSettings, random_shapes
from kerasneuro.training.registration.synthesis import SynthesisSettings, synthesise

Data = tuple[list[np.ndarray], list[np.ndarray], list[int]]

HELD_OUT = 2
LAMBDAS = (0.1, 0.5, 0.9)
IMAGE_LOSSES = {"ncc": LocalNCC(5), "mse": ImageMSE(0.1)}
# Quick mode: widths of the small networks, size of the volumes, voxels between random velocities.
WIDTHS: dict[str, Any] = {"enc_nf": (8, 16), "dec_nf": (16, 16), "add_nf": (16, 8), "int_steps": 3}
EXTENT = 24
SUBJECTS = 10


def make_scans(seed: int) -> Data:
    """Make subjects of one anatomy: a map of shapes, warped anew for each, in one contrast."""
    rng = np.random.default_rng(seed)
    shapes = ShapeSettings(4, (10, 20), warp_scales=(8, 16), warp_deviation=2)
    template = random_shapes((EXTENT,) * 3, rng, shapes)
    contrast = SynthesisSettings(
        warp_deviation=0, spread=(0, 0), zero_background=1, blur=0.5, bias_deviation=0, gamma=0
    )
    scans, maps = [], []
    for _ in range(SUBJECTS):
        labels = warp_labels(template, random_displacement(template.shape, (8, 16), 1.5, rng))
        # The same seed for all: one brightness of each tissue, as in scans of one protocol.
        image = synthesise(labels, np.random.default_rng(seed), contrast)[0]
        scans.append(image + rng.normal(0, 0.02, image.shape))
        maps.append(labels)
    return scans, maps, [1, 2, 3]


def read_scans(options: argparse.Namespace) -> Data:
    """Read scans and label maps, placed on one cube of 1 mm about the centre of the first scan."""
    from kerasneuro.volume.geometry import Geometry, network_geometry
    from kerasneuro.volume.image import load
    from kerasneuro.volume.sample import sample_grid

    cube = None

    def place(path: str, method: str) -> np.ndarray:
        nonlocal cube
        volume = load(path, dtype=np.float32 if method == "linear" else None)
        own = Geometry.of(volume)
        cube = network_geometry(options.extent, own.centre) if cube is None else cube
        matrix = own.world2vox @ cube.vox2world
        return sample_grid(volume.array[..., None], cube.shape, matrix=matrix, method=method)[..., 0]

    scans = [place(path, "linear") for path in options.scans]
    maps = [place(path, "nearest").astype(np.int32) for path in options.labels]
    found = np.unique(np.concatenate([np.unique(each) for each in maps]))
    return scans, maps, [int(label) for label in found if label > 0]


def open_network(options: argparse.Namespace, kind: str) -> keras.Model:
    """Return the network that is trained: its only output is the displacement that pulls the moving scan."""
    shape = (options.extent,) * 3
    if options.weights is None:
        hyper: dict[str, Any] = {"hyp_units": (16, 16)} if kind == "hyper" else {"specialised": True}
        return build("deform", shape, **hyper, **WIDTHS)
    if kind == "specialised":
        from kerasneuro.models.synthmorph.specialise import specialised_network

        config = {"in_shape": shape, "bidir": False}
        return specialised_network(options.weights, options.regularisation, config=config)
    import kerasneuro

    task = kerasneuro.load("synthmorph-deform", weights=options.weights, config={"specialised": False})
    (model,) = task.models.values()
    return keras.Model(model.inputs, model.outputs[0], name=model.name)


def with_lambda(pairs: RegistrationPairs, value: float | None) -> Iterator[Any]:
    """Give the batches of held-out pairs, with one lambda as the first input if there is one."""
    for index in range(len(pairs)):
        inputs, targets = pairs[index]
        count = len(inputs[0])
        yield ((*(() if value is None else (np.full((count, 1), value, np.float32),)), *inputs), targets)


def train(network: keras.Model, data: Data, options: argparse.Namespace, kind: str) -> float:
    """Train on similarity and smoothness; return the seconds it took."""
    scans, maps, labels = data
    images, smoothness = options.image_loss != "none", options.regularisation
    pairs: Any = ScanPairs(
        scans[:-HELD_OUT],
        maps[:-HELD_OUT],
        options.batch,
        options.batches,
        images=images,
        labels=labels,
        seed=options.seed,
    )
    losses = [*([IMAGE_LOSSES[options.image_loss]] if images else []), LabelDice(), FieldGradient("l2")]
    weights = [*(1 - smoothness for _ in losses[:-1]), smoothness]
    if kind == "hyper":
        # Each pair brings the weights of its losses along.
        pairs, weights = HyperPairs(pairs, position=0, ends=0), [1] * len(losses)
    moving = 1 if kind == "hyper" else 0
    training = training_model(network, images=images, labels=len(labels), moving=moving)
    training.compile(keras.optimizers.Adam(options.rate), loss=losses, loss_weights=weights)
    started = time.perf_counter()
    follow = [pairs.follow()]
    training.fit(pairs, epochs=options.epochs, shuffle=False, verbose=0, callbacks=follow)
    return time.perf_counter() - started


def judge(
    network: keras.Model, data: Data, kind: str, options: argparse.Namespace
) -> dict[float, RegistrationScores]:
    """Score held-out pairs, in both directions; for the hypernetwork with each lambda."""
    scans, maps, labels = (data[0][-HELD_OUT:], data[1][-HELD_OUT:], data[2])
    pairs = ScanPairs(scans, maps, 1, 4, images=False, labels=labels, seed=1)
    if kind == "specialised":
        return {options.regularisation: score_pairs(network, with_lambda(pairs, None))}
    return {value: score_pairs(network, with_lambda(pairs, value)) for value in LAMBDAS}


def save(network: keras.Model, kind: str, options: argparse.Namespace) -> None:
    """Write the weights so that ``kerasneuro.load("synthmorph-deform", weights=...)`` takes them."""
    from kerasneuro.weights import write_flat

    path = options.output / f"synthmorph_deform_{kind}.h5"
    variables = velocity_network(network).variables
    arrays = {"/".join(each.path.split("/")[-2:]): keras.ops.convert_to_numpy(each) for each in variables}
    parent = options.weights.name if options.weights else "random weights"
    write_flat(path, arrays, {"parent": parent, "network": kind})
    print(f"wrote {path}")


def arguments() -> argparse.Namespace:
    """Read the command line; what is not given depends on --quick."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small synthetic scans, small networks")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="synthmorph.deform.3.h5 or one like it")
    parser.add_argument("--network", choices=("specialised", "hyper", "both"), default="both")
    parser.add_argument("--scans", nargs="+", default=[], metavar="IMAGE", help="four or more")
    parser.add_argument(
        "--labels", nargs="+", default=[], metavar="LABELS", help="one label map of each scan"
    )
    parser.add_argument("--extent", type=int, default=192, help="voxels of 1 mm along each axis")
    parser.add_argument("--image-loss", choices=("none", *IMAGE_LOSSES), default="ncc")
    parser.add_argument("--regularisation", type=float, default=0.3, help="lambda of the specialised network")
    parser.add_argument("--epochs", type=int, help="default: 4 with --quick, else 20")
    parser.add_argument("--batches", type=int, help="batches of an epoch; default: 20 with --quick, else 100")
    parser.add_argument("--rate", type=float, help="learning rate; default: 0.005 with --quick, else 1e-5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("finetuned-synthmorph"))
    options = parser.parse_args()
    if not options.quick and (options.weights is None or len(options.scans) < 2 * HELD_OUT):
        parser.error(f"give --weights and at least {2 * HELD_OUT} --scans with --labels, or --quick")
    if len(options.labels) != len(options.scans):
        parser.error(f"{len(options.scans)} scans need as many label maps, found {len(options.labels)}")
    options.batch = 2 if options.quick else 1
    options.extent = EXTENT if options.quick and not options.scans else options.extent
    options.epochs = options.epochs or (4 if options.quick else 20)
    options.batches = options.batches or (20 if options.quick else 100)
    options.rate = options.rate or (5e-3 if options.weights is None else 1e-5)
    options.output.mkdir(parents=True, exist_ok=True)
    return options


def main() -> None:
    """Train, compare, save."""
    options = arguments()
    keras.utils.set_random_seed(options.seed)
    data = read_scans(options) if options.scans else make_scans(options.seed)
    for kind in ("specialised", "hyper") if options.network == "both" else (options.network,):
        network = open_network(options, kind)
        before = judge(network, data, kind, options)
        seconds = train(network, data, options, kind)
        after = judge(network, data, kind, options)
        print(
            f"\n{kind}: {options.epochs * options.batches} batches in {seconds:.0f} s; Dice of held-out pairs"
        )
        print(f"{'lambda':>10} {'as is':>7} {'before':>7} {'after':>7} {'folding %':>10} {'roughness':>10}")
        for value, scores in after.items():
            row = (scores.before, before[value].after, scores.after)
            numbers = " ".join(f"{number:7.3f}" for number in row)
            print(f"{value:10.2f} {numbers} {scores.folding:10.2f} {scores.change:10.3f}")
        margins = [scores.after - max(scores.before, before[value].after) for value, scores in after.items()]
        print(f"margin: {max(margins):+.3f} by fine-tuning, over the better of the two before")
        save(network, kind, options)


if __name__ == "__main__":
    main()
