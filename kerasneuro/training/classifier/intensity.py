"""Harmonise the intensities of volumes: ComBat on the mean and the spread of each channel."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.training.classifier.cohort import Sample
from kerasneuro.training.classifier.config import HarmoniseSettings
from kerasneuro.training.classifier.harmonise import ComBat


def summary(volume: np.ndarray) -> np.ndarray:
    """Return the mean and the logarithm of the standard deviation of each channel's foreground.

    Parameters
    ----------
    volume : numpy.ndarray
        Shape ``(X, Y, Z, C)``; the foreground is what lies above the channel's minimum.

    Returns
    -------
    numpy.ndarray
        Shape ``(2 * C,)``, float64: the means, then the logarithms.

    Raises
    ------
    InvalidOption
        If a channel is constant.
    """
    means, spreads = [], []
    for channel in np.moveaxis(volume, -1, 0):
        inside = channel[channel > channel.min()].astype(np.float64)
        if inside.size < 2 or inside.std() == 0:
            raise InvalidOption(
                "a channel has no contrast, so its intensities cannot be harmonised; set harmonise.of to none"
            )
        means.append(inside.mean())
        spreads.append(np.log(inside.std()))
    return np.array(means + spreads)


def rescale(volume: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Give the foreground of each channel another mean and spread; the background stays.

    Parameters
    ----------
    volume : numpy.ndarray
        Shape ``(X, Y, Z, C)``, float32.
    wanted : numpy.ndarray
        As from `summary`.

    Returns
    -------
    numpy.ndarray
        Same shape, float32.
    """
    found, channels = summary(volume), volume.shape[-1]
    factor = np.exp(wanted[channels:] - found[channels:]).astype(np.float32)
    offset = (wanted[:channels] - factor * found[:channels]).astype(np.float32)
    inside = volume > volume.min(axis=(0, 1, 2))
    return np.where(inside, volume * factor + offset, volume)


def covariate_matrix(
    samples: Sequence[Sample], names: Sequence[str], sexes: Sequence[str]
) -> np.ndarray | None:
    """Write covariates as numbers, ``(N, V)``: age as it is, sex as 0 and 1 for each text but the first.

    Raises
    ------
    InvalidOption
        If a sample lacks one, or has a sex that the training subset has not.
    """
    columns: list[list[float]] = []
    for name in names:
        for sample in samples:
            if (sample.age is None) if name == "age" else (sample.sex not in sexes):
                found = "" if name == "age" else f" (found {sample.sex!r}, expected {', '.join(sexes)})"
                raise InvalidOption(
                    f"subject {sample.subject} has no usable {name} for the harmonisation{found}; fill the "
                    "column, or take it out of harmonise.covariates"
                )
        if name == "age":
            columns.append([float(sample.age or 0.0) for sample in samples])
        else:
            columns += [[float(sample.sex == sex) for sample in samples] for sex in sexes[1:]]
    return np.array(columns).T if columns else None


@dataclass(frozen=True)
class SiteEffects:
    """A fitted ComBat, with the way from samples to its covariates.

    Attributes
    ----------
    combat : ComBat
        Fitted on the training subset.
    covariates : tuple of str
        Names: age, sex.
    sexes : tuple of str
        Texts of the column, as the training subset has them.
    """

    combat: ComBat
    covariates: tuple[str, ...]
    sexes: tuple[str, ...]

    @classmethod
    def fit(cls, features: np.ndarray, samples: Sequence[Sample], settings: HarmoniseSettings) -> SiteEffects:
        """Fit on the samples of the training subset: features ``(N, F)``."""
        sexes = tuple(sorted({sample.sex for sample in samples if sample.sex}))
        combat = ComBat(settings.empirical_bayes, settings.mean_only, settings.unseen_site)
        extra = covariate_matrix(samples, settings.covariates, sexes)
        combat.fit(features, sites=[sample.site for sample in samples], covariates=extra)
        return cls(combat, tuple(settings.covariates), sexes)

    def remove(self, features: np.ndarray, samples: Sequence[Sample]) -> np.ndarray:
        """Return features ``(N, F)`` without the effects of the sites."""
        extra = covariate_matrix(samples, self.covariates, self.sexes)
        sites = [sample.site for sample in samples]
        return self.combat.transform(features, sites=sites, covariates=extra)

    def of_volume(self) -> Callable[[Sample, np.ndarray], np.ndarray]:
        """Return the function that harmonises the intensities of one volume ``(X, Y, Z, C)``."""

        def change(sample: Sample, volume: np.ndarray) -> np.ndarray:
            return rescale(volume, self.remove(summary(volume)[None], [sample])[0])

        return change

    def texts(self) -> dict[str, str]:
        """Return what `arrays` of the ComBat lacks, for a flat file."""
        covariates = json.dumps({"covariates": self.covariates, "sexes": self.sexes})
        return {**self.combat.texts(), "covariates": covariates}

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> SiteEffects:
        """Rebuild from the arrays of the ComBat, and `texts`."""
        stored = json.loads(texts["covariates"])
        combat = ComBat.restore(arrays, texts)
        return cls(combat, tuple(stored["covariates"]), tuple(stored["sexes"]))
