"""Fine-tune a segmentation network of the zoo on scans of your own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasneuro.errors import InvalidOption

if TYPE_CHECKING:
    from kerasneuro.finetuning.offspring import Offspring
    from kerasneuro.tasks import Task
    from kerasneuro.training.scans.class_table import ClassTable
    from kerasneuro.training.segmentation.config import SegmentationConfig
    from kerasneuro.training.segmentation.scans import Scans

    Freeze = str | Callable[[Any], bool] | Mapping[int, Any] | None


def finetune(
    parent: str | os.PathLike[str] | Task,
    train: Any,
    validation: Any = None,
    *,
    classes: Any = None,
    freeze: Freeze = None,
    loss: Any = None,
    optimizer: Callable[[], Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Any] = (),
    say: Callable[[str], None] = lambda line: None,
    settings: SegmentationConfig | None = None,
    **options: Any,
) -> Task:
    """Fine-tune a segmentation network on labelled scans.

    The network is built anew with the classes and channels that are asked for, takes over the weights of its
    parent layer by layer, and is trained on patches.

    Parameters
    ----------
    parent : str, path or Task
        Registry name, folder of a saved model (``"./folder"``), or a loaded task.
    train, validation : list of (image, labels), path, or dataset
        Labelled scans as `kerasneuro.training.data.find_pairs` takes them: a list, a CSV file or a BIDS
        folder; or any dataset of patches ``(B, X, Y, Z, C)`` and class indices ``(B, X, Y, Z)`` that
        `keras.Model.fit` takes. The epoch with the best Dice on `validation` is kept; without it the last.
    classes : optional
        What the values of the label maps mean, for `kerasneuro.training.data.ClassTable.of`, such as
        ``{"tumour": 1}``. None keeps the classes, and the last layer, of the parent.
    freeze : {"encoder", "all-but-head"}, callable, mapping or None
        Layers whose weights stay as they are. A callable is given each layer and says True for those;
        a mapping says it by epoch: ``{0: "all-but-head", 5: "encoder", 10: None}``.
    loss : str, mapping or keras.losses.Loss, optional
        For `kerasneuro.training.losses.by_name.get_loss`; default "dice+cross_entropy".
    optimizer : callable, optional
        Returns a new optimiser, in place of AdamW with the settings.
    output : path, optional
        Folder for checkpoints, history and the saved model (``output/model``). Without it nothing is kept on
        disk; the task that is returned can be saved with `kerasneuro.save_model`.
    resume, overwrite : bool
        Go on after the last whole epoch of the run in `output`, or forget it.
    callbacks : sequence of keras.callbacks.Callback
        Called beside our own.
    say : callable
        Told a line of progress at a time, such as `print`.
    settings : SegmentationConfig, optional
        Settings to start from.
    **options
        Any single setting by its name, such as ``epochs=20, patch_shape=(64, 64, 64), learning_rate=1e-4,
        normalise="zscore", ema=0.99``; ``kerasneuro train segmentation --write-config`` explains all.

    Returns
    -------
    Task
        It predicts, saves and reports like those of `kerasneuro.load`.

    Raises
    ------
    InvalidOption, InvalidImage
        If the settings or the scans cannot be used.
    OutputError
        If the folder cannot be used, or holds a run.

    Examples
    --------
    >>> import kerasneuro
    >>> pairs = [("T1_a.nii.gz", "labels_a.nii.gz"), ("T1_b.nii.gz", "labels_b.nii.gz")]
    >>> task = kerasneuro.finetune("nobrainer-brainy", pairs, classes={"tumour": 1})  # doctest: +SKIP
    >>> task("T1_c.nii.gz").save("out/")  # doctest: +SKIP
    """
    from kerasneuro.finetuning.finetuned import make_task, new_name
    from kerasneuro.finetuning.offspring import find_parent, plan_offspring
    from kerasneuro.training.backend import refuse_inference_backend
    from kerasneuro.training.segmentation.config import SegmentationConfig, with_options
    from kerasneuro.training.segmentation.files import TrainingFiles
    from kerasneuro.training.segmentation.scans import find_scans

    refuse_inference_backend()
    if optimizer is not None and not callable(optimizer):
        raise InvalidOption(
            "optimizer is a function that returns a new optimiser, such as lambda: keras.optimizers.Adam()"
        )
    config, table = _settle(with_options(settings or SegmentationConfig(), options), classes)
    task = find_parent(parent, config.model)
    new_name(task.card.name, config)
    with ExitStack() as stack:
        folder = output or stack.enter_context(tempfile.TemporaryDirectory(prefix="kerasneuro-"))
        files = TrainingFiles(Path(folder))
        scans = find_scans(train, validation, config.data, config.fit.seed)
        plan = plan_offspring(task, config.model, table, scans.channels)
        table = table or _classes_of(task, plan)
        config = _with_normalise(config, task)
        files.start(config, scans.rows(), resume=resume, overwrite=overwrite)
        child, rows = _train(plan, scans, table, config, files, freeze, loss, optimizer, callbacks, say)
        result = make_task(plan, child, table, scans, config, rows)
        if output is not None:
            from kerasneuro.saved.write import save_model

            save_model(result, files.model, overwrite=overwrite or resume)
            say(f"saved the model in {files.model}")
    return result


def _settle(config: SegmentationConfig, classes: Any) -> tuple[SegmentationConfig, ClassTable | None]:
    """Return the table of the classes, and the settings that hold it."""
    from kerasneuro.training.scans.class_table import ClassTable

    source = config.data.classes if classes is None else classes
    if source is None:
        return config, None
    table = ClassTable.of(source, others=config.data.others)
    plain = {each.name: list(each.values) for each in table.classes}
    return replace(config, data=replace(config.data, classes=plain, others=table.others)), table


def _with_normalise(config: SegmentationConfig, task: Task) -> SegmentationConfig:
    """Put the parent's rule of intensities in the place of "auto"."""
    if config.data.normalise != "auto":
        return config
    rule: Any = task.card.input.get("normalise") or type(task).training_scale
    return replace(config, data=replace(config.data, normalise=rule))


