"""Crops that look a little like a hippocampus, made by computation: nested bent tubes with noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LABELS = ("background", "DG", "CA1", "CA2", "CA3", "SUB")
BRIGHTNESS = {
    "t1": {"matter": 165, "fluid": 40, "DG": 112, "CA1": 100, "CA2": 118, "CA3": 92, "SUB": 128},
    "t2": {"matter": 80, "fluid": 215, "DG": 120, "CA1": 140, "CA2": 112, "CA3": 148, "SUB": 104},
}


def make_crop(
    seed: int, shape: Sequence[int] = (24, 40, 24), contrast: str = "t1"
) -> tuple[np.ndarray, np.ndarray]:
    """Make a crop and its labels.

    A tube bends along the second axis (from back to front, where it is thicker); inside lies DG, around it
    the sectors CA3, CA2, CA1 and SUB; beside it a ventricle.

    Parameters
    ----------
    seed : int
        Of all draws: place, bend, thickness, sectors, noise.
    shape : sequence of int
        Voxels; RAS+ axes.
    contrast : {"t1", "t2"}
        Brightness of the tissues.

    Returns
    -------
    image : numpy.ndarray
        Shape `shape`, float32, 0 ... 255.
    labels : numpy.ndarray
        Shape `shape`, uint8: indices of `LABELS`.
    """
    generator = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    bend, tilt, place = (
        generator.uniform(0.1, 0.3),
        generator.uniform(-0.2, 0.2),
        generator.uniform(-0.1, 0.1, 2),
    )
    thickness = generator.uniform(0.45, 0.6) * np.sqrt(np.clip(1 - (y / 0.85) ** 2, 0, None)) * (1 + 0.25 * y)
    across, up = x - place[0] - tilt * y, z - place[1] - bend * (y**2 - 0.4)
    ripple = _smooth(generator, shape, 0.05)
    radius = np.hypot(across, up) / np.maximum(thickness, 1e-3) + ripple
    angle = np.mod(np.arctan2(up, across) / (2 * np.pi) + generator.uniform(-0.03, 0.03) + ripple, 1)

    labels = np.zeros(x.shape, np.uint8)
    outer = (radius < 1) & (thickness > 0.1)
    # Once around the tube: CA3 above, then CA2, CA1, and SUB below.
    labels[outer] = np.select([angle < 0.2, angle < 0.32, angle < 0.65], [4, 3, 2], 5)[outer]
    labels[outer & (radius < 0.45)] = 1

    image = np.full(x.shape, float(BRIGHTNESS[contrast]["matter"]))
    image[np.hypot(x - 0.75, z - 0.55) < 0.3] = BRIGHTNESS[contrast]["fluid"]
    for index, name in enumerate(LABELS[1:], start=1):
        image[labels == index] = BRIGHTNESS[contrast][name]
    image *= 1 + _smooth(generator, shape, 0.08)
    image += generator.normal(0, 5, image.shape)
    return np.clip(image, 0, 255).astype(np.float32), labels


def _smooth(generator: np.random.Generator, shape: Sequence[int], deviation: float) -> np.ndarray:
    """Draw a smooth field of a volume."""
    from scipy import ndimage

    coarse = generator.normal(0, deviation, (4, 5, 4))
    return ndimage.zoom(coarse, np.divide(shape, coarse.shape), order=1)
