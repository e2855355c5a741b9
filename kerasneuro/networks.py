"""From a card to its networks: weight files opened, assigned, and kept converted."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kerasneuro import registry
from kerasneuro.errors import (
    InvalidOption,
    KerasNeuroError,
    ModelNotReady,
    OutputError,
    WeightsMismatch,
)
from kerasneuro.weight_files import registered_file

if TYPE_CHECKING:
    import keras

    from kerasneuro.registry import ModelCard
    from kerasneuro.tasks import Task
    from kerasneuro.weights import Entry, WeightStore


CONVERTER = "1"  # counts up when a weight table changes: files converted by an older table are then not used
NATIVE_FORMATS = ("keras-h5", "kerasneuro-h5")
# How each network in memory was built, so that it can be built again with another head.
_BUILT: WeakKeyDictionary[keras.Model, dict[str, Any]] = WeakKeyDictionary()


def ready_card(name: str) -> ModelCard:
    """Return the card of a model that this version can build."""
    card = registry.get(name)
    if card.status == "planned":
        raise ModelNotReady(
            f"{name} is registered, but this version cannot load it yet; "
            f"ready now: {', '.join(other.name for other in registry.cards() if other.status != 'planned')}"
        )
    return card


def family_module(card: ModelCard, room: str) -> ModuleType:
    """Import ``models/<family>/<room>.py``, only when it is needed."""
    return import_module(f"kerasneuro.models.{card.family}.{room}")


def task_class(card: ModelCard) -> type[Task]:
    """Return the task of a model; a family whose models give different kinds of output has one for each."""
    module = family_module(card, "task")
    if hasattr(module, "task_of"):
        made: type[Task] = module.task_of(card)
        return made
    kinds: Mapping[str, type[Task]] = getattr(module, "TASKS", {})
    own: type[Task] = module.TASK
    return kinds.get(card.output["kind"], own)


def load_part(
    card: ModelCard,
    graph: ModuleType,
    weights: ModuleType,
    part: str,
    path: Path,
    config: Mapping[str, Any],
    sha256: str,
    opened: WeightStore | None = None,
) -> keras.Model:
    """Build one network as the file shows it to be, and assign the file's arrays to it.

    A file of another framework is kept converted, by the digest of its content, so that it is converted once.
    What the family has opened its own way (see `open_own_way`) is taken as it is.
    """
    from kerasneuro.fetching import cache_directory
    from kerasneuro.weights import assign, match, read

    folder = cache_directory() / "converted" / f"{sha256}-{CONVERTER}"
    label = "" if getattr(weights, "INTERCHANGEABLE", False) else part
    converted = folder / f"{'-'.join(filter(None, (card.family, label)))}.h5"
    if opened is None and converted.is_file():
        # A damaged or foreign copy is only a lost shortcut: the original is there.
        with suppress(KerasNeuroError, ValueError):
            return load_converted(card, graph, part, converted, config, sha256)
    with opened or read(path) as store:
        if hasattr(weights, "build_other") and (other := weights.build_other(card, store)) is not None:
            return other
        layout = lay_out(card, weights, part, store)
        if layout.converted:
            # The file itself states the configuration: prove it before memory is taken for it.
            sketch = sketch_graph(card, graph, {**layout.config, **config}, part)
            match(sketch, layout.store, layout.table(sketch))
        model = build_graph(card, graph, {**layout.config, **config}, part)
        assign(model, layout.store, layout.table(model), ignore=layout.ignored)
        native = store.format in NATIVE_FORMATS
    if not native:
        # A read-only or full cache costs the next call another conversion, nothing more.
        with suppress(OSError, OutputError):
            keep_converted(model, converted, layout.config, sha256)
    return model


def open_own_way(
    card: ModelCard,
    weights: ModuleType,
    part: str,
    path: Path,
    config: Mapping[str, Any],
    *,
    given: bool,
) -> WeightStore | None:
    """Let a family open a weight file its own way: its `open_part` returns arrays, or None for the usual way.

    It may read the file once for the arrays and the digest, and remember the digest
    (`kerasneuro.fetching.remember_digest`); a registered file must have the registered one.

    Raises
    ------
    WeightsCorrupt, WeightsMismatch
        If the file is damaged, or is not what it should be.
    """
    if not hasattr(weights, "open_part"):
        return None
    file = registered_file(card, part, path)
    digest = file.digest if file and not given else None
    expected = digest.value if digest and digest.algorithm == "sha256" else None
    store: WeightStore | None = weights.open_part(
        part_config({**card.config, **config}, part), path, expected
    )
    return store


@dataclass(frozen=True)
class Layout:
    """How an open weight file belongs to a network.

    Attributes
    ----------
    store : WeightStore
        The arrays of the network.
    config : mapping
        What the file tells of the network's configuration.
    table : callable
        From a graph to the table that `kerasneuro.weights.assign` takes.
    ignored : collection of str
        Keys of the file that need not be used.
    converted : bool
        The file was written by kerasneuro, under our own names.
    """

    store: WeightStore
    config: Mapping[str, Any]
    table: Callable[[keras.Model], Mapping[str, Entry | str]]
    ignored: Collection[str] = ()
    converted: bool = False


def lay_out(card: ModelCard, weights: ModuleType, part: str, store: WeightStore) -> Layout:
    """Tell how an open file, original or converted, belongs to one network of a model.

    Raises
    ------
    WeightsMismatch
        If it holds another network.
    WeightsCorrupt
        If a converted file lacks its description.
    """
    from kerasneuro.weights import is_converted, stated_config, unwrap

    if is_converted(store):
        config = stated_config(store, *stand_in(card, weights, part, store), CONVERTER)
        return Layout(store, config, own_names, converted=True)
    inner = unwrap(store, getattr(weights, "ANCHOR", None), getattr(weights, "ROOT", None))
    if hasattr(weights, "select"):
        inner = weights.select(card, part, inner)
    config = weights.infer_config(inner)
    if hasattr(weights, "check_part"):
        weights.check_part(inner, part, config)
    return Layout(inner, config, partial(weights.table, inner), getattr(weights, "IGNORED", ()))


def stand_in(card: ModelCard, weights: ModuleType, part: str, store: WeightStore) -> tuple[str, str]:
    """Name the model and the part that a converted file must state.

    In a family whose networks are interchangeable it may state any model of the family.
    """
    stated = store.attributes.get("model", "")
    family = registry.get(stated).family if stated in registry.names() else ""
    if getattr(weights, "INTERCHANGEABLE", False) and family == card.family:
        return stated, store.attributes.get("part", "")
    return card.name, part


def load_converted(
    card: ModelCard, graph: ModuleType, part: str, path: Path, config: Mapping[str, Any], sha256: str
) -> keras.Model:
    """Build a network from a converted file of our own cache.

    Raises
    ------
    WeightsMismatch
        If the file was converted from something else.
    """
    from kerasneuro.weights import assign, read

    with read(path) as store:
        if store.attributes.get("source_sha256") != sha256:
            raise WeightsMismatch(f"{path} was not converted from the file with sha256 {sha256}")
        found = json.loads(store.attributes.get("config", ""))
        model = build_graph(card, graph, {**found, **config}, part)
        assign(model, store, own_names(model))
    return model


def keep_converted(model: keras.Model, path: Path, config: Mapping[str, Any], sha256: str) -> None:
    """Write the arrays of a network under our own names, with their origin."""
    from keras import ops

    from kerasneuro.fetching.cache import mark
    from kerasneuro.weights import write_flat

    mark()
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = ((variable.path, ops.convert_to_numpy(variable)) for variable in weights_of(model))
    origin = {"source_sha256": sha256, "converter": CONVERTER, "config": json.dumps(config)}
    write_flat(path, arrays, origin)


def weights_of(model: keras.Model) -> list[Any]:
    """List the variables that a weight file holds: all but the states of random generators."""
    return [variable for variable in model.variables if "seed_generator_state" not in variable.path]


def part_config(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Pick the values of one part: a value may be a mapping from part to value, such as classes per plane."""
    return {
        key: value[part] if isinstance(value, Mapping) and part in value else value
        for key, value in config.items()
    }


