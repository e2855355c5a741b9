"""The folder of a saved model: what its card says, whether its files are the ones it was written with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasneuro import registry
from kerasneuro.errors import ModelNotFound, WeightsCorrupt
from kerasneuro.networks import (
    CONVERTER,
    build_graph,
    family_module,
    own_names,
    ready_card,
    sketch_graph,
    task_class,
)
from kerasneuro.registry import Licence, ModelCard

if TYPE_CHECKING:
    import keras

    from kerasneuro.tasks import Task

CARD = "card.json"
WEIGHTS = "weights.h5"
PLAIN = "model.keras"
KIND, VERSION = "kerasneuro model", 1
MOST_CARD_BYTES = 4 << 20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.h5")
SHA256 = re.compile(r"[0-9a-f]{64}")
PIPELINES = ("own", "blocks")
REQUIRED: Mapping[str, type] = {
    "name": str,
    "family": str,
    "base": str,
    "task": str,
    "pipeline": str,
    "summary": str,
    "parent": dict,
    "parts": dict,
    "classes": list,
    "input": dict,
    "output": dict,
    "licence": dict,
    "citation": str,
}


@dataclass(frozen=True)
class ModelFolder:
    """A saved model whose card has been checked; its weights have not been opened.

    Attributes
    ----------
    path : Path
        The folder.
    content : mapping
        What card.json holds.
    card : ModelCard
        The same as a card of the registry.
    files : mapping of str to Path
        Part -> weight file.
    digests : mapping of str to str
        Part -> SHA-256 that the file must have.
    """

    path: Path
    content: Mapping[str, Any]
    card: ModelCard
    files: Mapping[str, Path]
    digests: Mapping[str, str]

    @property
    def base(self) -> ModelCard:
        """Card of the registered model whose graph it is."""
        return ready_card(str(self.content["base"]))


def is_path(name: object) -> bool:
    """Say whether a name means a folder, not an entry of the registry."""
    import os

    return isinstance(name, os.PathLike) or "/" in str(name) or os.sep in str(name)


def read_folder(path: str | Path) -> ModelFolder:
    """Read the card of a saved model; no weight is read, and model.keras is never opened.

    Raises
    ------
    ModelNotFound
        If there is no such folder, or it holds no saved model.
    WeightsCorrupt
        If the card is damaged, names files outside of its folder, or was written by a later version.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelNotFound(
            f"{str(folder)!r} is a path, expected a registry name (see list_models()) or the folder of a "
            "saved model; to load your own file, give the name of its network and weights=PATH"
        )
    content = _read_card(folder)
    files, digests = _files(folder, content)
    return ModelFolder(folder, content, as_card(content, folder), files, digests)


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    if not path.is_file():
        raise ModelNotFound(
            f"{folder} holds no {CARD}, so it is no saved model; give the folder that save_model wrote"
        )
    try:
        with path.open("rb") as stream:
            text = stream.read(MOST_CARD_BYTES + 1)
        content = json.loads(text) if len(text) <= MOST_CARD_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsCorrupt(
            f"{path} is damaged and cannot be read as JSON ({error}); save the model again"
        ) from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise WeightsCorrupt(f"{path} does not describe a {KIND}; give the folder that save_model wrote")
    if content.get("version") != VERSION:
        raise WeightsCorrupt(
            f"{path} has version {content.get('version')!r}, this kerasneuro reads {VERSION}; update it"
        )
    wrong = [key for key, kind in REQUIRED.items() if not isinstance(content.get(key), kind)]
    if wrong:
        raise WeightsCorrupt(
            f"{path} lacks {', '.join(wrong)}, or has them in another form; save the model again"
        )
    return content


