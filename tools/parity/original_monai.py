"""Worker: MONAI measures surfaces and losses of made-up segmentations."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from cases import Case, write_cases
from monai.losses import (
    DiceCELoss,
    DiceLoss,
    FocalLoss,
    GeneralizedDiceLoss,
    TverskyLoss,
)
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
)
from scipy import ndimage

RELATIVE = 1e-5
SHAPE = (40, 36, 28)
ZOOMS = {"1 mm": (1.0, 1.0, 1.0), "1 x 0.7 x 2.5 mm": (1.0, 0.7, 2.5)}


def smooth_noise(seed: int, channels: int, scale: float) -> np.ndarray:
    """Draw smooth noise (X, Y, Z, C) of deviation 1."""
    noise = np.random.default_rng(seed).normal(size=(*SHAPE, channels))
    noise = ndimage.gaussian_filter(noise, (scale,) * 3 + (0,))
    return noise / noise.std(axis=(0, 1, 2))


def masks() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Make pairs of masks: near each other, far apart, and cut off by the border of the array."""
    base, other = smooth_noise(1, 2, 4.0).transpose(3, 0, 1, 2)
    inner = np.zeros(SHAPE, bool)
    inner[6:-6, 6:-6, 6:-6] = True
    return {
        "rough border": ((base > 0.5) & inner, (base + 0.3 * other > 0.5) & inner),
        "other shapes": ((base > 1) & inner, (other > 1) & inner),
        "cut by the border": (base > 0, base + 0.5 * other > 0),
    }


def first(array: np.ndarray) -> torch.Tensor:
    """Put the channels behind the batch, as MONAI has them."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def keep(
    folder: Path,
    title: str,
    name: str,
    arrays: tuple[np.ndarray, np.ndarray],
    value: object,
    options: dict[str, object],
) -> Case:
    """Write truth, prediction and MONAI's number."""
    expected = "".join(letter if letter.isalnum() else "-" for letter in f"{name} {title}") + ".npz"
    np.savez(folder / expected, truth=arrays[0], predicted=arrays[1], y=np.asarray(value, np.float64))
    return Case("score", name, title, {}, expected, RELATIVE, options=options)


def surface_cases(folder: Path) -> list[Case]:
    """Measure distances of surfaces."""
    cases = []
    for title, pair in masks().items():
        truth, predicted = (torch.from_numpy(mask)[None, None].float() for mask in pair)
        for size, zooms in ZOOMS.items():
            call = {"include_background": True, "spacing": zooms}
            for name, options in (
                ("hausdorff_95", {}),
                ("hausdorff_95", {"percentile": 100.0}),
                ("surface_distance", {}),
            ):
                if name == "hausdorff_95":
                    share = options.get("percentile", 95.0)
                    value = compute_hausdorff_distance(predicted, truth, percentile=share, **call)
                else:
                    value = compute_average_surface_distance(predicted, truth, symmetric=True, **call)
                shown = "the largest, " if options else ""
                full = f"{shown}{title}, {size}"
                cases.append(keep(folder, full, name, pair, value.item(), {"voxel_size": zooms, **options}))
    return cases


def loss_cases(folder: Path) -> list[Case]:
    """Compute losses and overlaps of four classes, of which an item lacks one, and of one class."""
    noise = np.stack([smooth_noise(seed, 4, 2.0) for seed in (5, 6)])
    noise[1, ..., 3] -= 50
    logits = (noise + 0.7 * np.stack([smooth_noise(seed, 4, 2.0) for seed in (7, 8)])).astype(np.float32)
    logits = np.maximum(logits, -20)
    truth = np.eye(4, dtype=np.float32)[noise.argmax(-1)]
    probability = torch.softmax(torch.from_numpy(logits), -1).numpy()
    soft = (truth, probability)
    smooth = {"smooth_nr": 1e-5, "smooth_dr": 1e-5}
    double = {"smooth_nr": 2e-5, "smooth_dr": 2e-5}
    classes = {"per_class": True, "smooth": 1e-5}
    exact = {"smooth_nr": 0.0, "smooth_dr": 0.0}
    cases = []

    def add(
        title: str, name: str, loss: object, pair: tuple[np.ndarray, np.ndarray], **options: object
    ) -> None:
        value = loss(first(pair[1]), first(pair[0]))
        cases.append(keep(folder, title, name, pair, value.item(), options))

    add("each class", "dice", DiceLoss(**smooth), soft, **classes)
    add(
        "no background",
        "dice",
        DiceLoss(include_background=False, **smooth),
        soft,
        background=False,
        **classes,
    )
    add("sums over the batch", "dice", DiceLoss(batch=True, **smooth), soft, batch=True, **classes)
    add("each class", "jaccard", DiceLoss(jaccard=True, **double), soft, **classes)
    add("alpha 0.3, beta 0.7", "tversky", TverskyLoss(alpha=0.3, beta=0.7, **smooth), soft, smooth=1e-5)
    add("a class is absent", "generalised_dice", GeneralizedDiceLoss(**exact), soft)
    both = DiceCELoss(softmax=True, **smooth)
    add("logits", "dice+cross_entropy", both, (truth, logits), from_logits=True, **classes)
    one = (truth[..., 1:2], logits[..., 1:2])
    add("focal, one class", "cross_entropy", FocalLoss(gamma=2.0), one, focusing=2.0, from_logits=True)
    hard = np.eye(4, dtype=np.float32)[logits.argmax(-1)]
    for name, score in (("DiceMetric", compute_dice), ("JaccardMetric", compute_iou)):
        # The first item has every class, so that no mean leaves one out.
        value = score(first(hard[:1]), first(truth[:1]), include_background=False).mean()
        cases.append(keep(folder, "no background", name, (truth[:1], hard[:1]), value.item(), {"classes": 4}))
    return cases


def main(folder: Path) -> None:
    """Write all files and the list of cases."""
    cases = surface_cases(folder) + loss_cases(folder)
    write_cases(folder, cases, {"monai": metadata.version("monai")})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
