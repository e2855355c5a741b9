"""Train a classifier of whole volumes: build, compile, fit, and keep the best weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasneuro.errors import InvalidOption
from kerasneuro.training.classifier.augmentation import make_augmentation
from kerasneuro.training.classifier.config import FitSettings
from kerasneuro.training.classifier.job import Job, Say, silent
from kerasneuro.training.quick_convolutions import quick_convolutions
from kerasneuro.weights import assign, read, write_flat

if TYPE_CHECKING:
    import keras

NOT_DECAYED = ("bias", "gamma", "beta")


def build_network(job: Job) -> keras.Model:
    """Build the network in the precision of the settings, and check that it fits the data.

    Raises
    ------
    InvalidOption
        If it takes another number of channels, or gives too few classes.
    """
    import keras

    settings = job.config.model
    keras.utils.set_random_seed(job.config.fit.seed)
    with precision(settings.precision):
        model = job.network.build(**settings.config)
    channels, names = model.input_shape[-1], job.config.data.channels
    if len(model.input_shape) != 5 or channels != len(names):
        raise InvalidOption(
            f"{settings.name} takes {channels} channels, data.channels names {len(names)} "
            f"({', '.join(names)}); set its number of channels in model.config, or name as many columns"
        )
    outputs = model.output_shape[-1]
    if len(model.output_shape) != 2 or outputs < max(2, job.classes):
        raise InvalidOption(
            f"{settings.name} gives {outputs} classes, the cohort has {job.classes}; set its number of "
            "classes in model.config"
        )
    if settings.weights:
        load_weights(model, Path(settings.weights))
    return model


@contextmanager
def precision(policy: str) -> Iterator[None]:
    """Build layers under a policy of Keras, and put the former one back."""
    import keras

    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)


def compile_network(model: keras.Model, job: Job) -> None:
    """Give a network AdamW with the schedule of the settings, and cross entropy."""
    import keras

    settings = job.config.fit
    batches = -(-len(job.of("training")) // settings.batch_size)
    optimizer = keras.optimizers.AdamW(
        learning_rate=cosine(settings, batches),
        weight_decay=settings.weight_decay,
        global_clipnorm=settings.clip_norm,
        gradient_accumulation_steps=settings.accumulate if settings.accumulate > 1 else None,
    )
    optimizer.exclude_from_weight_decay(var_names=list(NOT_DECAYED))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=job.network.logits)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])


def cosine(settings: FitSettings, batches: int) -> Any:
    """Return the learning rate of each batch: a linear rise, then a cosine down to 0 at the last epoch."""
    import keras

    warm = round(min(settings.warmup_epochs, settings.epochs) * batches)
    rest = max(1, settings.epochs * batches - warm)
    if not warm:
        return keras.optimizers.schedules.CosineDecay(settings.learning_rate, rest)
    return keras.optimizers.schedules.CosineDecay(
        0.0, rest, warmup_target=settings.learning_rate, warmup_steps=warm
    )


def fit(model: keras.Model, job: Job, say: Say = silent, *, callbacks: Sequence[Any] = ()) -> None:
    """Train a compiled network, from where the folder's checkpoint ends, and load its best weights.

    Parameters
    ----------
    model : keras.Model
        From `build_network` and `compile_network`.
    job : Job
        From `start`.
    say : callable
        Told a line for each epoch.
    callbacks : sequence of keras.callbacks.Callback
        Further ones.
    """
    from kerasneuro.training.classifier.volume_dataset import VolumeDataset, balanced_weights
    from kerasneuro.training.progress import Progress

    settings, training = job.config.fit, job.of("training")
    weights = None
    if settings.class_weights == "balanced":
        weights = balanced_weights([sample.label for sample in training], job.classes)
    progress = Progress(
        job.folder.checkpoint,
        job.folder.history,
        lambda: save_weights(model, job),
        settings.patience,
        settings.seed,
        say,
    )
    done = progress.resume(model) if job.folder.checkpoint.is_file() else 0
    if done:
        say(f"resuming after epoch {done}")
    data = VolumeDataset(
        training,
        job.prepare,
        settings.batch_size,
        shuffle=True,
        change=make_augmentation(job.config.augment),
        class_weights=weights,
        seed=settings.seed,
        epoch=done,
    )
    held_out = VolumeDataset(job.of("validation"), job.prepare, settings.batch_size)
    if done < settings.epochs and not progress.finished:
        with quick_convolutions(model):
            model.fit(
                data,
                validation_data=held_out,
                initial_epoch=done,
                epochs=settings.epochs,
                shuffle=False,
                verbose=0,
                callbacks=[data.follow(), progress, *callbacks],
            )
    load_weights(model, job.folder.best)


def save_weights(model: keras.Model, job: Job) -> None:
    """Write the weights under the names of the variables; `kerasneuro.load(name, weights=...)` takes them."""
    import keras

    arrays = ((item.path, keras.ops.convert_to_numpy(item)) for item in own_variables(model))
    write_flat(job.folder.best, arrays, job.network.texts)


def load_weights(model: keras.Model, path: Path) -> None:
    """Assign a file of `save_weights` (or of `kerasneuro convert`) to a network of the same build."""
    with read(path) as store:
        assign(model, store, {item.path: item.path for item in own_variables(model)})


def own_variables(model: keras.Model) -> list[Any]:
    """List the variables that a weight file holds: no metrics, no states of random generators."""
    return [item for item in model.weights if "seed_generator_state" not in item.path]
