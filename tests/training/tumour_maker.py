"""Small synthetic scans with tumours, for the tests of fine-tuning."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

AFFINE = np.array([[-2.0, 0, 0, 10], [0, 0, 2, -12], [0, -2, 0, 8], [0, 0, 0, 1]])  # LIA


def make_scan(seed: int, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Return a scan and its labels: 0 background, 1 a bright ball, 4 a dark core in some of them."""
    rng = np.random.default_rng(seed)
    image = 100 + 20 * ndimage.gaussian_filter(rng.normal(size=(size,) * 3), 2)
    places = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1)
    centre = rng.integers(7, size - 7, 3)
    distance = np.sqrt(((places - centre) ** 2).sum(axis=-1))
    labels = np.zeros((size,) * 3, np.uint8)
    labels[distance < 6] = 1
    labels[distance < 3] = 4
    image = image + 60.0 * (labels == 1) - 40.0 * (labels == 4) + rng.normal(0, 3, image.shape)
    return image.astype(np.float32), labels


def make_pairs(folder: Path, count: int, size: int = 24) -> list[tuple[Path, Path]]:
    """Write scans ``s0.nii`` with labels ``l0.nii``, and the CSV ``pairs.csv`` that lists them."""
    folder.mkdir(exist_ok=True)
    pairs = []
    for number in range(count):
        image, labels = make_scan(number, size)
        paths = folder / f"s{number}.nii", folder / f"l{number}.nii"
        for path, array in zip(paths, (image, labels), strict=True):
            nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
        pairs.append(paths)
    lines = [f"p{number},{image.name},{labels.name}" for number, (image, labels) in enumerate(pairs)]
    (folder / "pairs.csv").write_text("\n".join(["subject,t1,labels", *lines]) + "\n", encoding="utf-8")
    return pairs
