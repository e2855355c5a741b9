"""Heads of many persons out of one: a real head, moved and bent at random, with tumours painted into it.

The head is the one that the tests use (Colin27, see tests/data/NOTICE). Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

DATA = Path(__file__).parents[2] / "tests" / "data" / "deepbet"
HEAD, BRAIN = DATA / "head_2mm_RAS.nii.gz", DATA / "head_2mm_RAS_mask_thr0.5_dil0.nii.gz"
BRAIN_LABEL, TUMOUR_LABEL = 1, 2
STEP = 3  # of the voxels of 2 mm, every so many are kept


def read_head(step: int = STEP) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the head, its brain mask and its affine, at `step` times 2 mm."""
    head, brain = (nibabel.load(path) for path in (HEAD, BRAIN))
    smooth = ndimage.gaussian_filter(np.asarray(head.dataobj, np.float32), 0.4 * step if step > 1 else 0)
    every = (slice(None, None, step),) * 3
    affine = head.affine @ np.diag([step, step, step, 1])
    return smooth[every], np.asarray(brain.dataobj)[every] > 0, affine


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], size: float) -> np.ndarray:
    """Return smooth noise of a standard deviation."""
    coarse = rng.normal(size=(5, 5, 5))
    field = ndimage.zoom(coarse, [length / 5 for length in shape], order=2)
    return size * field / field.std()


def make_person(
    head: np.ndarray, brain: np.ndarray, seed: int, *, voxel: float = 2.0 * STEP, tumour: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Bend a head at random, change its contrast, and paint a tumour as bright as the scalp into its brain.

    Returns
    -------
    image : ndarray (X, Y, Z)
        float32.
    labels : ndarray (X, Y, Z)
        uint8: 1 brain, 2 tumour.
    """
    rng = np.random.default_rng(seed)
    angles = rng.uniform(-0.2, 0.2, 3)
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        plane = [(axis + 1) % 3, (axis + 2) % 3]
        turned = np.eye(3)
        turned[np.ix_(plane, plane)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        turn = turn @ turned
    turn = turn * rng.uniform(0.92, 1.08, 3)
    middle = (np.array(head.shape) - 1) / 2
    grid = np.stack(np.meshgrid(*map(np.arange, head.shape), indexing="ij")).reshape(3, -1)
    places = turn @ (grid - middle[:, None]) + middle[:, None] + rng.uniform(-8, 8, (3, 1)) / voxel
    places += np.stack([smooth_field(rng, head.shape, 4 / voxel).ravel() for _ in range(3)])
    image = ndimage.map_coordinates(head, places, order=1).reshape(head.shape)
    inside = ndimage.map_coordinates(brain.astype(np.uint8), places, order=0).reshape(head.shape) > 0
    image = image * np.exp(smooth_field(rng, head.shape, 0.08)) + rng.normal(0, 3, head.shape)
    labels = np.where(inside, BRAIN_LABEL, 0).astype(np.uint8)
    if tumour:
        deep = np.argwhere(ndimage.distance_transform_edt(inside) > 20 / voxel)
        centre = deep[rng.integers(len(deep))]
        distance = np.sqrt(((grid.T - centre) ** 2).sum(axis=-1)).reshape(head.shape)
        blob = (distance + smooth_field(rng, head.shape, 3 / voxel) < rng.uniform(18, 28) / voxel) & inside
        bright = np.quantile(image, 0.99)
        image = np.where(blob, bright + rng.normal(0, 6, head.shape), image)
        labels[blob] = TUMOUR_LABEL
    return image.astype(np.float32), labels


def write_people(
    folder: Path, seeds: range, *, step: int = STEP, tumour: bool = True
) -> list[tuple[Path, Path]]:
    """Write scans and labels of several persons; return the pairs of files."""
    folder.mkdir(parents=True, exist_ok=True)
    head, brain, affine = read_head(step)
    pairs = []
    for seed in seeds:
        image, labels = make_person(head, brain, seed, voxel=2.0 * step, tumour=tumour)
        paths = folder / f"sub-{seed:03d}_T1w.nii.gz", folder / f"sub-{seed:03d}_labels.nii.gz"
        for path, array in zip(paths, (image, labels), strict=True):
            nibabel.save(nibabel.Nifti1Image(array, affine), path)
        pairs.append(paths)
    return pairs
