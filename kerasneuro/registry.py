"""The models kerasneuro knows: names, weight files, licences and contracts, as immutable records.

The records are read on first use from ``weights_registry.json``; importing this module costs nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kerasneuro import third_party
from kerasneuro.errors import KerasNeuroError, ModelNotFound

REGISTRY_NAME = "weights_registry.json"
NEAREST_NAMES = 3


@dataclass(frozen=True)
class Digest:
    """Hold the published digest of a file.

    ``algorithm`` is ``"sha256"``, ``"md5"``, ``"xxh3_64"`` or ``"git-blob"`` (SHA-1 of a git blob);
    ``value`` is lowercase hexadecimal.
    """

    algorithm: str
    value: str

    def __str__(self) -> str:
        return f"{self.algorithm} {self.value}"


@dataclass(frozen=True)
class Source:
    """Say where a file is published; only the fields that belong to ``kind`` are set.

    Parameters
    ----------
    kind : str
        ``"datalad"`` (dataset, url to clone, commit, path), ``"https"`` (url), ``"wheel"`` (package,
        version, wheel, wheel_sha256, wheel_bytes, member), ``"git-blob"`` (repository, commit, path,
        blob) or, of an added model only, ``"file"`` (path on this computer).
    """

    kind: str
    dataset: str | None = None
    path: str | None = None
    url: str | None = None
    package: str | None = None
    version: str | None = None
    wheel: str | None = None
    wheel_sha256: str | None = None
    wheel_bytes: int | None = None
    member: str | None = None
    repository: str | None = None
    commit: str | None = None
    blob: str | None = None


@dataclass(frozen=True)
class WeightFile:
    """Describe one published file: its bytes, its digest, and its sources in order of preference.

    Parameters
    ----------
    name : str
        File name, without folders.
    part : str
        The part of the task it belongs to (one of ``ModelCard.parts``); empty where there is one network.
    format : str
        ``"keras-h5"``, ``"torchscript"``, ``"torch"``, ``"onnx"``, ``"savedmodel"`` or ``"image"``.
    bytes : int or None
        Size; None where no size is published.
    digest : Digest or None
        The strongest published digest.
    """

    name: str
    part: str
    format: str
    bytes: int | None
    digest: Digest | None
    sources: tuple[Source, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        size = "size not published" if self.bytes is None else f"{self.bytes:,} bytes"
        return f"{self.name} ({size}, {self.digest or 'no digest published'})"


@dataclass(frozen=True)
class Licence:
    """Name a licence, the place where the grant is written, and the date it was read (ISO 8601)."""

    name: str
    grant: str
    read: str
    note: str = ""


@dataclass(frozen=True)
class ThirdParty:
    """Say of an added model when it was added (ISO 8601), from what, and which saved folder it stands for."""

    added: str
    described_by: str
    folder: str | None = None
    card_sha256: str | None = None


@dataclass(frozen=True)
class ModelCard:
    """Describe one model completely: what it is for, where its weights are, what goes in and out."""

    name: str
    family: str
    status: str
    task: str
    summary: str
    licence: Licence
    citation: str
    doi: str | None
    training_data: str
    parameters: int | None
    intended_use: str
    parts: tuple[str, ...] = ()
    files: tuple[WeightFile, ...] = ()
    reference: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    # A mapping has no hash; the remaining fields identify the card.
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    needs: Mapping[str, str] = field(default_factory=dict, hash=False)
    input: Mapping[str, Any] = field(default_factory=dict, hash=False)
    output: Mapping[str, Any] = field(default_factory=dict, hash=False)
    third_party: ThirdParty | None = None

    def __post_init__(self) -> None:
        for name in ("config", "needs", "input", "output"):
            object.__setattr__(self, name, _freeze(getattr(self, name)))

    @property
    def is_bag(self) -> bool:
        """Tell whether the parts are networks that vote (bag0, bag1, ...): of these any number will do."""
        return bool(self.parts) and self.parts == bag_parts(len(self.parts))


@dataclass(frozen=True)
class Sample:
    """Describe a published image for examples and tests."""

    name: str
    summary: str
    file: WeightFile
    licence: Licence
    citation: str


def get(name: str) -> ModelCard:
    """Return the card of one model.

    Raises
    ------
    ModelNotFound
        If no model has this name; the message lists the nearest names.
    """
    known = published()
    if name not in known:
        known = _all()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(str(name).lower(), known, n=NEAREST_NAMES, cutoff=0.4)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    raise ModelNotFound(f"There is no model {name!r}: {hint}`kerasneuro list` shows all {len(known)} names.")


def names(pattern: str = "*") -> list[str]:
    """List the names that match a shell-style pattern (``fnmatch``), in registry order, then those added."""
    return [name for name in _all() if fnmatch.fnmatchcase(name, pattern)]


def cards() -> tuple[ModelCard, ...]:
    """Return the cards of all models, in registry order, then those that the user has added."""
    return tuple(_all().values())


def published() -> Mapping[str, ModelCard]:
    """Return the models that come with kerasneuro, by name."""
    return _registry()[0]


def samples() -> Mapping[str, Sample]:
    """Return the published sample images by name."""
    return _registry()[1]


def as_dict(record: Any) -> dict[str, Any]:
    """Convert a record (card, sample, file, ...) to plain JSON types, without the fields that are None.

    ``bytes``, ``doi`` and ``parameters`` are kept as None, since "not published" is information.
    """
    keep = {"bytes", "doi", "parameters", "digest"}
    pairs = ((f.name, getattr(record, f.name)) for f in dataclasses.fields(record))
    return {key: _thaw(value) for key, value in pairs if value is not None or key in keep}


def card_from_dict(entry: Mapping[str, Any]) -> ModelCard:
    """Build a card from plain JSON types (the inverse of :func:`as_dict`)."""
    values = dict(entry)
    values["licence"] = Licence(**values["licence"])
    values["files"] = tuple(_file(item) for item in values.get("files", ()))
    for key in ("parts", "reference", "limits"):
        values[key] = tuple(values.get(key, ()))
    if values.get("third_party") is not None:
        values["third_party"] = ThirdParty(**values["third_party"])
    return ModelCard(**values)


def bag_parts(count: int) -> tuple[str, ...]:
    """Name the networks of a bag."""
    return tuple(f"bag{index}" for index in range(count))


def _file(entry: Mapping[str, Any]) -> WeightFile:
    values = dict(entry)
    if values["digest"] is not None:
        values["digest"] = Digest(**values["digest"])
    values["sources"] = tuple(Source(**item) for item in values.get("sources", ()))
    return WeightFile(**values)


def _sample(entry: Mapping[str, Any]) -> Sample:
    values = dict(entry)
    return Sample(**{**values, "file": _file(values["file"]), "licence": Licence(**values["licence"])})


def _registry_path() -> Path:
    """Find the registry: inside the installed package, or beside it in a source checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here, here.parent):
        if (folder / REGISTRY_NAME).is_file():
            return folder / REGISTRY_NAME
    raise KerasNeuroError(f"{REGISTRY_NAME} is missing from this installation; reinstall kerasneuro.")


