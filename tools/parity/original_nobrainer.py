"""Worker: nobrainer 1.2.1 builds, trains a step, writes its files and predicts.

Every array of every file has moved from its initial value, so that none can be missed unseen.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
import tensorflow as tf
from cases import Case, compare_returned, write_cases
from nobrainer.losses import dice
from nobrainer.models.unet import unet

BLOCK = (64, 64, 64)
PROBABILITY = 2e-5
# Two networks that agree to 1e-6 may still differ where a probability meets the threshold.
VOXELS = 5
# Title -> classes, batch normalisation, whole model (or weights alone).
NETWORKS = {
    "whole model with optimizer, one class": (1, False, True),
    "weights only, one class": (1, False, False),
    "batch normalisation, one class": (1, True, True),
    "six classes, softmax": (6, False, True),
}


def trained(n_classes: int, batchnorm: bool, seed: int) -> tuple[tf.keras.Model, np.ndarray]:
    """Build the published network at full width and train it for one step on noise."""
    tf.keras.utils.set_random_seed(seed)
    model = unet(n_classes=n_classes, input_shape=(*BLOCK, 1), batchnorm=batchnorm)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1, *BLOCK, 1)).astype("float32")
    labels = rng.integers(0, max(n_classes, 2), size=(1, *BLOCK))
    if n_classes == 1:
        target = labels[..., None].astype("float32")
    else:
        target = np.eye(n_classes, dtype="float32")[labels]
    model.compile(tf.keras.optimizers.Adam(1e-3), loss=dice)
    model.train_on_batch(x, target)
    return model, x


def scan(path: Path) -> None:
    """Write a smooth head-like scan on an oblique grid of unequal voxels."""
    rng = np.random.default_rng(11)
    shape = (90, 75, 83)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    head = 900 * np.exp(-2.5 * (grid**2).sum(0)) * (1 + 0.2 * np.sin(9 * grid).prod(0))
    noisy = head + rng.normal(scale=20, size=shape)
    affine = np.array([[-1.9, 0.2, 0.1, 80], [0.1, 2.1, -0.3, -70], [0.2, 0.3, 2.0, -60], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(noisy.astype("int16"), affine), path)


def network_cases(folder: Path) -> list[Case]:
    """Write weight files in several layouts, and what the networks answer."""
    cases = []
    for title, (n_classes, batchnorm, whole) in NETWORKS.items():
        stem = title.replace(",", "").replace(" ", "-")
        model, x = trained(n_classes, batchnorm, seed=len(cases))
        weights = f"{stem}.h5"
        if whole:
            model.save(folder / weights, save_format="h5")
        else:
            model.save_weights(folder / weights)
        np.savez(folder / f"{stem}.npz", x=x, y=model.predict(x, verbose=0))
        cases.append(Case("network", "nobrainer-brainy", title, {"": weights}, f"{stem}.npz", PROBABILITY))
    return cases


def pipeline_cases(folder: Path, weights: str) -> list[Case]:
    """Run the original's command line on a scan."""
    scan(folder / "scan.nii.gz")
    threshold = middle_threshold(folder, weights)
    cases = []
    for title, arguments, options in (
        ("command line, middle threshold", [], {}),
        ("command line, largest label", ["-l"], {"largest_label": True}),
    ):
        expected = f"mask{len(cases)}.nii.gz"
        command = [str(Path(sys.executable).with_name("nobrainer")), "predict", "-m", weights]
        command += ["-b", "32", "32", "32", "-r", "64", "64", "64", "-t", str(threshold), *arguments]
        subprocess.run([*command, "scan.nii.gz", expected], cwd=folder, check=True, capture_output=True)
        call = {"resize": [64, 64, 64], "block_shape": [32, 32, 32], "threshold": threshold, **options}
        cases.append(
            Case("pipeline", "nobrainer-brainy", title, {"": weights}, expected, VOXELS, "scan.nii.gz", call)
        )
    return cases


def middle_threshold(folder: Path, weights: str) -> float:
    """Choose the threshold that about half of the voxels pass: only such masks can tell networks apart."""
    from nobrainer.volume import from_blocks_numpy, standardize_numpy, to_blocks_numpy
    from skimage.transform import resize

    model = tf.keras.models.load_model(folder / weights, compile=False)
    image = nib.load(folder / "scan.nii.gz").get_fdata(dtype=np.float32)
    volume = standardize_numpy(resize(image, (64, 64, 64), order=1, mode="constant", preserve_range=True))
    flexible = unet(n_classes=1, input_shape=(32, 32, 32, 1))
    flexible.set_weights(model.get_weights())
    blocks = flexible.predict(to_blocks_numpy(volume, (32, 32, 32))[..., None], batch_size=1, verbose=0)
    return round(float(np.median(from_blocks_numpy(blocks[..., 0], (64, 64, 64)))), 6)


def predict_returned(case: Case, file: Path, x: np.ndarray) -> np.ndarray:
    """Load a file that kerasneuro wrote into a network of nobrainer's, and predict."""
    n_classes, batchnorm, _ = NETWORKS[case.title]
    model = unet(n_classes=n_classes, input_shape=(*BLOCK, 1), batchnorm=batchnorm)
    model.load_weights(file)
    return model.predict(x, verbose=0)


def main(folder: Path) -> None:
    """Write all files and the list of cases."""
    cases = network_cases(folder)
    small = unet(n_classes=1, input_shape=(32, 32, 32, 1))
    source = tf.keras.models.load_model(folder / cases[0].weights[""], compile=False)
    small.set_weights(source.get_weights())
    small.save(folder / "pipeline.h5", save_format="h5")
    cases += pipeline_cases(folder, "pipeline.h5")
    versions = {name: metadata.version(name) for name in ("nobrainer", "tensorflow")}
    write_cases(folder, cases, versions)


if __name__ == "__main__":
    if sys.argv[1] == "--returned":
        compare_returned(Path(sys.argv[2]), predict_returned)
    else:
        main(Path(sys.argv[1]))
