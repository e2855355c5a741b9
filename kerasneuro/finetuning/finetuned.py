"""Turn a network that has been fine-tuned into a task with a card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kerasneuro import registry
from kerasneuro.__about__ import __version__
from kerasneuro.errors import InvalidOption
from kerasneuro.networks import task_class
from kerasneuro.saved.folder import KIND, NAME, VERSION, as_card
from kerasneuro.saved.write import parent_of
from kerasneuro.tasks.result import RESEARCH_USE

if TYPE_CHECKING:
    import keras

    from kerasneuro.finetuning.offspring import Offspring
    from kerasneuro.tasks import Task
    from kerasneuro.training.scans.class_table import ClassTable
    from kerasneuro.training.segmentation.config import SegmentationConfig
    from kerasneuro.training.segmentation.scans import Scans

OWNERS = "as the owner of the training data decides"


def make_task(
    plan: Offspring,
    model: keras.Model,
    table: ClassTable,
    scans: Scans,
    config: SegmentationConfig,
    rows: Sequence[Mapping[str, float]],
) -> Task:
    """Return the task that predicts with a fine-tuned network.

    It is the parent's own task where its pipeline shows the network such scans as it was trained on, and the
    block-wise task otherwise.

    Raises
    ------
    InvalidOption
        If the parent's own pipeline is asked for and cannot run this network.
    """
    own = choose_pipeline(plan, model, table, scans, config)
    content = describe(plan, table, scans, config, rows, "own" if own else "blocks")
    card = as_card(content)
    provenance = {
        "path": None,
        "sha256": None,
        "registered": f"fine-tuned from {plan.parent.card.name} by kerasneuro {__version__}",
        "parent": content["parent"],
    }
    if own:
        kind: type[Task] = task_class(plan.base)
        models = {**plan.parent.models, plan.part: model}
        entries = {**plan.parent.provenance, plan.part: provenance}
        task = kind(card, models, entries, plan.parent.needs)
    else:
        from kerasneuro.tasks.blocks import block_task

        task = block_task(card)(card, {"": model}, {"": provenance})
    task.saved = content
    return task


def choose_pipeline(
    plan: Offspring, model: keras.Model, table: ClassTable, scans: Scans, config: SegmentationConfig
) -> bool:
    """Say whether the parent's own pipeline runs the new network.

    Raises
    ------
    InvalidOption
        If it is asked for and cannot.
    """
    kind, source = task_class(plan.base), plan.parent.models[plan.part]
    volumes, channels = len(model.input_shape) == 5, int(model.output_shape[-1])
    plain = table.values == tuple(range(len(table)))
    able = (
        source.input_shape[-1] == model.input_shape[-1]
        and (channels == source.output_shape[-1] or (kind.training_grid is not None and plain))
        and not (plan.parent.saved and plan.parent.saved["pipeline"] == "blocks")
    )
    if config.model.pipeline == "own" and not able:
        raise InvalidOption(
            f"the pipeline of {plan.base.name} cannot run a network of these channels and classes "
            f"({table.describe()}); use pipeline 'blocks'"
        )
    if not volumes and (not able or config.model.pipeline == "blocks"):
        raise InvalidOption(
            f"{plan.base.name} sees slices, and no pipeline runs it with {channels} classes; keep its "
            f"{source.output_shape[-1]} classes, or use kerasneuro.models.{plan.base.family}.finetune"
        )
    if config.model.pipeline != "auto" or not volumes:
        return config.model.pipeline == "own" or not volumes
    seen = isinstance(scans.training, list) and scans.shapes() == {kind.training_grid}
    data = config.data
    as_trained = data.orientation == "as stored" and data.normalise == kind.training_scale
    return able and plain and seen and as_trained


def describe(
    plan: Offspring,
    table: ClassTable,
    scans: Scans,
    config: SegmentationConfig,
    rows: Sequence[Mapping[str, float]],
    pipeline: str,
) -> dict[str, Any]:
    """Return the content of the card."""
    base, parent = plan.base, plan.parent.card
    name = new_name(parent.name, config)
    learned = ", ".join(table.names[1:])
    how = "trained from random weights" if plan.random else "fine-tuned"
    base_card = registry.as_dict(base)
    blocks = {
        "images": list(scans.names) or ["image"],
        "normalise": config.data.normalise,
        "orientation": config.data.orientation,
        "block_shape": list(config.data.patch_shape),
        "multiple": base.input.get("multiple", 1),
    }
    return {
        "kind": KIND,
        "version": VERSION,
        "name": name,
        "family": base.family,
        "base": base.name,
        "task": base.task,
        "pipeline": pipeline,
        "summary": f"Segmentation of {learned}: {parent.name} {how} on scans of the user.",
        "parent": parent_of(plan.parent),
        "config": {},
        "parts": {},
        "classes": table.rows(),
        "input": base_card["input"] if pipeline == "own" else blocks,
        "output": {"kind": base.output["kind"]},
        "data": {**scans.summary(), "channels": list(scans.names), "classes": table.describe()},
        "licence": inherited_licence(plan),
        "metrics": metrics_of(rows),
        "history": [plain_row(row) for row in rows],
        "citation": parent.citation,
        "use": RESEARCH_USE,
        "training": settings_of(config),
        "kerasneuro": __version__,
    }


def new_name(parent: str, config: SegmentationConfig) -> str:
    """Return the name of the new model.

    Raises
    ------
    InvalidOption
        If it cannot be one, or is taken.
    """
    name = config.model.name or f"{parent}-finetuned"
    if not NAME.fullmatch(name) or name in registry.names():
        raise InvalidOption(
            f"the new model needs a name of its own of letters, digits, . _ and -, found {name!r}"
        )
    return name


def inherited_licence(plan: Offspring) -> dict[str, str]:
    """Say under which licence the new weights are: they derive from those of the parent."""
    if plan.random:
        return {"name": OWNERS, "grant": "", "read": "", "note": "Trained from random weights."}
    licence = plan.parent.card.licence
    note = f"Inherited from {plan.parent.card.name}, whose weights these derive from. {licence.note}".strip()
    return {"name": licence.name, "grant": licence.grant, "read": licence.read, "note": note}


def settings_of(config: SegmentationConfig) -> dict[str, Any]:
    """Return the settings without any path or name of a file."""
    from kerasneuro.training.config import as_mapping

    settings = as_mapping(config)
    for section, keys in (("model", ("parent", "weights")), ("data", ("train", "validation"))):
        for key in keys:
            settings[section].pop(key)
    return settings


def metrics_of(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return the numbers of the epoch whose weights were kept, the one with the best validation Dice."""
    known = [row for row in rows if math.isfinite(row["val_dice"])]
    best = max(known, key=lambda row: (row["val_dice"], -row["val_loss"])) if known else rows[-1]
    found = plain_row(best)
    return {
        **found,
        "epochs": len(rows),
        "note": "The validation chose the epoch, so its Dice flatters the network.",
    }


def plain_row(row: Mapping[str, float]) -> dict[str, float | None]:
    """Return numbers that JSON can hold."""
    return {name: float(value) if math.isfinite(value) else None for name, value in row.items()}
