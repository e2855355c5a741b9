"""Scans of an evaluation page: what the network sees, and where it looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.training.classifier.cohort import Sample
from kerasneuro.volume import Volume

if TYPE_CHECKING:
    from kerasneuro.report.evaluation import Judged
    from kerasneuro.training.classifier.job import Job

POSITIVE = 1


def choose_samples(job: Job, judged: Judged, most: int) -> list[tuple[Sample, float]]:
    """Choose test subjects, as many of each class as possible, the highest probability first.

    Returns
    -------
    list of (Sample, float)
        One sample of a subject, and its probability of class 1.
    """
    found: dict[str, tuple[Sample, float]] = {}
    for sample, probability in zip(job.of("test"), judged.probability, strict=True):
        found.setdefault(sample.subject, (sample, float(probability)))
    ordered = sorted(found.values(), key=lambda pair: -pair[1])
    positive = [pair for pair in ordered if pair[0].label == POSITIVE]
    others = [pair for pair in ordered if pair[0].label != POSITIVE]
    share = max(most - most // 2, most - len(others))
    chosen = positive[:share]
    return [*chosen, *others[: most - len(chosen)]]


def prepared_scans(job: Job, sample: Sample) -> dict[str, Volume]:
    """Return the channels of a sample as the network sees them, with their place in the world."""
    volume = job.prepare(sample)
    affine = prepared_affine(sample, volume.shape[:3])
    names = job.config.data.channels
    return {name: Volume(volume[..., channel], affine) for channel, name in enumerate(names)}


def prepared_affine(sample: Sample, shape: tuple[int, ...]) -> np.ndarray:
    """Return the affine ``(4, 4)`` of a resized image; that of a patch is not known and has 1 mm."""
    from kerasneuro.volume import load

    if not sample.images:
        return np.eye(4)
    scan = load(sample.images[0])
    steps = [before / after for before, after in zip(scan.shape, shape, strict=True)]
    return scan.affine @ np.diag([*steps, 1.0])


def load_network(job: Job) -> Any:
    """Build the network of a run and load its best weights."""
    from kerasneuro.training.classifier.train import build_network, load_weights

    model = build_network(job)
    load_weights(model, job.folder.best)
    return model


def draw_heat(job: Job, model: Any, sample: Sample, scan: Volume, title: str) -> bytes:
    """Draw the Grad-CAM heat map of class 1 over a prepared scan; a PNG file."""
    from kerasneuro.explain import draw_montage, grad_cam

    heat = grad_cam(model, job.prepare(sample)[np.newaxis], POSITIVE)[0]
    return draw_montage(scan, heat, title=title)
