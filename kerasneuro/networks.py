"""From a card to its networks: weight files found, described, opened, assigned, and kept converted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kerasneuro import registry
from kerasneuro.errors import (
    InvalidOption,
    KerasNeuroError,
    ModelNotReady,
    OutputError,
    WeightsMismatch,
    WeightsNotFound,
)

if TYPE_CHECKING:
    import keras

    from kerasneuro.registry import ModelCard, WeightFile
    from kerasneuro.weights import Entry, WeightStore

    PathLike = str | os.PathLike[str]
    Weights = PathLike | Sequence[PathLike] | Mapping[str, PathLike]

CONVERTER = "1"  # counts up when a weight table changes: files converted by an older table are then not used
NATIVE_FORMATS = ("keras-h5", "kerasneuro-h5")


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


def locate_weights(card: ModelCard, weights: Weights | None) -> dict[str, Path]:
    """Give every part of a model its weight file (or SavedModel): the user's, or the registered one."""
    from kerasneuro.fetching import savedmodel_folder

    parts = card.parts or ("",)
    if weights is None:
        paths = fetch_all(card)
        if card.files[0].format == "savedmodel":
            return {parts[0]: savedmodel_folder(card.files, paths)}
        return {file.part: path for file, path in zip(card.files, paths, strict=True)}
    if isinstance(weights, Mapping):
        given = {str(part): Path(path) for part, path in weights.items()}
    elif isinstance(weights, str | os.PathLike):
        given = {parts[0]: Path(weights)}
    else:
        given = dict(zip(parts, map(Path, weights), strict=False))
        if len(given) != len(weights):
            raise InvalidOption(f"{card.name} takes {len(parts)} weight file(s), {len(weights)} were given")
    missing, unknown = set(parts) - set(given), set(given) - set(parts)
    if missing or unknown:
        raise InvalidOption(
            f"{card.name} needs one weight file for each part ({', '.join(parts) or 'one file'}); missing: "
            f"{', '.join(sorted(missing)) or 'none'}, unknown: {', '.join(sorted(unknown)) or 'none'}"
        )
    for path in given.values():
        if not path.exists():
            raise WeightsNotFound(f"the weight file {path} does not exist; check weights=")
    return {part: given[part] for part in parts}


def fetch_all(card: ModelCard) -> list[Path]:
    """Find or fetch the registered files of a model, in the order of the card."""
    from kerasneuro.fetching import ensure

    if not card.files:
        raise WeightsNotFound(
            f"{card.name} has no published weights; give your own with weights=PATH, "
            f"or build the graph alone with kerasneuro.build({card.name!r})"
        )
    return [ensure(file) for file in card.files]


def describe_weights(card: ModelCard, part: str, path: Path, *, given: bool) -> dict[str, str]:
    """State which file a network was loaded from: its path, digest, and registered name where it has one."""
    from kerasneuro.fetching import digest_weights, identify, main_file

    main = main_file(path)
    owned = [file for file in card.files if file.part == part]
    registered = next((file for file in owned if file.name == main.name), owned[0] if owned else None)
    digest = registered.digest if registered and main == path and not given else None
    sha256 = digest.value if digest and digest.algorithm == "sha256" else digest_weights(path)
    name = identify(main, registry.cards()) if given else f"{card.name}: {_file_name(registered)}"
    return {"path": str(path), "sha256": sha256, "registered": name or f"user file, sha256 {sha256}"}


def _file_name(file: WeightFile | None) -> str:
    return file.name if file else "unknown"


def load_part(
    card: ModelCard,
    graph: ModuleType,
    weights: ModuleType,
    part: str,
    path: Path,
    config: Mapping[str, Any],
    sha256: str,
) -> keras.Model:
    """Build one network as the file shows it to be, and assign the file's arrays to it.

    A file of another framework is kept converted, by the digest of its content, so that it is converted once.
    """
    from kerasneuro.fetching import cache_directory
    from kerasneuro.weights import assign, match, read

    folder = cache_directory() / "converted" / f"{sha256}-{CONVERTER}"
    converted = folder / f"{'-'.join(filter(None, (card.family, part)))}.h5"
    if converted.is_file():
        # A damaged or foreign copy is only a lost shortcut: the original is there.
        with suppress(KerasNeuroError, ValueError):
            return load_converted(card, graph, part, converted, config, sha256)
    with read(path) as store:
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
        config = stated_config(store, card.name, part, CONVERTER)
        return Layout(store, config, own_names, converted=True)
    inner = unwrap(store, getattr(weights, "ANCHOR", None))
    config = weights.infer_config(inner)
    if hasattr(weights, "check_part"):
        weights.check_part(inner, part, config)
    return Layout(inner, config, partial(weights.table, inner), getattr(weights, "IGNORED", ()))


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
    return model
