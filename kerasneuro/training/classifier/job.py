"""What a training run consists of: its settings, its samples, its folder, and the network to train."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.errors import InvalidOption, OutputError
from kerasneuro.training.classifier.cohort import SUBSETS, Sample, read_cohort
from kerasneuro.training.classifier.config import ClassifierConfig
from kerasneuro.training.classifier.intensity import SiteEffects, summary
from kerasneuro.training.classifier.prepare import Prepare, Preparer
from kerasneuro.training.classifier.split import split_cohort
from kerasneuro.training.config import differences
from kerasneuro.training.run_folder import RunFolder

if TYPE_CHECKING:
    import keras

# What may change between the start of a run and its continuation.
FREE_TO_CHANGE = ("fit.patience", "data.cache")

Say = Callable[[str], None]


def silent(line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Network:
    """How a network is made, and what its weight file says of it.

    Attributes
    ----------
    build : callable
        From the configuration to a `keras.Model` with inputs ``(B, X, Y, Z, C)`` and outputs ``(B, K)``.
    prepare : callable, optional
        Its own preprocessing: arrays ``(X, Y, Z)``, one for each channel, and size -> ``(1, *size, C)``.
    logits : bool
        The outputs are logits, not probabilities.
    texts : mapping
        Attributes of the weight file.
    """

    build: Callable[..., keras.Model]
    prepare: Prepare | None = None
    logits: bool = True
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """Everything that training and prediction share.

    Attributes
    ----------
    config : ClassifierConfig
        Settings.
    folder : RunFolder
        Where the files are.
    network : Network
        What is trained.
    samples : tuple of Sample
        The cohort.
    subsets : tuple of str
        Subset of each sample.
    prepare : Preparer
        From a sample to its volume.
    """

    config: ClassifierConfig
    folder: RunFolder
    network: Network
    samples: tuple[Sample, ...]
    subsets: tuple[str, ...]
    prepare: Preparer

    def of(self, subset: str) -> list[Sample]:
        """Return the samples of a subset."""
        return [sample for sample, its in zip(self.samples, self.subsets, strict=True) if its == subset]

    @property
    def classes(self) -> int:
        """Number of classes."""
        found = max(sample.label or 0 for sample in self.samples) + 1
        return max(len(self.config.data.classes), found)


def start(
    config: ClassifierConfig,
    output: str | os.PathLike[str],
    network: Network,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Job:
    """Read and divide the cohort, and prepare the output folder; nothing is trained.

    Parameters
    ----------
    config : ClassifierConfig
        Settings.
    output : path
        Folder of the run.
    network : Network
        What is trained.
    resume : bool
        Go on with a run in the folder; where there is none, start it.
    overwrite : bool
        Forget a run in the folder.

    Raises
    ------
    InvalidOption, InvalidImage
        If the cohort cannot be used, or a run is resumed with other settings.
    OutputError
        If the folder holds a run and neither `resume` nor `overwrite` is given.
    """
    from kerasneuro.tasks.result import prepare_folder

    folder = RunFolder(Path(output))
    begun = folder.checkpoint.exists() or folder.card.exists()
    if begun:
        if resume:
            _same_settings(folder, config)
        elif not overwrite:
            raise OutputError(
                f"{folder.path} holds a training run already; resume it, allow overwriting, or choose "
                "another folder"
            )
    samples = read_cohort(config.data.cohort, config.data)
    subsets = split_cohort(samples, config.split)
    prepare_folder(folder.path)
    if begun and resume:
        _same_cohort(folder, samples, subsets)
    if not resume:
        folder.forget()
    prepare = Preparer(config.data, folder.cache, network.prepare)
    prepare.check_memory(len(samples))
    job = Job(config, folder, network, samples, subsets, prepare)
    folder.save_split(samples, subsets)
    folder.save_config(config)
    return job


def _same_settings(folder: RunFolder, config: ClassifierConfig) -> None:
    """Refuse to go on with other settings."""
    changed = differences(folder.read_config(), config, ignore=FREE_TO_CHANGE)
    if changed:
        raise InvalidOption(
            f"the run in {folder.path} was started with another {', '.join(changed)}; resume with the "
            f"configuration in {folder.config.name}, or choose another folder"
        )


def _same_cohort(folder: RunFolder, samples: Sequence[Sample], subsets: Sequence[str]) -> None:
    """Refuse to go on with another cohort."""
    now = [replace(sample, split=subset) for sample, subset in zip(samples, subsets, strict=True)]
    if list(folder.read_split()) != now:
        raise InvalidOption(
            f"the cohort is not the one that the run in {folder.path} was started with "
            f"({folder.split.name}); put it back, or choose another folder"
        )


def harmonise_intensities(job: Job, say: Say = silent) -> None:
    """Fit ComBat on the intensities of the training subset, and apply it to every volume from now on."""
    if job.config.harmonise.of != "intensity":
        return
    training = job.of("training")
    say(f"fitting ComBat on the intensities of {len(training)} training samples")
    features = np.stack([summary(job.prepare.unchanged(sample)) for sample in training])
    effects = SiteEffects.fit(features, training, job.config.harmonise)
    job.folder.save_effects(effects)
    job.prepare.change = effects.of_volume()


def subset_counts(job: Job) -> dict[str, dict[str, Any]]:
    """Count subjects, samples, classes and sites of each subset."""
    counts = {}
    for subset in SUBSETS:
        samples = job.of(subset)
        counts[subset] = {
            "subjects": len({sample.subject for sample in samples}),
            "samples": len(samples),
            "by_class": _count(class_name(job.config, sample.label) for sample in samples),
            "by_site": _count(sample.site for sample in samples),
        }
    return counts


def class_name(config: ClassifierConfig, label: int | None) -> str:
    """Name a class as the cohort does."""
    names = config.data.classes
    return str(label) if label is None or label >= len(names) else names[label]


def _count(values: Iterable[str]) -> dict[str, int]:
    found = list(values)
    return {value: found.count(value) for value in sorted(set(found))}