@functools.cache
def _registry() -> tuple[Mapping[str, ModelCard], Mapping[str, Sample]]:
    content = json.loads(_registry_path().read_text(encoding="utf-8"))
    models = {entry["name"]: card_from_dict(entry) for entry in content["models"]}
    images = {entry["name"]: _sample(entry) for entry in content["samples"]}
    return MappingProxyType(models), MappingProxyType(images)


def _all() -> Mapping[str, ModelCard]:
    """Return the published models and those that the user has added; a published name is never replaced."""
    path = third_party.hub_path()
    try:
        status = path.stat()
    except OSError:
        return published()
    return _joined(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4)
def _joined(path: Path, changed: int, size: int) -> Mapping[str, ModelCard]:
    """Join both lists; what was added must not keep the published models from being used."""
    joined = dict(published())
    joined.update((card.name, card) for card in third_party.usable(card_from_dict, published()))
    return MappingProxyType(joined)


def _freeze(value: Any) -> Any:
    if isinstance(value, Mapping):
        return MappingProxyType({key: _freeze(item) for key, item in value.items()})
    return tuple(_freeze(item) for item in value) if isinstance(value, list | tuple) else value


def _thaw(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return as_dict(value)
    if isinstance(value, Mapping):
        return {key: _thaw(item) for key, item in value.items()}
    return [_thaw(item) for item in value] if isinstance(value, list | tuple) else value
