"""Train a segmentation network in stages, with checkpoints that resume exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasneuro.errors import MissingDependency
from kerasneuro.training.checkpoint import read_progress
from kerasneuro.training.classifier.train import load_weights, own_variables
from kerasneuro.training.losses.by_name import get_loss
from kerasneuro.training.metrics.overlap import DiceMetric
from kerasneuro.training.optimisers.adam_l2 import per_batch_momentum
from kerasneuro.training.optimisers.layer_rates import LayerwiseAdamW, pull_to_start
from kerasneuro.training.progress import Progress
from kerasneuro.training.quick_convolutions import quick_convolutions
from kerasneuro.training.segmentation.files import TrainingFiles
from kerasneuro.training.segmentation.graph_parts import encoder_layers, freeze_layers, head_layer
from kerasneuro.weights import write_flat

if TYPE_CHECKING:
    import keras

    from kerasneuro.training.segmentation.config import FitSettings

    Say = Callable[[str], None]

MEASURE = "dice"
NOT_DECAYED = ("bias", "gamma", "beta")


@dataclass(frozen=True)
class SegmentationRun:
    """A network and how it is trained.

    Attributes
    ----------
    model : keras.Model
        Built in the precision of the training, with the weights to start from.
    settings : FitSettings
        Loss, optimiser and schedule.
    stages : mapping of int to freeze
        First epoch -> what is frozen from it on.
    from_logits : bool
        The network gives logits.
    files : TrainingFiles
        Where the run is kept.
    freeze_normalization : bool
        Keep batch normalisations as they are.
    new_head : bool
        The layer of the classes does not come from the parent.
    loss : str, mapping or keras.losses.Loss, optional
        In place of that of the settings.
    optimizer : callable, optional
        Gives a new optimiser for each stage, in place of that of the settings.
    """

    model: keras.Model
    settings: FitSettings
    stages: Mapping[int, Any]
    from_logits: bool
    files: TrainingFiles
    freeze_normalization: bool = False
    new_head: bool = True
    loss: Any = None
    optimizer: Callable[[], Any] | None = None

    def enter(self, epoch: int, batches: int) -> None:
        """Freeze and compile for the stage of an epoch."""
        first = max(start for start in self.stages if start <= epoch)
        later = [start for start in self.stages if start > epoch]
        last = min([*later, self.settings.epochs])
        freeze_layers(self.model, self.stages[first], normalizations=self.freeze_normalization)
        optimizer = self.optimizer() if self.optimizer else self._optimizer(batches * max(1, last - first))
        channels = int(self.model.output_shape[-1])
        self.model.compile(
            optimizer=optimizer,
            loss=self._loss(),
            metrics=[DiceMetric(channels, from_logits=self.from_logits, name=MEASURE)],
        )

    def _loss(self) -> Any:
        if self.loss is not None and not isinstance(self.loss, str | Mapping):
            return self.loss
        options = {"from_logits": self.from_logits, **self.settings.loss_options}
        return get_loss(self.loss or self.settings.loss, **options)

    def _optimizer(self, steps: int) -> Any:
        import keras

        settings = self.settings
        rate: Any = settings.learning_rate
        if settings.schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(rate, max(1, steps // settings.accumulate))
        factors = {str(name): float(factor) for name, factor in settings.layer_rates.items()}
        if settings.encoder_rate != 1:
            # A layer's variables begin with its name and a slash, so that conv3d is not conv3d_1.
            named = {f"{name}/": settings.encoder_rate for name in encoder_layers(self.model)}
            factors = named | factors
        optimizer = LayerwiseAdamW(
            learning_rate=rate,
            factors=factors,
            weight_decay=settings.weight_decay,
            global_clipnorm=settings.clip_norm,
            gradient_accumulation_steps=settings.accumulate if settings.accumulate > 1 else None,
            use_ema=settings.ema is not None,
            ema_momentum=per_batch_momentum(settings.ema or 0.99, settings.accumulate),
        )
        if settings.weight_decay:
            optimizer.exclude_from_weight_decay(var_names=list(NOT_DECAYED))
        return optimizer


def fit(
    run: SegmentationRun,
    training: Any,
    validation: Any = None,
    *,
    callbacks: Sequence[Any] = (),
    say: Say = lambda line: None,
) -> list[dict[str, float]]:
    """Train a network from where the run's checkpoint ends, and give it its best weights.

    Parameters
    ----------
    run : SegmentationRun
        What is trained.
    training, validation : dataset
        What `keras.Model.fit` takes; of an `EpochDataset` the epoch is kept.
    callbacks : sequence of keras.callbacks.Callback
        Further ones.
    say : callable
        Told a line for each epoch.

    Returns
    -------
    list of dict
        The numbers of each epoch.
    """
    model, settings, files = run.model, run.settings, run.files
    averages = _averages(settings)
    progress = Progress(
        files.checkpoint,
        files.history,
        _keeper(model, files.best, averages),
        settings.patience,
        settings.seed,
        say,
        MEASURE,
    )
    batches = _length(training)
    pull_to_start(model, settings.l2_sp, head_layer(model) if run.new_head else None)
    done = read_progress(files.checkpoint) if files.checkpoint.is_file() else 0
    if done:
        run.enter(done - 1, batches)
        done = progress.resume(model)
        say(f"resuming after epoch {done}")
    starts = [*(start for start in sorted(run.stages) if start < settings.epochs), settings.epochs]
    for first, last in pairwise(starts):
        if done >= last or progress.finished:
            continue
        if done <= first:
            run.enter(first, batches)
        _follow(training, max(done, first))
        with quick_convolutions(model):
            model.fit(
                training,
                validation_data=validation,
                initial_epoch=max(done, first),
                epochs=last,
                shuffle=False,
                verbose=0,
                callbacks=[*_followers(training), *averages, progress, *_logs(settings, files), *callbacks],
            )
    pull_to_start(model, 0.0, None)
    load_weights(model, files.best)
    return progress.rows


def _averages(settings: FitSettings) -> list[Any]:
    """Return the callback that puts the averaged weights in place while the validation is computed."""
    if settings.ema is None:
        return []
    import keras

    return [keras.callbacks.SwapEMAWeights()]


def _keeper(model: keras.Model, path: Path, averages: Sequence[Any]) -> Callable[[], None]:
    """Return what writes the weights of a better epoch: the averaged ones, where there are some."""

    def keep() -> None:
        for average in averages:
            average.on_test_begin()
        try:
            save_best(model, path)
        finally:
            for average in averages:
                average.on_test_end()

    return keep


def save_best(model: keras.Model, path: Path) -> None:
    """Write the weights of a network under the names of its variables."""
    import keras

    arrays = ((variable.path, keras.ops.convert_to_numpy(variable)) for variable in own_variables(model))
    write_flat(path, arrays, {"kind": "weights of the best epoch"})


def _follow(dataset: Any, epoch: int) -> None:
    if hasattr(dataset, "epoch"):
        dataset.epoch = epoch


def _followers(dataset: Any) -> list[Any]:
    return [dataset.follow()] if hasattr(dataset, "follow") else []


def _length(dataset: Any) -> int:
    """Return the batches of an epoch; 1 where a dataset does not tell."""
    try:
        return max(1, len(dataset))
    except TypeError:
        return 1


def _logs(settings: FitSettings, files: TrainingFiles) -> list[Any]:
    """Return the callback of TensorBoard, where it is asked for.

    Raises
    ------
    MissingDependency
        If TensorBoard is not installed.
    """
    if not settings.tensorboard:
        return []
    import keras

    try:
        return [keras.callbacks.TensorBoard(str(files.path / "tensorboard"))]
    except (ImportError, AttributeError) as error:
        raise MissingDependency(
            "fit.tensorboard needs TensorBoard; install it with: pip install tensorboard"
        ) from error
