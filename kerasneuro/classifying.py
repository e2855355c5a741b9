"""Train a registered classifier on a cohort, and let a trained one judge another cohort."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasneuro import registry
from kerasneuro.__about__ import __version__
from kerasneuro.errors import InvalidOption
from kerasneuro.networks import CONVERTER, build_graph, family_module, ready_card

if TYPE_CHECKING:
    from kerasneuro.registry import ModelCard
    from kerasneuro.training.classifier.config import ClassifierConfig
    from kerasneuro.training.classifier.job import Job, Network
    from kerasneuro.training.classifier.prepare import Prepare

TASK = "classification"


def find_network(config: ClassifierConfig) -> Network:
    """Return how a registered classifier is built, and what its weight file says.

    Raises
    ------
    ModelNotFound, ModelNotReady
        If the registry has no such model, or this version cannot build it.
    InvalidOption
        If it is no classifier.
    """
    from kerasneuro.training.classifier.job import Network

    card = ready_card(config.model.name)
    if card.task != TASK or card.parts:
        names = [other.name for other in registry.cards() if other.task == TASK]
        raise InvalidOption(
            f"{card.name} does {card.task}; expected a model for {TASK}, such as {', '.join(names)}"
        )

    def build(**overrides: Any) -> Any:
        return build_graph(card, family_module(card, "graph"), overrides, "")

    texts = {
        "model": card.name,
        "part": "",
        "config": json.dumps({**card.config, **config.model.config}),
        "converter": CONVERTER,
        "source": f"trained with kerasneuro {__version__}",
        "started_from": config.model.weights or "random weights",
        "classes": json.dumps(config.data.classes),
        # Weights that were trained from random ones are the user's own.
        "licence": card.licence.name if config.model.weights else "as the owner of the training data decides",
    }
    return Network(build, own_steps(card), logits=card.output["kind"] == "logits", texts=texts)


def own_steps(card: ModelCard) -> Prepare | None:
    """Return the preprocessing of a family, ``steps.prepare``, where it has one."""
    if find_spec(f"kerasneuro.models.{card.family}.steps") is None:
        return None
    prepare: Prepare | None = getattr(family_module(card, "steps"), "prepare", None)
    return prepare


def train_classifier(
    config: ClassifierConfig,
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    base: str | os.PathLike[str] | None = None,
    network: Network | None = None,
    callbacks: Sequence[Any] = (),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a classifier of whole volumes on a cohort.

    Parameters
    ----------
    config : ClassifierConfig
        From `kerasneuro.training.config.read_config`, or made in Python.
    output : path
        Folder of the run: best.h5, card.json, config.yaml, split.csv, history.csv, predictions.csv,
        embeddings.h5, checkpoint.h5, and harmonisation.h5 where intensities are harmonised.
    resume : bool
        Go on after the last whole epoch of the run in the folder.
    overwrite : bool
        Forget a run in the folder.
    base : path, optional
        Where relative paths of the configuration begin; default: the working directory.
    network : Network, optional
        In place of the registered model.
    callbacks : sequence of keras.callbacks.Callback
        Called beside our own.
    say : callable
        Told a line of progress at a time.

    Returns
    -------
    dict
        The card: data, epochs, scores of validation and test.

    Raises
    ------
    InvalidOption, InvalidImage
        If the settings or the cohort cannot be used.
    OutputError
        If the folder cannot be used, or holds a run.

    Examples
    --------
    >>> from kerasneuro.classifying import train_classifier
    >>> from kerasneuro.training.classifier.config import ClassifierConfig
    >>> card = train_classifier(ClassifierConfig(), "run")  # doctest: +SKIP
    """
    from kerasneuro.training.backend import refuse_inference_backend
    from kerasneuro.training.classifier import job as jobs
    from kerasneuro.training.classifier import outputs, train
    from kerasneuro.training.classifier.cohort import SUBSETS

    refuse_inference_backend()
    config = with_absolute_paths(config, Path(base or "."))
    network = network or find_network(config)
    job = jobs.start(config, output, network, resume=resume, overwrite=overwrite)
    say(f"{len(job.samples)} samples: {', '.join(f'{len(job.of(name))} {name}' for name in SUBSETS)}")
    jobs.harmonise_intensities(job, say)
    model = train.build_network(job)
    train.compile_network(model, job)
    train.fit(model, job, say, callbacks=callbacks)
    say("predicting")
    return outputs.finish(model, job)


def with_absolute_paths(config: ClassifierConfig, base: Path) -> ClassifierConfig:
    """Let the relative paths of a configuration begin in a folder."""
    weights = config.model.weights
    data = replace(config.data, cohort=str((base / config.data.cohort).resolve()))
    model = replace(config.model, weights=str((base / weights).resolve()) if weights else None)
    return replace(config, data=data, model=model)


def open_run(
    run: str | os.PathLike[str], network: Network | None = None, *, unseen_site: str | None = None
) -> Job:
    """Open the folder of a finished run, with its settings, samples and harmonisation.

    `unseen_site`, "refuse" or "keep", takes the place of that setting.
    """
    from kerasneuro.training.classifier.job import Job
    from kerasneuro.training.classifier.prepare import Preparer
    from kerasneuro.training.run_folder import RunFolder

    folder = RunFolder(Path(run))
    config = folder.read_config()
    samples = folder.read_split()
    network = network or find_network(config)
    prepare = Preparer(config.data, folder.cache, network.prepare)
    if config.harmonise.of == "intensity":
        effects = folder.read_effects()
        effects.combat.set_params(unseen_site=unseen_site or config.harmonise.unseen_site)
        prepare.change = effects.of_volume()
    subsets = tuple(sample.split for sample in samples)
    return Job(config, folder, network, samples, subsets, prepare)


def evaluate_classifier(
    run: str | os.PathLike[str],
    cohort: str | os.PathLike[str],
    *,
    keep_unseen_sites: bool = False,
    network: Network | None = None,
) -> list[dict[str, Any]]:
    """Let a trained classifier judge a cohort.

    Parameters
    ----------
    run : path
        Folder of `train_classifier`.
    cohort : path
        CSV as for the training; labels may be missing.
    keep_unseen_sites : bool
        Leave the intensities of sites that the training subset has not as they are, instead of refusing.
    network : Network, optional
        As for `train_classifier`.

    Returns
    -------
    list of dict
        For each sample: subject, site, label, predicted class, probability of each class.
    """
    from kerasneuro.training.classifier import outputs, train
    from kerasneuro.training.classifier.cohort import read_cohort

    job = open_run(run, network, unseen_site="keep" if keep_unseen_sites else None)
    samples = read_cohort(cohort, job.config.data, labelled=False)
    # Nothing of a foreign cohort is kept in the folder of the run.
    settings = replace(job.config.data, cache="none")
    job.prepare.settings = settings
    model = train.build_network(job)
    train.load_weights(model, job.folder.best)
    probabilities, _ = outputs.predict(model, job, samples)
    subsets = [sample.split for sample in samples]
    return outputs.prediction_rows(job, samples, subsets, probabilities)
