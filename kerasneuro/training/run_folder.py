"""The folder of a training run: what lies in it, under which names."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption, KerasNeuroError
from kerasneuro.tasks.result import table_text, write_text
from kerasneuro.training.classifier.cohort import Sample
from kerasneuro.training.classifier.config import ClassifierConfig
from kerasneuro.training.classifier.intensity import SiteEffects
from kerasneuro.training.config import read_config, to_yaml
from kerasneuro.weights import read, write_flat

SAMPLE_COLUMNS = ("subject", "site", "label", "split", "age", "sex", "images", "patches", "index")


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Attributes
    ----------
    path : Path
        The folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Copy of the configuration."""
        return self.path / "config.yaml"

    @property
    def split(self) -> Path:
        """Every sample with its subset."""
        return self.path / "split.csv"

    @property
    def history(self) -> Path:
        """Numbers of the epochs."""
        return self.path / "history.csv"

    @property
    def predictions(self) -> Path:
        """Probabilities of the validation and test subsets."""
        return self.path / "predictions.csv"

    @property
    def best(self) -> Path:
        """Weights of the best epoch."""
        return self.path / "best.h5"

    @property
    def checkpoint(self) -> Path:
        """State of the last epoch, to resume from."""
        return self.path / "checkpoint.h5"

    @property
    def harmonisation(self) -> Path:
        """Fitted ComBat of the intensities."""
        return self.path / "harmonisation.h5"

    @property
    def embeddings(self) -> Path:
        """Embedding of every sample, in the order of the split, before and after ComBat."""
        return self.path / "embeddings.h5"

    @property
    def card(self) -> Path:
        """What was trained on what, and how well it does."""
        return self.path / "card.json"

    @property
    def cache(self) -> Path:
        """Prepared volumes."""
        return self.path / "cache"

    def forget(self) -> None:
        """Delete what an earlier run has left, its prepared volumes apart."""
        files = (self.checkpoint, self.best, self.history, self.predictions, self.embeddings)
        for path in (*files, self.harmonisation, self.card):
            path.unlink(missing_ok=True)

    def save_config(self, config: ClassifierConfig) -> None:
        """Write the configuration with all defaults."""
        write_text(self.config, to_yaml(config))

    def read_config(self) -> ClassifierConfig:
        """Read the configuration of the run."""
        if not self.config.is_file():
            raise InvalidOption(
                f"{self.path} is not the folder of a training run: it has no {self.config.name}; "
                "give the folder that `kerasneuro train` wrote"
            )
        return read_config(self.config, ClassifierConfig)

    def save_split(self, samples: Sequence[Sample], subsets: Sequence[str]) -> None:
        """Write every sample with its subset."""
        rows = []
        for sample, subset in zip(samples, subsets, strict=True):
            images = "|".join(map(str, sample.images))
            values = (sample.subject, sample.site, sample.label, subset, sample.age, sample.sex, images)
            row = dict(zip(SAMPLE_COLUMNS, (*values, sample.patches, sample.index), strict=True))
            rows.append({key: "" if value is None else value for key, value in row.items()})
        write_text(self.split, table_text(rows))

    def read_split(self) -> tuple[Sample, ...]:
        """Read the samples of the run; each names its subset."""
        return tuple(
            Sample(
                subject=row["subject"],
                site=row["site"],
                label=int(row["label"]) if row["label"] else None,
                images=tuple(Path(text) for text in row["images"].split("|") if text),
                patches=row["patches"],
                index=int(row["index"]) if row["index"] else None,
                age=float(row["age"]) if row["age"] else None,
                sex=row["sex"],
                split=row["split"],
            )
            for row in self.rows(self.split)
        )

    def rows(self, path: Path) -> list[dict[str, str]]:
        """Read a CSV file of the run."""
        try:
            with path.open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InvalidOption(
                f"{path} cannot be read: {error}; the training run may not be finished (--resume)"
            ) from error

    def save_effects(self, effects: SiteEffects) -> None:
        """Write a fitted harmonisation of intensities."""
        write_flat(self.harmonisation, effects.combat.arrays(), effects.texts())

    def read_effects(self) -> SiteEffects:
        """Read the harmonisation that the training subset was fitted with."""
        with read(self.harmonisation) as store:
            arrays = {name: array.read() for name, array in store.items()}
            try:
                return SiteEffects.restore(arrays, store.attributes)
            except (KeyError, ValueError) as error:
                if isinstance(error, KerasNeuroError):
                    raise
                raise InvalidOption(f"{self.harmonisation} holds no harmonisation; train anew") from error

    def save_embeddings(self, before: np.ndarray, after: np.ndarray | None) -> None:
        """Write embeddings ``(N, F)`` of all samples, in the order of the split."""
        arrays = {"before": before} if after is None else {"before": before, "after": after}
        write_flat(self.embeddings, arrays, {"kind": "embeddings"})

    def read_embeddings(self) -> dict[str, np.ndarray]:
        """Read the embeddings: "before", and "after" where ComBat could be fitted."""
        with read(self.embeddings) as store:
            return {name: array.read() for name, array in store.items()}

    def save_card(self, card: Mapping[str, Any]) -> None:
        """Write the card of the trained network."""
        write_text(self.card, json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_card(self) -> dict[str, Any]:
        """Read the card of the trained network."""
        try:
            card: dict[str, Any] = json.loads(self.card.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidOption(
                f"{self.card} cannot be read: {error}; the training run may not be finished (--resume)"
            ) from error
        return card
