"""Build the network of a new model from that of its parent: its weights, other classes, more channels."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

from kerasneuro import registry
from kerasneuro.errors import InvalidOption
from kerasneuro.load import load
from kerasneuro.networks import build_graph, family_module, ready_card, task_class
from kerasneuro.saved.write import config_of

if TYPE_CHECKING:
    import keras

    from kerasneuro.registry import ModelCard
    from kerasneuro.tasks import Task
    from kerasneuro.training.scans.class_table import ClassTable
    from kerasneuro.training.segmentation.config import ModelSettings

USUAL_PARTS = {"deepbet": "brain"}
CLASS_KEYS = ("n_classes", "classes")


def find_parent(parent: str | os.PathLike[str] | Task, settings: ModelSettings) -> Task:
    """Return the task to start from; with ``start="random"``, its networks have random weights.

    Raises
    ------
    InvalidOption
        If it does not segment.
    ModelNotFound, ModelNotReady, WeightsNotFound, FetchFailed, WeightsCorrupt, WeightsMismatch
        If a registered or saved model cannot be loaded.
    """
    from kerasneuro.tasks import Task

    if isinstance(parent, Task):
        task = parent
    elif settings.start == "random" and not _is_folder(parent):
        card = ready_card(str(parent))
        graph = family_module(card, "graph")
        config = dict(settings.config)
        models = {part: build_graph(card, graph, config, part) for part in card.parts or ("",)}
        task = task_class(card)(card, models)
    else:
        task = load(parent, weights=_weights(settings.weights), config=settings.config or None)
    if task.card.task != "segmentation":
        names = [card.name for card in registry.cards() if card.task == "segmentation"]
        raise InvalidOption(
            f"{task.card.name} does {task.card.task}; expected a model for segmentation, such as "
            f"{', '.join(names[:4])}"
        )
    return task


def _is_folder(parent: str | os.PathLike[str]) -> bool:
    from kerasneuro.saved.folder import is_path

    return is_path(parent)


def _weights(given: Mapping[str, str]) -> Any:
    """Return weight files as `kerasneuro.load` takes them."""
    return given[""] if set(given) == {""} else (dict(given) or None)


def base_of(task: Task) -> ModelCard:
    """Return the card of the registered model whose graph a task has.

    Raises
    ------
    InvalidOption
        If it has none.
    """
    name = task.saved["base"] if task.saved else task.card.name
    return ready_card(str(name))


@dataclass(frozen=True)
class Offspring:
    """How a new network comes from its parent.

    Attributes
    ----------
    parent : Task
        The trained model.
    base : ModelCard
        The registered model whose graph it is.
    part : str
        Which of the parent's networks.
    config : mapping
        How the new one is built.
    new_head : bool
        Whether the layer of the classes is drawn anew.
    random : bool
        Whether every layer is.
    """

    parent: Task
    base: ModelCard
    part: str
    config: Mapping[str, Any]
    new_head: bool
    random: bool

    def build(self, policy: str = "float32") -> keras.Model:
        """Build the new network, its weights drawn anew, for a precision of Keras."""
        from kerasneuro.training.classifier.train import precision

        with precision(policy):
            # The configuration is complete; that of the card belongs to the published networks.
            bare = dataclasses.replace(self.base, config={})
            return build_graph(bare, family_module(self.base, "graph"), self.config, "")

    def inherit(self, model: keras.Model) -> None:
        """Give a new network the weights of the parent, all but what cannot be taken over."""
        from kerasneuro.training.segmentation.graph_parts import head_layer
        from kerasneuro.training.transfer import copy_weights, inflate_input

        if self.random:
            return
        source = self.parent.models[self.part]
        new = [head_layer(model)] if self.new_head else []
        if source.input_shape[-1] != model.input_shape[-1]:
            new.append(inflate_input(source, model))
        copy_weights(source, model, new=new)


def plan_offspring(
    parent: Task, settings: ModelSettings, classes: ClassTable | None, channels: int | None
) -> Offspring:
    """Decide how the new network is built.

    Parameters
    ----------
    parent : Task
        From `find_parent`.
    settings : ModelSettings
        Part, head, start.
    classes : ClassTable, optional
        None: those of the parent.
    channels : int, optional
        Images of a scan; None: as many as the parent takes.

    Raises
    ------
    InvalidOption
        If the parent has no such part, or its graph cannot take so many classes or channels.
    """
    base, part = base_of(parent), choose_part(parent, settings.part)
    source = parent.models[part]
    config, allowed = config_of(parent, part), signature(family_module(base, "graph").build).parameters
    found = int(source.output_shape[-1])
    # A network of one channel, the foreground's probability, keeps this form for two classes.
    wanted = found if classes is None else 1 if found == 1 and len(classes) == 2 else len(classes)
    new_head = settings.head == "new" or (settings.head == "auto" and classes is not None) or wanted != found
    if settings.head == "keep" and wanted != found:
        raise InvalidOption(
            f"the head of {parent.card.name} gives {found} channels, {wanted} are needed; leave head out"
        )
    if wanted != found:
        key = next((key for key in CLASS_KEYS if key in allowed), None)
        if key is None:
            raise InvalidOption(f"the graph of {base.name} has a fixed number of classes ({found})")
        config[key] = wanted
    if channels is not None and channels != source.input_shape[-1]:
        config.update(_wider(base.name, source, config, allowed, channels))
    return Offspring(parent, base, part, config, new_head, settings.start == "random")


def choose_part(task: Task, part: str | None) -> str:
    """Return which network of a task is trained.

    Raises
    ------
    InvalidOption
        If the task has several and none is named, or it has no such network.
    """
    names = tuple(task.models)
    if part is None:
        usual = USUAL_PARTS.get(task.card.family)
        part = names[0] if len(names) == 1 else usual if usual in names else None
    if part is None or part not in names:
        raise InvalidOption(
            f"{task.card.name} has the networks {', '.join(map(repr, names))}; name the one to train "
            f"as part, found {part!r}"
        )
    return part


def _wider(
    name: str, source: keras.Model, config: Mapping[str, Any], allowed: Mapping[str, Any], channels: int
) -> dict[str, Any]:
    """Return the configuration of more input channels."""
    rank = len(source.input_shape)
    shape = tuple(config.get("input_shape") or ())
    if rank == 5 and len(shape) == 4:
        return {"input_shape": (*shape[:3], channels)}
    if rank == 5 and not shape and "channels" not in allowed and "input_shape" in allowed:
        return {"input_shape": (None, None, None, channels)}
    if rank == 5 and "channels" in allowed:
        return {"channels": channels}
    raise InvalidOption(
        f"{name} takes {source.input_shape[-1]} channels, the scans have {channels}; "
        "name as many images as it takes"
    )
