"""Tell which models a file in the cache belongs to, by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from kerasneuro import registry
from kerasneuro.fetching.bundle import folder_key, place_of
from kerasneuro.registry import WeightFile

Names = tuple[str, ...]


def published() -> dict[str, tuple[WeightFile, ...]]:
    """Return the files of every model and sample that has some, by name."""
    models = {card.name: card.files for card in registry.cards() if card.files}
    return {**models, **{name: (sample.file,) for name, sample in registry.samples().items()}}


def of_digests() -> dict[str, Names]:
    """Return registered digest, such as ``"md5 0a1b..."`` -> names of its models."""
    found: dict[str, Names] = {}
    for name, files in published().items():
        for digest in dict.fromkeys(str(file.digest) for file in files):
            found[digest] = (*found.get(digest, ()), name)
    return found


def of_savedmodels() -> dict[str, tuple[Names, tuple[WeightFile, ...]]]:
    """Return the name of a SavedModel's folder in the cache -> names of its models, and its files."""
    found: dict[str, tuple[Names, tuple[WeightFile, ...]]] = {}
    for name, files in published().items():
        if files[0].format == "savedmodel":
            key = folder_key(files)
            found[key] = ((*found.get(key, ((), ()))[0], name), files)
    return found


def of_sha256(recorded: Mapping[str, str]) -> dict[str, Names]:
    """Return SHA-256 of what can be converted -> names of its models.

    Parameters
    ----------
    recorded : mapping of str to str
        Registered digest -> SHA-256, of files that are published with another digest.
    """
    found: dict[str, Names] = {}
    for name, files in published().items():
        values = [_sha256(file) or recorded.get(str(file.digest)) for file in files]
        if files[0].format == "savedmodel":  # It counts as the list of its files.
            pairs = sorted(zip(files, values, strict=True), key=lambda pair: place_of(pair[0]).as_posix())
            lines = "".join(f"{file.name}\0{value}\n" for file, value in pairs)
            values = [hashlib.sha256(lines.encode()).hexdigest()]
        for value in filter(None, values):
            found[value] = (*found.get(value, ()), name)
    return found


def _sha256(file: WeightFile) -> str | None:
    return file.digest.value if file.digest and file.digest.algorithm == "sha256" else None
