"""Write a page about the training run of a classifier: one HTML file without outside requests."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.errors import InvalidOption, KerasNeuroError, MissingDependency
from kerasneuro.report import evaluation_figures as figures
from kerasneuro.report.embedding_maps import NAMES, make_map, require_maps
from kerasneuro.report.page import report_paths, require_report
from kerasneuro.report.quality import as_text, flatten
from kerasneuro.tasks.result import RESEARCH_USE, check_targets, write_text
from kerasneuro.training.config import as_mapping
from kerasneuro.training.metrics.classification import Score, calibration, score

if TYPE_CHECKING:
    from kerasneuro.training.classifier.job import Job, Network

TEMPLATE = "evaluation.html.j2"
HELD_OUT = ("test", "validation")


@dataclass(frozen=True)
class Picture:
    """A figure of the page, base64, and what it shows."""

    title: str
    caption: str
    data: str


@dataclass(frozen=True)
class Judged:
    """The predictions of one subset.

    Attributes
    ----------
    labels, probability : numpy.ndarray
        0 and 1, and the probability of class 1: shape ``(N,)``.
    subjects, sites : list of str
        Of each sample.
    """

    labels: np.ndarray
    probability: np.ndarray
    subjects: list[str]
    sites: list[str]

    def at(self, site: str) -> Judged:
        """Return the samples of one site."""
        rows = [row for row, its in enumerate(self.sites) if its == site]
        subjects = [self.subjects[row] for row in rows]
        return Judged(self.labels[rows], self.probability[rows], subjects, [site] * len(rows))

    def scores(self, resamples: int = 1000) -> tuple[Score, ...]:
        """Return the scores, with bootstrap intervals."""
        return score(self.labels, self.probability, self.subjects, resamples=resamples)


def write_evaluation_page(
    run: str | os.PathLike[str],
    path_html: str | os.PathLike[str],
    *,
    maps: Sequence[str] = tuple(NAMES),
    subjects: int = 10,
    grad_cam: bool = True,
    overwrite: bool = False,
    network: Network | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Path, tuple[str, ...]]:
    """Write a page that shows how well a trained classifier does, and on whom.

    Parameters
    ----------
    run : path
        Folder of `kerasneuro.classifying.train_classifier`, finished.
    path_html : path
        Target, ending with ``.html``.
    maps : sequence of {"umap", "tsne"}
        Maps of the embeddings, before and after ComBat.
    subjects : int
        Most test subjects whose scans and heat maps are shown.
    grad_cam : bool
        Show Grad-CAM heat maps; needs a backend with gradients.
    overwrite : bool
        Replace an existing file.
    network : Network, optional
        In place of the registered model.
    say : callable
        Told a line of progress at a time.

    Returns
    -------
    path : Path
        The page.
    notes : tuple of str
        What could not be shown, and why; also on the page.

    Raises
    ------
    InvalidOption
        If the folder holds no finished run, or one of more than two classes.
    MissingDependency
        If a package is missing (extra ``evaluation``).
    OutputError
        If the page exists or cannot be written.
    """
    from kerasneuro.classifying import open_run

    require_report()
    require_maps(tuple(maps))
    page, _ = report_paths(path_html)
    check_targets([page], overwrite=overwrite)
    job = open_run(run, network)
    card = job.folder.read_card()
    if len(card["classes"]) != 2:
        raise InvalidOption(f"expected a run of two classes, found {len(card['classes'])}")
    judged = {subset: read_predictions(job, card["classes"], subset) for subset in HELD_OUT}
    notes: list[str] = []
    pictures = list(_summary(job, card, judged))
    say("placing the embeddings")
    pictures += _maps(job, maps, card["classes"], notes)
    say("drawing scans")
    pictures += _scans(job, card["classes"], subjects, judged["test"], notes, grad_cam=grad_cam)
    write_text(page, render(job, card, judged, pictures, notes))
    return page, tuple(notes)


def read_predictions(job: Job, classes: Sequence[str], subset: str) -> Judged:
    """Read the predictions of a subset from the folder of the run."""
    rows = [row for row in job.folder.rows(job.folder.predictions) if row.get("split") == subset]
    try:
        labels = np.array([list(classes).index(row["label"]) for row in rows])
        probability = np.array([float(row[f"probability_{classes[1]}"]) for row in rows])
    except (KeyError, ValueError) as error:
        raise InvalidOption(
            f"{job.folder.predictions} does not fit the card of the run ({error}); train anew, or restore it"
        ) from error
    if not rows:
        raise InvalidOption(f"{job.folder.predictions} has no sample of the {subset} subset; train anew")
    return Judged(labels, probability, [row["subject"] for row in rows], [row["site"] for row in rows])


def _picture(title: str, caption: str, png: bytes) -> Picture:
    return Picture(title, caption, base64.b64encode(png).decode("ascii"))


def _summary(job: Job, card: Mapping[str, Any], judged: Mapping[str, Judged]) -> Iterator[Picture]:
    """Draw scores, curves of the training, and the cohort."""
    for subset, found in judged.items():
        png = figures.draw_scores(found.labels, found.probability, card["classes"])
        bins = calibration(found.labels, found.probability)
        caption = (
            f"{len(found.labels)} samples of the {subset} subset; {card['classes'][1]} from a probability of "
            f"0.5 on. Expected calibration error {bins.error:.3f}, Brier score {bins.brier:.3f}."
        )
        yield _picture(f"Predictions: {subset}", caption, png)
    caption = f"The weights are those of epoch {card['training']['best_epoch']}."
    yield _picture("Training", caption, figures.draw_history(job.folder.rows(job.folder.history)))
    caption = "Samples by class; no subject is in two subsets."
    yield _picture("Cohort", caption, figures.draw_cohort(job.samples, card["classes"]))


def _maps(job: Job, names: Sequence[str], classes: Sequence[str], notes: list[str]) -> Iterator[Picture]:
    """Draw maps of the embeddings before and after ComBat."""
    states = job.folder.read_embeddings()
    if "after" not in states:
        notes.append(
            "the embeddings could not be harmonised (one site, too few samples of a site, or hardly any "
            "variance)"
        )
    sites = [sample.site for sample in job.samples]
    colours = {
        "site": (sorted(set(sites)), sites),
        "class": (classes, [classes[sample.label or 0] for sample in job.samples]),
    }
    for name in names:
        places = {f"{state} ComBat": make_map(name, values) for state, values in states.items()}
        drawn = {state: place for state, place in places.items() if place is not None}
        if not drawn:
            notes.append(f"{NAMES[name]} needs at least 8 samples that are not all the same")
            continue
        caption = "All samples of the cohort; ComBat is fitted on the training subset alone."
        yield _picture(f"Embeddings: {NAMES[name]}", caption, figures.draw_map(NAMES[name], drawn, colours))


def _scans(
    job: Job, classes: Sequence[str], most: int, judged: Judged, notes: list[str], *, grad_cam: bool
) -> Iterator[Picture]:
    """Draw what the network sees of test subjects, and where it looks."""
    from kerasneuro.report.evaluation_scans import choose_samples, draw_heat, load_network, prepared_scans

    chosen = choose_samples(job, judged, most)
    try:
        model = load_network(job) if grad_cam and chosen else None
    except KerasNeuroError as error:
        model = None
        notes.append(f"no heat maps: {error}")
    for sample, probability in chosen:
        title = (
            f"{sample.subject}: {classes[sample.label or 0]}, probability of {classes[1]} {probability:.3f}"
        )
        try:
            scans = prepared_scans(job, sample)
            png = figures.draw_slices(title, scans)
            yield _picture(f"Scans: {sample.subject}", f"{title}. As prepared for the network.", png)
            if model is not None:
                png = draw_heat(job, model, sample, next(iter(scans.values())), title)
                caption = f"{title}. Grad-CAM for {classes[1]}, over the first channel."
                yield _picture(f"Heat map: {sample.subject}", caption, png)
        except KerasNeuroError as error:
            notes.append(f"{sample.subject} is not shown: {error}")


def site_rows(judged: Judged) -> list[dict[str, str]]:
    """Make the table of the sites of one subset."""
    rows = []
    for site in sorted(set(judged.sites)):
        part = judged.at(site)
        row = {
            "site": site,
            "subjects": str(len(set(part.subjects))),
            "samples": str(len(part.labels)),
            "positive": str(int(part.labels.sum())),
        }
        rows.append(row | {item.name: number(item.value) for item in part.scores(resamples=0)})
    return rows


def number(value: float) -> str:
    """Write a score for a reader; a dash where it has no meaning."""
    return f"{value:.3f}" if np.isfinite(value) else "-"


def render(
    job: Job,
    card: Mapping[str, Any],
    judged: Mapping[str, Judged],
    pictures: Sequence[Picture],
    notes: Sequence[str],
) -> str:
    """Fill the template; every value is escaped."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependency(
            "an evaluation page needs jinja2; install it with: pip install 'kerasneuro[evaluation]'"
        ) from error
    folder = resources.files(__package__)
    quality_page = folder.joinpath("page.html.j2").read_text(encoding="utf-8")
    style = quality_page.partition("<style>")[2].partition("</style>")[0]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(folder.joinpath(TEMPLATE).read_text(encoding="utf-8"))
    scores = {
        subset: [
            (item.name, number(item.value), number(item.low), number(item.high)) for item in found.scores()
        ]
        for subset, found in judged.items()
    }
    facts = {key: card.get(key) for key in ("model", "started_from", "weights", "training", "kerasneuro")}
    return template.render(
        style=style,
        title=f"Evaluation of {card['model']}",
        folder=job.folder.path.name,
        scores=scores,
        sites={subset: site_rows(found) for subset, found in judged.items()},
        subsets=[{"subset": name, **_flat(counts)} for name, counts in card["data"]["subsets"].items()],
        pictures=pictures,
        notes=notes,
        facts=[*flatten(facts), *flatten(as_mapping(job.config), "config: ")],
        use=RESEARCH_USE,
    )


def _flat(counts: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: ", ".join(f"{name} {count}" for name, count in value.items())
        if isinstance(value, Mapping)
        else as_text(value)
        for key, value in counts.items()
    }
