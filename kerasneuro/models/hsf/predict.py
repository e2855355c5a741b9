"""Predict both crops with every network and every augmented copy, and let the predictions vote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kerasneuro.inference.progress import reporting
from kerasneuro.inference.settings import Settings
from kerasneuro.models.hsf.boxes import SIDES, Box
from kerasneuro.models.hsf.draw import Chances, draw_samples
from kerasneuro.models.hsf.findings import Finding
from kerasneuro.models.hsf.steps import prepare
from kerasneuro.models.hsf.vote import Vote, merge_subfields
from kerasneuro.volume import Volume

Network = Callable[[np.ndarray], np.ndarray]
"""From ``(B, X, Y, Z, 1)`` to ``(B, X, Y, Z, C)``."""


@dataclass(frozen=True)
class Plan:
    """How the crops are predicted.

    Attributes
    ----------
    mode : str
        Which subfields are united.
    copies : int
        Augmented copies of each crop.
    seed : int
        Start of the random numbers.
    chances : Chances
        What the copies may be.
    settings : Settings
        Prediction settings.
    """

    mode: str
    copies: int
    seed: int
    chances: Chances
    settings: Settings

    @property
    def samples(self) -> int:
        """Predictions of each crop by one network."""
        return self.copies + 1 if self.copies > 1 else 1

    def generator(self, side: str, contrast: int) -> np.random.Generator:
        """Return the random numbers of one side and contrast, whatever else is computed."""
        return np.random.default_rng([self.seed, SIDES.index(side), contrast])


@dataclass(frozen=True)
class Crop:
    """One side of one contrast.

    Attributes
    ----------
    scan : Volume
        As cut out.
    padded : Volume
        As the network sees it.
    before : tuple of int
        Zeros in front of the first voxel of each axis.
    """

    scan: Volume
    padded: Volume
    before: tuple[int, int, int]

    @classmethod
    def of(cls, scan: Volume, side: str) -> Crop:
        """Standardise and pad; see `kerasneuro.models.hsf.steps.prepare`."""
        return cls(scan, *prepare(scan, f"{side} crop"))


def predict_sides(
    images: Sequence[Volume], boxes: Mapping[str, Box], networks: Sequence[Network], plan: Plan
) -> dict[str, Finding]:
    """Predict every side.

    Parameters
    ----------
    images : sequence of Volume
        The contrasts on one grid, in RAS+ orientation.
    boxes : mapping of str to Box
        Side to box.
    networks : sequence of callable
        Each has one vote per copy.
    plan : Plan
        How.
    """
    total = len(boxes) * len(images) * plan.samples * len(networks)
    headline = f"{len(networks)} networks, {plan.samples} samples of {len(boxes) * len(images)} crops"
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        advance(done)

    # All crops are prepared first, so that what is wrong with one is told before anything long is computed.
    crops = {side: tuple(Crop.of(box.crop(image), side) for image in images) for side, box in boxes.items()}
    found = {}
    with reporting(plan.settings.progress, headline, total) as advance:
        for side, box in boxes.items():
            found[side] = predict_side(side, box, crops[side], networks, plan, one_more)
    return found


def predict_side(
    side: str,
    box: Box,
    crops: tuple[Crop, ...],
    networks: Sequence[Network],
    plan: Plan,
    one_more: Callable[[], None] = lambda: None,
) -> Finding:
    """Predict the crops of one side, one for each contrast."""
    vote, copies = Vote(), []
    for contrast, crop in enumerate(crops):
        samples = draw_samples(plan.copies, plan.chances, plan.generator(side, contrast))
        copies += [sample.describe() for sample in samples[:-1]]
        padded = crop.padded
        for start in range(0, len(samples), plan.settings.batch_size):
            group = samples[start : start + plan.settings.batch_size]
            batch = np.stack([sample.apply(padded.array, padded.affine) for sample in group])[..., np.newaxis]
            ways = [s.way_back(padded.shape, padded.affine, crop.before, crop.scan.shape) for s in group]
            for network in networks:
                for way, probability in zip(ways, network(batch), strict=True):
                    vote.add(way(merge_subfields(probability, plan.mode)))
                    one_more()
    uncertainty = vote.uncertainty() if vote.count > 1 else None
    scans = tuple(crop.scan for crop in crops)
    return Finding(box, scans, vote.labels(), uncertainty, tuple(copies), vote.count)
