"""The scans of a fine-tuning: which are trained on, which choose the epoch, and their batches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.tasks.blocks import normalise
from kerasneuro.training.scans.class_table import ClassTable
from kerasneuro.training.scans.pairs import Pair, find_pairs
from kerasneuro.training.scans.patch_dataset import PatchDataset
from kerasneuro.training.segmentation.config import DataSettings, SegmentationConfig
from kerasneuro.training.segmentation.files import TrainingFiles
from kerasneuro.volume.image import Volume
from kerasneuro.volume.orient import to_axcodes


@dataclass(frozen=True)
class Preparation:
    """Turn a scan, and scale its intensities, as the fine-tuned task will do it.

    Attributes
    ----------
    rule : str
        Of `kerasneuro.tasks.blocks.normalise`.
    orientation : str
        "as stored", or three letters.
    """

    rule: str
    orientation: str

    @property
    def key(self) -> str:
        """What tells this preparation from others, for a cache on disk."""
        return f"{self.rule} {self.orientation}"

    def __call__(self, volume: Volume) -> Volume:
        """Return the volume that the network is trained on."""
        moved = volume if self.orientation == "as stored" else to_axcodes(volume, self.orientation)[0]
        return moved.replace(array=normalise(moved.array, self.rule))


@dataclass(frozen=True)
class Scans:
    """What a network is trained on.

    Attributes
    ----------
    training, validation : list of Pair, or a dataset, or None
        Labelled scans, or batches as `keras.Model.fit` takes them.
    channels : int or None
        Images of a scan; None where a dataset does not tell.
    names : tuple of str
        Names of the channels.
    """

    training: Any
    validation: Any
    channels: int | None
    names: tuple[str, ...]

    def rows(self) -> list[dict[str, str]]:
        """Return subset, subject and files of each scan."""
        rows = []
        for subset, pairs in (("training", self.training), ("validation", self.validation)):
            for pair in pairs if isinstance(pairs, list) else ():
                images = "|".join(map(str, pair.images))
                row = {
                    "subject": pair.subject,
                    "subset": subset,
                    "images": images,
                    "labels": str(pair.labels),
                }
                rows.append(row)
        return rows

    def describe(self) -> str:
        """Count scans, for a line of progress."""
        return ", ".join(
            f"{len(pairs)} scans for {subset}" if isinstance(pairs, list) else f"a dataset for {subset}"
            for subset, pairs in (("training", self.training), ("validation", self.validation))
            if pairs is not None
        )

    def summary(self) -> dict[str, Any]:
        """Count scans and persons of each subset; no name and no path is in it."""
        found: dict[str, Any] = {}
        for subset, pairs in (("training", self.training), ("validation", self.validation)):
            if isinstance(pairs, list):
                found[subset] = {"scans": len(pairs), "subjects": len({pair.subject for pair in pairs})}
            elif pairs is not None:
                found[subset] = {"scans": None, "subjects": None}
        return found

    def shapes(self) -> set[tuple[int, ...]]:
        """Return the shapes of the scans, from their headers."""
        from kerasneuro.volume.image import open_image

        pairs = [pair for part in (self.training, self.validation) if isinstance(part, list) for pair in part]
        return {tuple(open_image(pair.images[0])[0].shape[:3]) for pair in pairs}

    def datasets(
        self, model: Any, table: ClassTable, config: SegmentationConfig, files: TrainingFiles, multiple: int
    ) -> tuple[Any, Any]:
        """Return the batches of training and validation.

        Raises
        ------
        InvalidOption
            If the network takes no volumes, or the patches are no multiple of what it asks for.
        """
        if not isinstance(self.training, list):
            return self.training, self.validation
        data = config.data
        if len(model.input_shape) != 5:
            raise InvalidOption(
                f"{model.name} takes slices, not volumes; give datasets of slices as train and validation, "
                "such as SliceDataset of its family"
            )
        if any(size % multiple for size in data.patch_shape):
            raise InvalidOption(
                f"patch_shape must be multiples of {multiple} for this network, found {data.patch_shape}"
            )
        shared: dict[str, Any] = {
            "patch_shape": data.patch_shape,
            "classes": table,
            "batch_size": data.batch_size,
            "prepare": Preparation(data.normalise, data.orientation),
            "one_hot": False,
            "cache": {"none": None, "memory": "memory"}.get(data.cache, files.cache),
            "seed": config.fit.seed,
        }
        training = PatchDataset(
            self.training,
            sampling=data.sampling,
            patches_per_volume=data.patches_per_volume,
            foreground=data.foreground,
            augment=config.augment if data.augmented else None,
            drop_remainder=len(self.training) * data.patches_per_volume >= data.batch_size,
            **shared,
        )
        if not self.validation:
            return training, None
        return training, PatchDataset(self.validation, sampling="grid", **shared)


def find_scans(train: Any, validation: Any, settings: DataSettings, seed: int) -> Scans:
    """List the labelled scans, and divide them where a share of the subjects chooses the epoch.

    Parameters
    ----------
    train, validation : list, path, or dataset
        As in `kerasneuro.finetune`.
    settings : DataSettings
        Columns, and the share of the validation.
    seed : int
        Of the division.

    Raises
    ------
    InvalidOption, InvalidImage
        If the scans cannot be used, or one person is in both subsets.
    """
    if not _lists_scans(train):
        return Scans(train, validation, _channels_of(train), ())
    columns: dict[str, Any] = {"channels": settings.channels, "labels": settings.labels}
    pairs = find_pairs(train, **columns)
    held_out: Any = None
    if validation is not None:
        held_out = find_pairs(validation, **columns) if _lists_scans(validation) else validation
    elif settings.validation_share:
        pairs, held_out = divide(pairs, settings.validation_share, seed)
    if isinstance(held_out, list):
        both = sorted({pair.subject for pair in pairs} & {pair.subject for pair in held_out})
        if both:
            raise InvalidOption(
                f"the subjects {', '.join(both[:5])} are in the training and in the validation; a person "
                "belongs to one of them"
            )
    channels = len(pairs[0].images)
    names = settings.channels or ("image",) if channels == 1 else settings.channels
    if len(names) != channels:
        names = tuple(f"image_{number + 1}" for number in range(channels))
    return Scans(pairs, held_out, channels, tuple(names))


def divide(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Put a share of the subjects, at least one, aside; all scans of a person go together.

    Raises
    ------
    InvalidOption
        If there is one subject only.
    """
    subjects = sorted({pair.subject for pair in pairs})
    if len(subjects) < 2:
        raise InvalidOption(f"validation_share needs two subjects or more, found {', '.join(subjects)}")
    count = min(len(subjects) - 1, max(1, round(share * len(subjects))))
    chosen = set(np.random.default_rng(seed).permutation(subjects)[:count].tolist())
    return [pair for pair in pairs if pair.subject not in chosen], [
        pair for pair in pairs if pair.subject in chosen
    ]


def _lists_scans(source: Any) -> bool:
    return isinstance(source, str | os.PathLike | list | tuple)


def _channels_of(dataset: Any) -> int | None:
    """Return the channels of the first batch of a dataset that can be indexed."""
    try:
        return int(dataset[0][0].shape[-1])
    except (TypeError, IndexError, AttributeError, KeyError):
        return None
