"""Add models of third parties, which are then loaded by their name; only by files that can hold no code.

A hash proves that a file is the one that was described, not that the description deserves trust.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasneuro import registry, third_party
from kerasneuro.errors import InvalidOption, ModelNotFound, WeightsCorrupt
from kerasneuro.hub.description import NAME_RULE, SOUND_NAME, describe, read_description
from kerasneuro.registry import ModelCard

if TYPE_CHECKING:
    from kerasneuro.tasks import Task


def add(source: str | os.PathLike[str], *, name: str | None = None, replace: bool = False) -> ModelCard:
    """Add a model, so that `kerasneuro.load` knows its name.

    Parameters
    ----------
    source : path
        A description (``.yaml``, ``.yml`` or ``.json``; see docs/hub.md), or the folder of a saved model,
        which stays where it is.
    name : str, optional
        Another name than the one that is stated.
    replace : bool
        Replace an added model of this name.

    Returns
    -------
    ModelCard
        As `kerasneuro.info` shows it.

    Raises
    ------
    InvalidOption
        If the description is not complete or not allowed, or the name is taken.
    WeightsCorrupt
        If a file is not what its digest says, or cannot be read safely.
    ModelNotFound
        If the folder holds no saved model.
    OutputError
        If the list of added models cannot be written.

    Examples
    --------
    >>> from kerasneuro import hub
    >>> hub.add("my-subfields.yaml").name  # doctest: +SKIP
    'my-subfields'
    """
    path = Path(source)
    today = datetime.date.today().isoformat()
    entry = _entry_of_folder(path, today) if path.is_dir() else describe(read_description(path), path, today)
    entry["name"] = check_name(name or entry["name"])
    card = registry.card_from_dict(entry)
    _check_files(card)
    with third_party.changing():
        others = [other for other in third_party.read_entries() if other["name"] != card.name]
        if len(others) < len(third_party.read_entries()) and not replace:
            raise InvalidOption(
                f"a model {card.name!r} has been added already; allow replacing it, or choose another name"
            )
        third_party.write_entries([*others, registry.as_dict(card)])
    return card


def remove(name: str) -> None:
    """Take an added model off the list; its files stay where they are.

    Raises
    ------
    ModelNotFound
        If no model of this name has been added.
    """
    with third_party.changing():
        entries = third_party.read_entries()
        others = [entry for entry in entries if entry["name"] != name]
        if len(others) == len(entries):
            told = ", ".join(entry["name"] for entry in entries) or "none"
            raise ModelNotFound(f"no model {name!r} has been added; added are: {told}")
        third_party.write_entries(others)


def added() -> list[ModelCard]:
    """Return the cards of the added models.

    Raises
    ------
    HubDamaged
        If their list cannot be read.
    """
    return [registry.card_from_dict(entry) for entry in third_party.read_entries()]


def check_name(name: str) -> str:
    """Return a name that an added model may have.

    Raises
    ------
    InvalidOption
        If it has another form, or belongs to a model or a sample that comes with kerasneuro.
    """
    if not SOUND_NAME.fullmatch(name):
        raise InvalidOption(f"the name {name!r} is not allowed: {NAME_RULE}; give another one")
    if name in registry.published() or name in registry.samples():
        raise InvalidOption(
            f"the name {name!r} belongs to a model that comes with kerasneuro; give another one"
        )
    return name


def _check_files(card: ModelCard) -> None:
    """Compare the files that lie on this computer with their digests, and prove that they can be read."""
    from kerasneuro.fetching import verify
    from kerasneuro.weights import read

    for file in card.files:
        for source in file.sources:
            if source.kind == "file":
                path = Path(str(source.path))
                try:
                    verify(path, file)
                except OSError as error:
                    raise WeightsCorrupt(f"{path} cannot be read: {error.strerror or error}") from error
                with read(path):
                    pass


def _entry_of_folder(path: Path, today: str) -> dict[str, Any]:
    """Describe the folder of a saved model, whose card and weights are held to their digests from now on."""
    from kerasneuro.fetching import digest_file
    from kerasneuro.saved.folder import CARD, read_folder

    folder = read_folder(path.resolve())
    origin = {
        "added": today,
        "described_by": CARD,
        "folder": str(folder.path),
        "card_sha256": digest_file(folder.path / CARD, "sha256"),
    }
    files = [
        {
            "name": file.name,
            "part": part,
            "format": "keras-h5",
            "bytes": file.stat().st_size,
            "digest": {"algorithm": "sha256", "value": folder.digests[part]},
            "sources": [{"kind": "file", "path": str(file)}],
        }
        for part, file in folder.files.items()
    ]
    return {**registry.as_dict(folder.card), "files": files, "third_party": origin}


def folder_of(card: ModelCard) -> Path | None:
    """Return the folder of a saved model that a name stands for; None for every other model.

    Raises
    ------
    WeightsCorrupt
        If its card is not the one that was added.
    """
    origin = card.third_party
    if origin is None or origin.folder is None:
        return None
    from kerasneuro.fetching import digest_file
    from kerasneuro.saved.folder import CARD

    path = Path(origin.folder) / CARD
    again = f"`kerasneuro hub add --replace --name {card.name} {origin.folder}` takes it as it is now"
    if not path.is_file():
        raise ModelNotFound(
            f"{card.name} was added from {origin.folder}, which holds no saved model any more; put it back, "
            f"or `kerasneuro hub remove {card.name}`"
        )
    if digest_file(path, "sha256") != origin.card_sha256:
        raise WeightsCorrupt(f"{path} has changed since {card.name} was added; {again}")
    return path.parent


def task_of(card: ModelCard) -> type[Task]:
    """Return the task of a model, which a saved folder may choose itself.

    Raises
    ------
    WeightsCorrupt, ModelNotFound
        If the folder has changed or is gone.
    """
    from kerasneuro.networks import task_class
    from kerasneuro.saved.folder import folder_task, read_folder

    folder = folder_of(card)
    return task_class(card) if folder is None else folder_task(read_folder(folder))


def as_table(cards: list[ModelCard]) -> list[Mapping[str, Any]]:
    """Say of each added model what a list says."""
    rows: list[Mapping[str, Any]] = []
    for card in cards:
        origin = card.third_party
        rows.append(
            {
                "name": card.name,
                "family": card.family,
                "files": len(card.files),
                "licence": card.licence.name,
                "added": origin.added if origin else "",
                "from": (origin.folder or origin.described_by) if origin else "",
            }
        )
    return rows
