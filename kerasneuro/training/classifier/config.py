"""Settings of the training of a classifier of whole volumes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from kerasneuro.training.config import option


@dataclass(frozen=True)
class ModelSettings:
    """Which network is trained."""

    name: str = option("fcd-mobilenet", "registry name of a classifier")
    config: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "overrides of the card's configuration, such as {width: 0.5}"}
    )
    weights: str | None = option(None, "flat .h5 of the same network to start from; null: random weights")
    embedding_layer: str | None = option(
        None, "layer whose output describes a volume; null: the last pooling"
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = option(
        "float32", "float32, mixed_bfloat16 or mixed_float16"
    )


@dataclass(frozen=True)
class DataSettings:
    """Where the volumes are, and how they are prepared."""

    cohort: str = option(
        "cohort.csv", "CSV with subject, site, label, the channels below, age, sex and split"
    )
    channels: tuple[str, ...] = option(("t1", "flair"), "columns of the images, in the order of the channels")
    classes: tuple[str, ...] = option((), "labels in the order of the classes; empty: numbers from 0")
    size: tuple[int, int, int] = option((128, 128, 128), "voxels along each axis after the resize", least=1)
    normalise: Literal["model", "zscore", "none"] = option(
        "model", "model (the steps of its own pipeline), zscore (each channel), or none"
    )
    check_grids: bool = option(True, "refuse channels that lie on different grids")
    cache: Literal["memory", "disk", "none"] = option("memory", "where prepared volumes are kept")


@dataclass(frozen=True)
class SplitSettings:
    """How subjects are divided; a cohort with a column `split` is taken as it says."""

    folds: int = option(5, "parts of the cohort, stratified by site and class", least=3)
    test_fold: int = option(0, "the part that nothing is fitted on", least=0)
    validation_fold: int = option(1, "the part that chooses the epoch", least=0)
    seed: int = option(0, "of the division", least=0)


@dataclass(frozen=True)
class HarmoniseSettings:
    """ComBat, always fitted on the training subset alone; labels are never used."""

    of: Literal["none", "intensity", "embedding"] = option(
        "none", "intensity: mean and spread of each channel; embedding: what the report shows besides"
    )
    covariates: tuple[Literal["age", "sex"], ...] = option((), "kept apart from the effect of the site")
    mean_only: bool = option(False, "remove the sites' means, not their variances")
    empirical_bayes: bool = option(True, "shrink the estimates of a site towards each other")
    unseen_site: Literal["refuse", "keep"] = option("refuse", "what to do with sites outside of the training")


@dataclass(frozen=True)
class AugmentSettings:
    """Random changes of the training volumes."""

    engine: Literal["numpy", "torchio", "none"] = option("numpy", "numpy, torchio (extra torchio) or none")
    flip: float = option(0.5, "probability of a mirror image along each of flip_axes", least=0, most=1)
    flip_axes: tuple[int, ...] = option((0,), "axes of the stored array", least=0, most=2)
    affine: float = option(0.75, "probability of a rotation, scaling and shift", least=0, most=1)
    rotation: float = option(10.0, "largest angle about each axis in degrees", least=0, most=180)
    scale: float = option(0.1, "largest relative change of size", least=0, most=0.9)
    shift: float = option(0.05, "largest shift as a fraction of the axis", least=0, most=1)
    noise: float = option(0.03, "largest standard deviation of Gaussian noise", least=0)
    gamma: float = option(0.2, "largest logarithm of the exponent of the intensities", least=0)
    bias_field: float = option(0.2, "largest logarithm of a smooth factor over the volume", least=0)


@dataclass(frozen=True)
class FitSettings:
    """The optimiser and its schedule."""

    epochs: int = option(100, "most epochs", least=1)
    batch_size: int = option(16, "volumes at once", least=1)
    accumulate: int = option(4, "batches whose gradients are averaged before a step", least=1)
    learning_rate: float = option(2e-4, "after the warm-up, falling as a cosine", least=0)
    warmup_epochs: float = option(5.0, "epochs of linear rise from 0", least=0)
    weight_decay: float = option(0.01, "of AdamW; biases and normalisation are left out", least=0)
    clip_norm: float | None = option(None, "largest norm of all gradients together; null: no limit", least=0)
    class_weights: Literal["none", "balanced"] = option("none", "balanced: classes count alike in the loss")
    patience: int = option(15, "epochs without a better validation accuracy before the end", least=1)
    seed: int = option(0, "of weights, order, dropout and augmentation", least=0)


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything that a training run depends on."""

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    harmonise: HarmoniseSettings = field(default_factory=HarmoniseSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    fit: FitSettings = field(default_factory=FitSettings)