def _classes_of(task: Task, plan: Offspring) -> ClassTable:
    """Return the classes of the parent, where none are asked for."""
    from kerasneuro.training.scans.class_table import ClassTable, LabelClass

    channels = int(task.models[plan.part].output_shape[-1])
    rows = task.saved["classes"] if task.saved else ()
    if len(rows) == max(2, channels):
        return ClassTable(tuple(LabelClass(row["name"], (row["value"],)) for row in rows))
    return ClassTable.of("binary" if channels == 1 else channels)


def _train(
    plan: Offspring,
    scans: Scans,
    table: ClassTable,
    config: SegmentationConfig,
    files: Any,
    freeze: Freeze,
    loss: Any,
    optimizer: Callable[[], Any] | None,
    callbacks: Sequence[Any],
    say: Callable[[str], None],
) -> tuple[Any, list[dict[str, float]]]:
    """Build, fit, and return the network in float32 with its best weights."""
    import keras

    from kerasneuro.finetuning.finetuned import choose_pipeline
    from kerasneuro.training.segmentation.graph_parts import check_stages
    from kerasneuro.training.segmentation.run import SegmentationRun, fit
    from kerasneuro.training.segmentation.sample_pictures import sample_pictures
    from kerasneuro.training.transfer import copy_weights

    keras.utils.set_random_seed(config.fit.seed)
    model = plan.build(config.model.precision)
    plan.inherit(model)
    choose_pipeline(plan, model, table, scans, config)  # What cannot be run is told before it is trained.
    training, validation = scans.datasets(
        model, table, config, files, int(plan.base.input.get("multiple", 1))
    )
    logits = plan.base.output["kind"] == "logits"
    say(f"{plan.base.name}: {model.count_params():,} parameters, {scans.describe()}, {table.describe()}")
    run = SegmentationRun(
        model,
        config.fit,
        check_stages(freeze if freeze is not None else _stages(config)),
        logits,
        files,
        freeze_normalization=config.model.freeze_normalization,
        new_head=plan.new_head,
        loss=loss,
        optimizer=optimizer,
    )
    pictures = sample_pictures(validation or training, config.fit.samples, files.samples)
    rows = fit(run, training, validation, callbacks=[*pictures, *callbacks], say=say)
    child = plan.build()
    copy_weights(model, child)
    return child, rows


def _stages(config: SegmentationConfig) -> Any:
    """Return what the settings say is frozen from which epoch on."""
    freeze = None if config.model.freeze == "none" else config.model.freeze
    after = config.model.unfreeze_after
    return freeze if after is None else {0: freeze, after: None}
