"""Hash every copy of a registered file that lies on this computer, without any transfer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kerasneuro import registry
from kerasneuro.errors import WeightsCorrupt
from kerasneuro.fetching.cache import forget_record, path_for
from kerasneuro.fetching.digest import holds_content, identify, required_digest, verify
from kerasneuro.fetching.folders import candidates, own_places, search_folders
from kerasneuro.registry import WeightFile

VERIFIED, ABSENT, DAMAGED = "verified", "absent", "DAMAGED"


@dataclass(frozen=True)
class Copy:
    """Say in which state one copy of a file is.

    Attributes
    ----------
    file : WeightFile
        The registered file.
    state : str
        ``"verified"``, ``"absent"`` (there is no copy) or ``"DAMAGED"``.
    path : Path or None
        The copy; None where it is absent.
    reason : str
        What is wrong with a damaged copy.
    """

    file: WeightFile
    state: str
    path: Path | None = None
    reason: str = ""


def check_copies(file: WeightFile) -> list[Copy]:
    """Hash the copies in the search folders and in the cache; what is remembered of them is not trusted.

    A file in a search folder that only has the name, and is another registered file, is not a copy.

    Returns
    -------
    list of Copy
        One for every copy, in the order in which they are used; at least one, which may say "absent".

    Raises
    ------
    WeightsCorrupt
        If the file is registered without a digest.
    """
    required_digest(file)
    copies = [copy for path in dict.fromkeys(_places(file)) if (copy := _check(path, file)) is not None]
    return copies or [Copy(file, ABSENT)]


def _places(file: WeightFile) -> Iterator[Path]:
    yield from own_places(file)
    for folder, _ in search_folders():
        if folder.is_dir():
            yield from candidates(folder, file)
    yield path_for(file)


def _check(path: Path, file: WeightFile) -> Copy | None:
    try:
        if not holds_content(path):
            return None
        verify(path, file)
    except WeightsCorrupt as error:
        if path != path_for(file) and identify(path, registry.cards()):
            return None
        forget_record(path, file)
        return Copy(file, DAMAGED, path, str(error))
    except OSError as error:
        return Copy(file, DAMAGED, path, f"{path} cannot be read: {error.strerror or error}")
    return Copy(file, VERIFIED, path)
