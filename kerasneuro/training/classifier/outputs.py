"""What a trained classifier says of samples: probabilities, embeddings, and its card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.__about__ import __version__
from kerasneuro.errors import InvalidOption
from kerasneuro.tasks.result import RESEARCH_USE, table_text, write_text
from kerasneuro.training.classifier.cohort import Sample
from kerasneuro.training.classifier.intensity import SiteEffects
from kerasneuro.training.classifier.job import Job, class_name, subset_counts
from kerasneuro.training.config import as_mapping
from kerasneuro.training.metrics.classification import score

if TYPE_CHECKING:
    import keras


def with_embedding(model: keras.Model, layer: str | None) -> keras.Model:
    """Return a network with two outputs: what `model` gives, and the embedding of a volume.

    Parameters
    ----------
    model : keras.Model
        Functional.
    layer : str or None
        Layer whose output ``(B, F)`` is the embedding; None takes the last one that leaves no spatial axis.

    Raises
    ------
    InvalidOption
        If there is no such layer, or its output has other axes.
    """
    import keras

    if layer is None:
        pooling = [item for item in model.layers if _rank(item.input) > 2 and _rank(item.output) == 2]
        chosen = pooling[-1] if pooling else None
    else:
        chosen = next((item for item in model.layers if item.name == layer), None)
    if chosen is None or _rank(chosen.output) != 2:
        found = "no such layer" if chosen is None else f"shape {tuple(chosen.output.shape)}"
        raise InvalidOption(
            f"expected a layer with outputs (B, F) for model.embedding_layer, found {found} "
            f"({layer or 'the last pooling'}); name one of the network's layers"
        )
    return keras.Model(model.input, [model.output, chosen.output])


def _rank(tensor: Any) -> int:
    return len(tensor.shape) if hasattr(tensor, "shape") else 0


def predict(model: keras.Model, job: Job, samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Compute probabilities ``(N, K)`` and embeddings ``(N, F)`` of samples, both float64."""
    both = with_embedding(model, job.config.model.embedding_layer)
    size = min(job.config.fit.batch_size, len(samples))

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, len(samples), size):
            chosen = samples[first : first + size]
            # Another batch size would be compiled anew, which takes longer than the volumes that fill up.
            filled = [*chosen, *[chosen[-1]] * (size - len(chosen))]
            found = both.predict_on_batch(np.stack([job.prepare(sample) for sample in filled]))
            outputs, embedding = (np.asarray(part, dtype=np.float64)[: len(chosen)] for part in found)
            yield (softmax(outputs) if job.network.logits else outputs), embedding

    probabilities, embeddings = zip(*batches(), strict=True)
    return np.concatenate(probabilities), np.concatenate(embeddings)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits ``(N, K)`` into probabilities."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def prediction_rows(
    job: Job, samples: Sequence[Sample], subsets: Sequence[str], probabilities: np.ndarray
) -> list[dict[str, Any]]:
    """Make the lines of a table of predictions."""
    rows = []
    for sample, subset, values in zip(samples, subsets, probabilities, strict=True):
        row: dict[str, Any] = {
            "subject": sample.subject,
            "site": sample.site,
            "split": subset,
            "label": "" if sample.label is None else class_name(job.config, sample.label),
            "predicted": class_name(job.config, int(values.argmax())),
        }
        row |= {f"probability_{class_name(job.config, k)}": f"{value:.9g}" for k, value in enumerate(values)}
        rows.append(row | {"sample": sample.name, "use": RESEARCH_USE})
    return rows


def harmonised_embeddings(job: Job, embeddings: np.ndarray) -> np.ndarray | None:
    """Take the sites out of embeddings ``(N, F)`` by a ComBat of the training subset; None with one site."""
    training = np.array([subset == "training" for subset in job.subsets])
    chosen = [sample for sample, its in zip(job.samples, training, strict=True) if its]
    if len({sample.site for sample in chosen}) < 2:
        return None
    # Units that are silent for everybody within a site tell nothing, and have no variance to divide by.
    sites = np.array([sample.site for sample in job.samples])
    spread = [embeddings[training & (sites == site)].std(axis=0) for site in np.unique(sites[training])]
    alive = np.min(spread, axis=0) > 1e-6 * np.abs(embeddings).max(initial=1e-12)
    if alive.sum() < 2:
        return None
    try:
        effects = SiteEffects.fit(embeddings[training][:, alive], chosen, job.config.harmonise)
        after = embeddings.copy()
        after[:, alive] = effects.remove(embeddings[:, alive], job.samples)
    except InvalidOption:
        if job.config.harmonise.of == "embedding":
            raise
        return None
    return after


def finish(model: keras.Model, job: Job) -> dict[str, Any]:
    """Write predictions, embeddings and the card of a network that is trained; return the card."""
    return finish_files(job, *predict(model, job, job.samples))


def finish_files(job: Job, probabilities: np.ndarray, embeddings: np.ndarray) -> dict[str, Any]:
    """Write the files of `finish` from probabilities ``(N, K)`` and embeddings ``(N, F)`` of all samples."""
    held_out = [row for row, subset in enumerate(job.subsets) if subset != "training"]
    rows = prediction_rows(
        job,
        [job.samples[row] for row in held_out],
        [job.subsets[row] for row in held_out],
        probabilities[held_out],
    )
    write_text(job.folder.predictions, table_text(rows))
    job.folder.save_embeddings(embeddings, harmonised_embeddings(job, embeddings))
    card = make_card(job, probabilities)
    job.folder.save_card(card)
    return card


def make_card(job: Job, probabilities: np.ndarray) -> dict[str, Any]:
    """Say what was trained on what, and how well it does on the subsets that nothing was fitted on."""
    history = job.folder.rows(job.folder.history)
    ages = [sample.age for sample in job.samples if sample.age is not None]
    return {
        "model": job.config.model.name,
        "weights": {"file": job.folder.best.name, "sha256": sha256(job.folder.best.read_bytes()).hexdigest()},
        "started_from": job.config.model.weights or "random weights",
        "classes": [class_name(job.config, k) for k in range(probabilities.shape[1])],
        "data": {
            "channels": list(job.config.data.channels),
            "subsets": subset_counts(job),
            "age": {"known": len(ages), "mean": float(np.mean(ages))} if ages else {"known": 0},
            "harmonised": job.config.harmonise.of,
        },
        "training": {"epochs": len(history), "best_epoch": best_epoch(history)},
        "scores": {subset: subset_scores(job, probabilities, subset) for subset in ("validation", "test")},
        "config": as_mapping(job.config),
        "kerasneuro": __version__,
        "use": RESEARCH_USE,
    }


def best_epoch(history: Sequence[dict[str, str]]) -> int:
    """Return the epoch whose weights were kept, from the rows of the log."""
    best = max(history, key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    return int(best["epoch"])


def subset_scores(job: Job, probabilities: np.ndarray, subset: str) -> dict[str, Any]:
    """Return the scores of a subset with their intervals; of two classes only."""
    rows = [row for row, its in enumerate(job.subsets) if its == subset]
    labels = np.array([job.samples[row].label for row in rows])
    if probabilities.shape[1] != 2:
        return {"accuracy": float(np.mean(probabilities[rows].argmax(axis=1) == labels))}
    subjects = [job.samples[row].subject for row in rows]
    found = score(labels, probabilities[rows, 1], subjects, seed=job.config.split.seed)
    return {
        item.name: {
            key: None if not np.isfinite(value) else round(value, 6)
            for key, value in (("value", item.value), ("low", item.low), ("high", item.high))
        }
        for item in found
    }