def _files(folder: Path, content: Mapping[str, Any]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the weight files and their digests; they must lie in the folder itself."""
    files, digests = {}, {}
    for part, entry in content["parts"].items():
        name, sha256 = (entry.get("file"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if not (isinstance(name, str) and FILE.fullmatch(name) and isinstance(sha256, str)) or not (
            SHA256.fullmatch(sha256)
        ):
            raise WeightsCorrupt(
                f"{folder / CARD} must name a file of its own folder with its SHA-256 for each part, found "
                f"{str(entry)[:80]!r}; do not use this model"
            )
        path = folder / name
        if not path.is_file():
            raise WeightsCorrupt(f"{folder} lacks {name}, which its {CARD} names; copy the whole folder")
        if path.resolve().parent != folder.resolve():
            raise WeightsCorrupt(f"{path} is a link that leads out of its folder; do not use this model")
        files[str(part)], digests[str(part)] = path, sha256
    if not files:
        raise WeightsCorrupt(f"{folder / CARD} names no weight file; save the model again")
    return files, digests


def as_card(content: Mapping[str, Any], folder: Path = Path(".")) -> ModelCard:
    """Turn the content into a card like those of the registry."""
    base = registry.published().get(content["base"])
    if base is None or base.family != content["family"] or content["pipeline"] not in PIPELINES:
        raise WeightsCorrupt(
            f"{folder / CARD} is of the network {content['base']!r} ({content['family']!r}), which this "
            "version does not have; update kerasneuro"
        )
    if not NAME.fullmatch(content["name"]) or any(not _is_class(row) for row in content["classes"]):
        raise WeightsCorrupt(
            f"{folder / CARD} has a name or classes that cannot be used; save the model again"
        )
    licence = {key: str(content["licence"].get(key, "")) for key in ("name", "grant", "read", "note")}
    parts = tuple(map(str, content["parts"]))
    return ModelCard(
        name=content["name"],
        family=base.family,
        status="ready",
        task=base.task,
        summary=content["summary"],
        licence=Licence(**licence),
        citation=content["citation"],
        doi=base.doi,
        training_data=json.dumps(content.get("data", {})),
        parameters=None,
        intended_use=str(content.get("use", "")),
        parts=() if parts == ("",) else parts,
        needs=base.needs,
        input=content["input"],
        output={**content["output"], "classes": content["classes"]},
    )


def _is_class(row: Any) -> bool:
    return isinstance(row, dict) and all(
        isinstance(row.get(key), kind) for key, kind in (("index", int), ("name", str), ("value", int))
    )


def folder_task(folder: ModelFolder) -> type[Task]:
    """Return the task that runs a saved model."""
    if folder.content["pipeline"] == "own":
        return task_class(folder.base)
    from kerasneuro.tasks.blocks import block_task

    return block_task(folder.card)


def load_folder(path: str | Path, *, needs: Any = None, **options: Any) -> Task:
    """Load a saved model from its folder, after comparing every weight file with the card.

    Parameters
    ----------
    path : path
        Folder that `kerasneuro.save_model` wrote.
    needs : callable, optional
        From the name of another model to its task.
    **options
        Passed to the task's constructor.

    Raises
    ------
    ModelNotFound, WeightsCorrupt, WeightsMismatch
        If the folder is no saved model, has been changed, or belongs to another version.
    """
    from kerasneuro.fetching import digest_weights

    folder = read_folder(path)
    models, provenance = {}, {}
    for part, file in folder.files.items():
        found = digest_weights(file)
        if found != folder.digests[part]:
            raise WeightsCorrupt(
                f"{file} is not the file that {CARD} was written for (SHA-256 {found[:16]}..., expected "
                f"{folder.digests[part][:16]}...); copy the folder again"
            )
        models[part] = _load_part(folder, part, file)
        provenance[part] = {
            "path": str(file),
            "sha256": found,
            "registered": f"saved model {folder.card.name}: {file.name}",
            "parent": folder.content["parent"],
        }
    if folder.card.needs and needs is not None and folder.content["pipeline"] == "own":
        options["needs"] = {role: partial(needs, other) for role, other in folder.card.needs.items()}
    task = folder_task(folder)(folder.card, models, provenance, **options)
    task.saved = folder.content
    return task


def _load_part(folder: ModelFolder, part: str, path: Path) -> keras.Model:
    """Build one network as its file says, prove that the file fits, and assign it."""
    from kerasneuro.weights import assign, match, read, stated_config

    base = folder.base
    graph = family_module(base, "graph")
    with read(path) as store:
        config = stated_config(store, base.name, part, CONVERTER)
        # The file states the configuration itself: prove it before memory is taken for it.
        sketch = sketch_graph(base, graph, config, part)
        match(sketch, store, own_names(sketch))
        model = build_graph(base, graph, config, part)
        assign(model, store, own_names(model))
    return model
