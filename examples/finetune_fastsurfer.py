"""Fine-tune FastSurferCNN on labels of your own, for the slices of one plane.

    python examples/finetune_fastsurfer.py --quick

makes a few heads by computation (ellipsoids of skin, bone, fluid, grey and white matter, ventricles,
lesions), trains a small network to tell brain from head, then gives it the classes of the new labels: all
weights but the classifier's are kept. It prints Dice on a head that no network has seen, before (the new
classifier is random then) and after.

    python examples/finetune_fastsurfer.py --weights axial=Epoch_30_training_state.pkl \
        --train T1_a.nii.gz labels_a.nii.gz --train T1_b.nii.gz labels_b.nii.gz \
        --validate T1_c.nii.gz labels_c.nii.gz -o finetuned

starts from an original checkpoint and uses your scans. Needs a backend that trains: KERAS_BACKEND=tensorflow,
jax or torch. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
from scipy import ndimage

from kerasneuro.models.fastsurfer import finetune, graph, targets
from kerasneuro.models.fastsurfer.dataset import LabelledVolume, SliceDataset, label_volume, read_pair
from kerasneuro.models.fastsurfer.slices import PLANES, ThickSlices, predict_slices
from kerasneuro.training.metrics.class_overlap import ClassOverlap, class_overlap

# Labels of the synthetic heads, by FreeSurfer's numbers: white matter, cortex, ventricle, CSF, lesion.
LABELS = {2: "white matter", 3: "cortex", 4: "ventricle", 24: "CSF", 77: "lesion"}
BRIGHTNESS = {"air": 6, "skin": 215, "bone": 25, 24: 55, 3: 110, 2: 165, 4: 50, 77: 118}
BATCH = 8


def make_head(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Make a head and its labels: two volumes ``(size, size, size)``, uint8 and int16."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij"))

    def smooth(scale: float) -> np.ndarray:
        field = ndimage.zoom(rng.normal(size=(4, 4, 4)), size / 4, order=1)
        return scale * field[:size, :size, :size]

    def radius(centre: Sequence[float], axes: Sequence[float]) -> np.ndarray:
        parts = [(line - middle) / length for line, middle, length in zip(grid, centre, axes, strict=True)]
        return np.sqrt(np.sum(np.square(parts), axis=0))

    depth = radius(rng.uniform(-0.06, 0.06, 3), rng.uniform(0.82, 0.94, 3)) + smooth(0.025)
    image = np.full(depth.shape, float(BRIGHTNESS["air"]))
    image[depth < 1] = BRIGHTNESS["skin"]
    image[depth < 0.9] = BRIGHTNESS["bone"]
    labels = np.zeros(depth.shape, np.int16)
    folds = smooth(0.05)
    labels[depth < 0.82] = 24
    labels[depth + 0.5 * folds < 0.74] = 3
    labels[depth + folds < 0.58] = 2
    for side in (-0.17, 0.17):
        labels[radius((side, 0, 0), rng.uniform(0.9, 1.2) * np.array([0.09, 0.13, 0.24])) < 1] = 4
    for _ in range(4):
        place = rng.uniform(-0.35, 0.35, 3)
        labels[(radius(place, rng.uniform(0.1, 0.16, 3)) < 1) & (labels == 2)] = 77
    for label in LABELS:
        image[labels == label] = BRIGHTNESS[label]
    image = ndimage.gaussian_filter(image, 0.5) * (1 + smooth(0.06)) + rng.normal(0, 5, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), labels


def dice(network: keras.Model, volumes: Sequence[LabelledVolume], plane: str, classes: int) -> np.ndarray:
    """Predict whole scans, slice by slice, and return Dice of each class but the background."""

    def run(batch: np.ndarray) -> np.ndarray:
        return np.asarray(network.predict_on_batch(batch))

    def overlaps() -> Iterator[ClassOverlap]:
        for volume in volumes:
            axes = PLANES[plane].slice_axis, PLANES[plane].row_axis, PLANES[plane].column_axis
            truth, slices = volume.classes.transpose(axes), ThickSlices(volume.image, PLANES[plane])
            for start, logits in predict_slices(run, slices, range(len(slices)), BATCH):
                yield class_overlap(truth[start : start + len(logits)], logits.argmax(-1), classes)

    first, *others = overlaps()
    return sum(others, first).dice[1:]


def train(network: keras.Model, data: SliceDataset, epochs: int, rate: float) -> float:
    """Train with the loss, optimiser and falling rate of the original; return the seconds it took."""
    finetune.compile_network(network, rate)
    started = time.perf_counter()
    callbacks = [finetune.schedule(rate), data.follow()]
    network.fit(data, epochs=epochs, callbacks=callbacks, shuffle=False, verbose=0)
    return time.perf_counter() - started


def make_parent(options: argparse.Namespace, size: int) -> keras.Model:
    """Train a small network to tell brain from the rest of the head, as a stand-in for published weights."""
    volumes = []
    for seed in range(options.heads):
        image, labels = make_head(1000 + seed, size)
        brain = np.where(labels > 0, 2, image > 100).astype(np.uint8)
        volumes.append(label_volume(image, brain, 3))
    network = graph.build(filters=8, classes=3, name="parent")
    data = SliceDataset(volumes, options.plane, BATCH, pad=4, seed=options.seed)
    seconds = train(network, data, options.epochs // 2, finetune.LEARNING_RATE)
    print(f"parent: brain, head and air of {len(volumes)} synthetic heads, trained in {seconds:.0f} s")
    return network


def read_data(
    options: argparse.Namespace, size: int
) -> tuple[list[LabelledVolume], list[LabelledVolume], dict[int, str]]:
    """Return scans to train on, scans to judge by, and the name of each label."""
    if options.train:
        found = {label for _, path in options.train for label in labels_in(path)}
        names = {label: str(label) for label in sorted(found - {0})}
        ids = [0, *names]
        training, judged = (
            [read_pair(image, labels, ids) for image, labels in pairs]
            for pairs in (options.train, options.validate)
        )
        return training, judged, names
    ids = [0, *LABELS]

    def synthetic(seed: int) -> LabelledVolume:
        image, labels = make_head(seed, size)
        return label_volume(image, targets.classes_of(labels, ids), len(ids))

    return [synthetic(seed) for seed in range(options.heads)], [synthetic(99)], LABELS


def labels_in(path: str) -> list[int]:
    """List the labels that occur in a label map."""
    import nibabel

    return np.unique(np.asanyarray(nibabel.load(path).dataobj)).astype(int).tolist()


def save(
    network: keras.Model, options: argparse.Namespace, names: dict[int, str], scores: np.ndarray
) -> None:
    """Write the network as named arrays, for kerasneuro, and as a plain Keras model."""
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"fastsurfer_{options.plane}.h5"
    parent = options.weights.name if options.weights else "synthetic heads"
    notes = {
        "plane": options.plane,
        "labels": json.dumps([0, *names]),
        "names": json.dumps(["background", *names.values()]),
        "parent": parent,
        "dice": json.dumps(np.round(scores, 4).tolist()),
    }
    finetune.write_network(network, path, notes)
    network.save(path.with_suffix(".keras"))
    sample = np.random.default_rng(0).random((1, 32, 32, network.input_shape[-1])).astype(np.float32)
    again = finetune.read_network(path).predict_on_batch(sample)
    np.testing.assert_allclose(np.asarray(again), np.asarray(network.predict_on_batch(sample)), atol=1e-4)
    print(f"wrote {path} and {path.with_suffix('.keras').name}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small synthetic heads, few epochs")
    parser.add_argument("--weights", metavar="PLANE=FILE", help="checkpoint to start from, and its plane")
    parser.add_argument("--train", nargs=2, action="append", default=[], metavar=("IMAGE", "LABELS"))
    parser.add_argument("--validate", nargs=2, action="append", default=[], metavar=("IMAGE", "LABELS"))
    parser.add_argument("--plane", choices=sorted(PLANES), default="axial")
    parser.add_argument("--epochs", type=int, help="default: 8 with --quick, else 20")
    parser.add_argument("--rate", type=float, help="learning rate; default: 0.001 with --weights, else 0.01")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("finetuned-fastsurfer"))
    options = parser.parse_args()
    if bool(options.train) != bool(options.validate):
        parser.error("give scans to --train and to --validate, or to neither")
    if options.weights:
        plane, _, path = options.weights.rpartition("=")
        if plane and plane not in PLANES:
            parser.error(f"--weights PLANE=FILE: the plane is one of {', '.join(PLANES)}, found {plane}")
        options.plane, options.weights = plane or options.plane, Path(path)
    options.epochs = options.epochs or (8 if options.quick else 20)
    options.rate = options.rate or (0.001 if options.weights else finetune.LEARNING_RATE)
    options.heads = 3 if options.quick else 6
    return options


def main() -> None:
    """Train, compare, save."""
    options = arguments()
    keras.utils.set_random_seed(options.seed)
    size = 48 if options.quick else 96
    training, judged, names = read_data(options, size)
    classes = len(names) + 1
    parent = finetune.read_network(options.weights) if options.weights else make_parent(options, size)
    network = finetune.with_classes(parent, classes)

    before = dice(network, judged, options.plane, classes)
    data = SliceDataset(training, options.plane, BATCH, pad=4, seed=options.seed)
    seconds = train(network, data, options.epochs, options.rate)
    after = dice(network, judged, options.plane, classes)

    print(f"\nDice on unseen data after {options.epochs} epochs of {len(data)} batches ({seconds:.0f} s):")
    print(f"{'':>14} {'before':>7} {'after':>7}")
    for name, *row in zip(names.values(), before, after, strict=True):
        print(f"{name:>14} {row[0]:7.3f} {row[1]:7.3f}")
    means = [float(np.nanmean(values)) for values in (before, after)]
    print(f"{'mean':>14} {means[0]:7.3f} {means[1]:7.3f}")
    print(f"margin: {means[1] - means[0]:+.3f} by fine-tuning")
    save(network, options, names, after)


if __name__ == "__main__":
    main()
