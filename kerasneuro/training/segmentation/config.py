"""Settings of the fine-tuning of a segmentation network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_type_hints

from kerasneuro.errors import InvalidOption
from kerasneuro.training.changes.labelled_patches import Augmentation
from kerasneuro.training.config import from_mapping, option


@dataclass(frozen=True)
class ModelSettings:
    """Which network is trained, and how much of it."""

    parent: str = option("nobrainer-brainy", "registry name, or the folder of a saved model (./folder)")
    weights: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "part: path of your own weight files, '' for the only part; {}: the registered ones"
        },
    )
    start: Literal["pretrained", "random"] = option(
        "pretrained", "random: the parent's architecture, trained from scratch"
    )
    part: str | None = option(None, "which network of the parent, where it has several; null: the usual one")
    config: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "with start random: arguments of the graph, such as {filters: 8}"},
    )
    name: str | None = option(None, "of the new model; null: the parent's with -finetuned")
    head: Literal["auto", "keep", "new"] = option(
        "auto", "keep or draw anew the layer of the classes; auto: anew where data.classes says something"
    )
    freeze: Literal["none", "encoder", "all-but-head"] = option(
        "none", "layers whose weights stay as they are"
    )
    unfreeze_after: int | None = option(
        None, "epochs after which all layers are trained; null: never", least=1
    )
    freeze_normalization: bool = option(False, "keep batch normalisations as they are, with their statistics")
    pipeline: Literal["auto", "own", "blocks"] = option(
        "auto", "own: the parent's pipeline predicts; blocks: on the scan's own grid; auto: own if it fits"
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = option(
        "float32", "of the computation while training; the result is float32"
    )


@dataclass(frozen=True)
class DataSettings:
    """Where the labelled scans are, and how they are prepared and cut."""

    train: str = option(
        "train.csv", "CSV with a column for each channel, labels and subject; or a BIDS folder"
    )
    validation: str | None = option(
        None, "the same for the scans that choose the epoch; null: validation_share"
    )
    validation_share: float = option(
        0.0, "share of the subjects in train that choose the epoch instead", least=0, most=0.9
    )
    channels: tuple[str, ...] = option(
        (), "columns of the images, or BIDS suffixes; empty: all but the others"
    )
    labels: str = option(
        "", "column of the label maps, or the end of their names in BIDS; empty: the usual one"
    )
    classes: Any = field(
        default=None,
        metadata={
            "help": "{name: value or values}, list of values, number, binary or a CSV; null: the parent's"
        },
    )
    others: int | None = option(
        None, "class of label values that are not listed, such as 0; null: refuse them"
    )
    normalise: Literal["auto", "zscore", "quantiles", "none"] = option(
        "auto", "zscore, between the 0.5 and 99.5 % quantiles, or none; auto: as the parent does"
    )
    orientation: str = option(
        "as stored", "as stored, or three letters such as RAS that every scan is turned to"
    )
    patch_shape: tuple[int, int, int] = option((64, 64, 64), "voxels of a patch", least=1)
    batch_size: int = option(2, "patches at once", least=1)
    patches_per_volume: int = option(8, "in an epoch", least=1)
    sampling: Literal["balanced", "uniform", "grid"] = option(
        "balanced", "patches about voxels of all classes alike, anywhere, or side by side"
    )
    foreground: float = option(0.5, "share of the patches about a class, where balanced", least=0, most=1)
    augmented: bool = option(True, "change the training patches at random, as the section augment says")
    cache: Literal["none", "memory", "disk"] = option("memory", "where prepared scans are kept")


@dataclass(frozen=True)
class FitSettings:
    """Loss, optimiser and schedule."""

    epochs: int = option(50, "most epochs", least=1)
    loss: str = option("dice+cross_entropy", "names of losses joined by +")
    loss_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "such as {per_class: true, background: false, smooth: 1.0}"}
    )
    learning_rate: float = option(1e-4, "of Adam", least=0)
    schedule: Literal["constant", "cosine"] = option("constant", "cosine: down to 0 at the last epoch")
    encoder_rate: float = option(1.0, "factor of the learning rate of the encoder's layers", least=0)
    layer_rates: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "further factors: begin of a layer's name: factor"}
    )
    weight_decay: float = option(0.0, "of AdamW; biases and normalisation are left out", least=0)
    l2_sp: float = option(0.0, "pull of the copied weights towards those of the parent (L2-SP)", least=0)
    clip_norm: float | None = option(None, "largest norm of all gradients together; null: no limit", least=0)
    accumulate: int = option(1, "batches whose gradients are averaged before a step", least=1)
    ema: float | None = option(
        None, "momentum of averaged weights, such as 0.99; null: none", least=0, most=1
    )
    patience: int = option(20, "epochs without a better validation Dice before the end", least=1)
    seed: int = option(0, "of the new weights, patches, augmentation and dropout", least=0)
    samples: int = option(0, "patches of the validation drawn as a picture after each epoch", least=0)
    tensorboard: bool = option(False, "write logs for TensorBoard, too")


@dataclass(frozen=True)
class SegmentationConfig:
    """Everything that a fine-tuning depends on."""

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    augment: Augmentation = field(default_factory=Augmentation)
    fit: FitSettings = field(default_factory=FitSettings)


def with_options(config: SegmentationConfig, options: Mapping[str, Any]) -> SegmentationConfig:
    """Change single settings by their names alone, such as ``epochs=5, patch_shape=(32, 32, 32)``.

    Raises
    ------
    InvalidOption
        If no section has a setting of a name, or its value is not allowed.
    """
    places = {
        item.name: section.name
        for section in fields(config)
        for item in fields(getattr(config, section.name))
    }
    changes: dict[str, dict[str, Any]] = {}
    for name, value in options.items():
        if name not in places:
            near = get_close_matches(name, places, n=1, cutoff=0.0)[0]
            raise InvalidOption(
                f"no setting is named {name}; the nearest is {near} (see `kerasneuro train "
                "segmentation --write-config`)"
            )
        changes.setdefault(places[name], {})[name] = value
    hints = get_type_hints(SegmentationConfig)
    sections = {}
    for section, values in changes.items():
        checked = from_mapping(hints[section], values, name="finetune")
        sections[section] = replace(
            getattr(config, section), **{name: getattr(checked, name) for name in values}
        )
    return replace(config, **sections)


def with_absolute_paths(config: SegmentationConfig, base: Path) -> SegmentationConfig:
    """Let the relative paths of a configuration begin in a folder."""

    def absolute(path: str) -> str:
        return str((base / path).resolve())

    model, data = config.model, config.data
    weights = {part: absolute(path) for part, path in model.weights.items()}
    is_folder = "/" in model.parent or os.sep in model.parent
    model = replace(model, weights=weights, parent=absolute(model.parent) if is_folder else model.parent)
    is_table = isinstance(data.classes, str) and data.classes != "binary"
    data = replace(
        data,
        train=absolute(data.train),
        validation=absolute(data.validation) if data.validation else None,
        classes=absolute(data.classes) if is_table else data.classes,
    )
    return replace(config, model=model, data=data)