def own_names(model: keras.Model) -> dict[str, str]:
    """Return the table of a file that names its arrays as we name the variables."""
    return {variable.path: variable.path for variable in weights_of(model)}


def sketch_graph(card: ModelCard, graph: ModuleType, config: Mapping[str, Any], part: str) -> keras.Model:
    """Build one network whose variables have names and shapes but no values, so that it takes no memory."""
    from keras import StatelessScope
    from keras.src.backend.common import global_state

    waiting = "uninitialized_variables"
    others = list(global_state.get_global_attribute(waiting, []))
    try:
        with StatelessScope(initialize_variables=False):
            return build_graph(card, graph, config, part)
    finally:
        # Else Keras gives the sketch's variables their values, and memory, when the next such scope ends.
        global_state.set_global_attribute(waiting, others)


def build_graph(card: ModelCard, graph: ModuleType, config: Mapping[str, Any], part: str) -> keras.Model:
    """Build one network from the card's configuration and its overrides.

    Raises
    ------
    InvalidOption
        If the graph has no such configuration.
    """
    merged = part_config({**card.config, **config}, part)
    allowed = signature(graph.build).parameters
    unknown = sorted(set(merged) - set(allowed))
    if unknown:
        raise InvalidOption(
            f"{card.name} has no configuration {', '.join(unknown)}; it has {', '.join(allowed)}"
        )
    if "name" in allowed and part:
        merged.setdefault("name", f"{card.name}_{part}".replace("-", "_"))
    model: keras.Model = graph.build(**merged)
    _BUILT[model] = merged
    return model


def built_with(model: keras.Model) -> dict[str, Any] | None:
    """Return the arguments that `build_graph` gave the graph of a network; None for one of another origin."""
    found = _BUILT.get(model)
    return None if found is None else dict(found)
