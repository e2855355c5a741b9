"""A small synthetic cohort of two sites, a network that learns it in seconds, and settings for both."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from kerasneuro.models.fcd.steps import prepare
from kerasneuro.training.classifier.config import ClassifierConfig
from kerasneuro.training.classifier.job import Network
from kerasneuro.training.config import from_mapping

SIZE = 12
CLASSES = ["control", "FCD"]


def make_scan(rng: np.random.Generator, site: str, label: int) -> np.ndarray:
    """Noise, brighter at site B, with a bright blob at the same place of both channels in class 1."""
    place = tuple(slice(start, start + 4) for start in rng.integers(1, SIZE - 5, 3))
    channels = rng.normal(100, 10, (SIZE, SIZE, SIZE, 2))
    if label:
        channels[place] += 90
    return (channels * (3.0 if site == "B" else 1.0) + (20.0 if site == "B" else 0.0)).astype(np.float32)


def make_cohort(folder: Path, subjects: int = 40, *, split: bool = False, seed: int = 0) -> Path:
    """Write the scans and the CSV; return the CSV."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(subjects):
        site, label = "AB"[number % 2], number // 2 % 2
        scan = make_scan(rng, site, label)
        row = {"subject": f"s{number:02d}", "site": site, "label": CLASSES[label]}
        for channel, name in enumerate(("t1", "flair")):
            row[name] = f"s{number:02d}_{name}.nii"
            nibabel.save(nibabel.Nifti1Image(scan[..., channel], np.eye(4)), folder / row[name])
        row |= {"age": str(20 + number), "sex": "FM"[number % 3 > 0]}
        if split:
            row["split"] = ("training", "training", "training", "validation", "test")[number // 4 % 5]
        rows.append(row)
    return write_cohort(folder / "cohort.csv", rows)


def write_cohort(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def build(in_channels: int = 2, classes: int = 2) -> Any:
    """A narrow network whose largest activation tells the classes apart."""
    import keras
    from keras import layers

    inputs = keras.Input((None, None, None, in_channels))
    x = layers.Conv3D(6, 3, padding="same", use_bias=False, name="first")(inputs)
    x = layers.BatchNormalization(momentum=0.8, name="normal")(x)
    x = layers.Activation("relu", name="positive")(x)
    x = layers.Conv3D(6, 3, strides=2, padding="same", activation="relu", name="second")(x)
    x = layers.GlobalMaxPooling3D(name="pool")(x)
    x = layers.Dropout(0.1, name="drop")(x)
    return keras.Model(inputs, layers.Dense(classes, name="scores")(x), name="tiny")


NETWORK = Network(build, prepare)


def make_config(cohort: Path, **changes: dict[str, Any]) -> ClassifierConfig:
    """Settings under which the network above learns the cohort above."""
    values: dict[str, dict[str, Any]] = {
        "data": {"cohort": str(cohort), "classes": CLASSES, "size": [SIZE] * 3},
        "augment": {"rotation": 5.0, "affine": 0.3},
        "fit": {"epochs": 8, "batch_size": 6, "accumulate": 2, "learning_rate": 0.03, "warmup_epochs": 1},
    }
    for section, change in changes.items():
        values[section] = {**values.get(section, {}), **change}
    return from_mapping(ClassifierConfig, values)
