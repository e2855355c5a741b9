"""Which weight files a model is loaded from, and what is said of them in its provenance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kerasneuro import registry
from kerasneuro.errors import InvalidOption, WeightsNotFound

if TYPE_CHECKING:
    from kerasneuro.registry import ModelCard, WeightFile

    PathLike = str | os.PathLike[str]
    Weights = PathLike | Sequence[PathLike] | Mapping[str, PathLike]


def locate_weights(card: ModelCard, weights: Weights | None) -> dict[str, Path]:
    """Give every part of a model its weight file (or SavedModel): the user's, or the registered one."""
    from kerasneuro.fetching import savedmodel_folder

    parts = chosen_parts(card, weights)
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


def chosen_parts(card: ModelCard, weights: Weights | None) -> tuple[str, ...]:
    """Name the networks to load: those of the card; of a bag as many as the user gives files."""
    if not card.is_bag or weights is None:
        return card.parts or ("",)
    if isinstance(weights, str | os.PathLike):
        return registry.bag_parts(1)
    return registry.bag_parts(max(1, len(weights)))


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
    registered = registered_file(card, part, main)
    digest = registered.digest if registered and main == path and not given else None
    sha256 = digest.value if digest and digest.algorithm == "sha256" else digest_weights(path)
    known = {"sha256": sha256} if main == path else {}
    name = identify(main, registry.cards(), known) if given else f"{card.name}: {_file_name(registered)}"
    return {"path": str(path), "sha256": sha256, "registered": name or f"user file, sha256 {sha256}"}


def _file_name(file: WeightFile | None) -> str:
    return file.name if file else "unknown"


def registered_file(card: ModelCard, part: str, path: Path) -> WeightFile | None:
    """Return the registered file of a part that a local file stands for; by its name if there are several."""
    owned = [file for file in card.files if file.part == part]
    return next((file for file in owned if file.name == path.name), owned[0] if owned else None)
