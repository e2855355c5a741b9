"""Bring a registered file to this computer: search, then fetch from its sources, always verified."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kerasneuro.errors import FetchFailed, InvalidOption, WeightsCorrupt, WeightsNotFound
from kerasneuro.fetching import cache, datalad, git_blob, http, wheel
from kerasneuro.fetching.digest import required_digest
from kerasneuro.fetching.folders import find_in_folders
from kerasneuro.fetching.receive import Progress, SourceFailed, WrongBytes, require_space
from kerasneuro.fetching.resume import forget_part, kept_part
from kerasneuro.registry import Source, WeightFile

Fetch = Callable[[Source, WeightFile, Path, Progress | None], None]

# How each kind of source is fetched. A kind that is registered but not listed here is skipped.
SOURCES: dict[str, Fetch] = {
    "datalad": datalad.fetch,
    "https": http.fetch,
    "wheel": wheel.fetch,
    "git-blob": git_blob.fetch,
}
POLICIES = ("auto", "datalad", "https", "folder")


def ensure(
    file: WeightFile,
    *,
    source: str | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
) -> Path:
    """Return a verified local copy of a registered file, fetching it if it is nowhere on this computer.

    Searched in this order: the folders of ``KERASNEURO_WEIGHTS``, ``$FREESURFER_HOME/models``, the cache,
    then the registered sources in their order.

    Parameters
    ----------
    file : WeightFile
        The registered file.
    source : str, optional
        ``"auto"``, ``"datalad"``, ``"https"`` (everything but DataLad) or ``"folder"`` (no network);
        default is ``KERASNEURO_SOURCE``, else ``"auto"``.
    offline : bool, optional
        True forbids the network; default is ``KERASNEURO_OFFLINE``.
    progress : callable, optional
        Called with (bytes done, bytes in all or None) during a transfer.

    Returns
    -------
    Path
        The file; its content equals the registered digest. Treat it as read-only.

    Raises
    ------
    WeightsNotFound
        If it is not on this computer and no source may be asked.
    FetchFailed
        If no source delivered it, or the cache cannot be written.
    WeightsCorrupt
        If only a damaged copy is cached and no source may be asked.
    """
    policy = _policy(source, offline)
    required_digest(file)
    found, notes = find_in_folders(file)
    if found is not None:
        return found
    with suppress(WeightsCorrupt):  # Looked at again under the lock, where it may be removed.
        cached = cache.look_up(file)
        if cached is not None:
            return cached
        refusals = [(_where(item), _refusal(item, policy)) for item in _sources(file)]
        if all(reason for _, reason in refusals):  # Then there is nothing to write, and no lock to take.
            notes += [(where, reason or "") for where, reason in refusals]
            raise _failure(file, notes, asked=False, damaged=None)
    with cache.writing(file), cache.locked(file):
        return _cached_or_fetched(file, policy, notes, progress)


def find_local(file: WeightFile) -> Path | None:
    """Return a verified copy from the search folders or the cache, without network; None if there is none."""
    found, _ = find_in_folders(file)
    if found is not None:
        return found
    try:
        return cache.look_up(file)
    except WeightsCorrupt as error:
        warnings.warn(f"The cached copy is not used: {error}", stacklevel=2)
        return None


def _cached_or_fetched(
    file: WeightFile, policy: str, notes: list[tuple[str, str]], progress: Progress | None
) -> Path:
    """Look into the cache again (another process may have been faster), then ask the sources."""
    damaged: WeightsCorrupt | None = None
    try:
        cached = cache.look_up(file)
        if cached is not None:
            return cached
    except WeightsCorrupt as error:
        damaged = error
        warnings.warn(f"Removed a damaged file from the cache: {error}", stacklevel=4)
        cache.remove(file)
        notes.append(("cache", f"held a damaged copy, which was removed ({error})"))
    asked = False
    for source in _sources(file):
        reason = _refusal(source, policy)
        if reason is None:
            asked = True
            reason = _try(source, file, progress)
            if reason is None:
                return cache.path_for(file)
        notes.append((_where(source), reason))
    raise _failure(file, notes, asked, damaged)


def _sources(file: WeightFile) -> tuple[Source, ...]:
    """Return the registered sources; a site's own dataset comes first where none is registered.

    Files on this computer are no sources here: they are used where they lie.
    """
    registered = tuple(source for source in file.sources if source.kind != "file")
    own = datalad.own_source()
    if own is None or any(source.kind == "datalad" for source in registered):
        return registered
    return (own, *registered)


def _try(source: Source, file: WeightFile, progress: Progress | None) -> str | None:
    """Ask one source; return None if the file is now in the cache, else the reason why not."""
    part = cache.part_path(file)
    try:
        require_space(part.parent, (file.bytes or 0) - kept_part(part, file).size)
        SOURCES[source.kind](source, file, part, progress)
        cache.install(part, file)
    except (WrongBytes, OSError) as error:
        forget_part(part)
        if isinstance(error, OSError):
            raise
        return str(error)
    except SourceFailed as error:  # What came so far stays, for this source or the next, now or later.
        if not kept_part(part, file).size:
            forget_part(part)
        return str(error)
    return None


def _policy(source: str | None, offline: bool | None) -> str:
    """Return one of POLICIES, or "offline"."""
    policy = (source or os.environ.get("KERASNEURO_SOURCE") or "auto").lower()
    if policy not in POLICIES:
        raise InvalidOption(f"KERASNEURO_SOURCE is {policy!r}; it must be one of {', '.join(POLICIES)}.")
    if offline is None:
        offline = os.environ.get("KERASNEURO_OFFLINE", "").lower() not in ("", "0", "false", "no")
    return "offline" if offline else policy


def _refusal(source: Source, policy: str) -> str | None:
    """Say why a source must not be asked, or None if it may be."""
    if policy == "offline":
        return "was not asked: offline (KERASNEURO_OFFLINE)"
    if policy != "auto" and (policy == "folder" or (policy == "datalad") != (source.kind == "datalad")):
        return f"was not asked: the source is limited to {policy!r} (KERASNEURO_SOURCE)"
    if source.kind == "datalad":
        return datalad.missing_programs()
    return None if source.kind in SOURCES else "is of an unknown kind"


def _where(source: Source) -> str:
    if source.kind == "datalad":
        return f"DataLad dataset {datalad.clone_source(source)}, {source.path or 'by its digest'}"
    if source.kind == "wheel":
        return f"package index, {source.package}=={source.version}, {source.member}"
    if source.kind == "git-blob":
        return f"git repository {source.repository} at {source.commit}, {source.path}"
    return source.url or source.kind


def _failure(
    file: WeightFile, notes: list[tuple[str, str]], asked: bool, damaged: WeightsCorrupt | None
) -> FetchFailed | WeightsNotFound | WeightsCorrupt:
    """Build the error that says what is missing, what was tried, and what to do by hand."""
    verb = "could not be fetched" if asked else "is not on this computer"
    tried = "; ".join(f"{where}: {reason}" for where, reason in notes) or "no source is registered"
    message = (
        f"{file} {verb}. Tried: {tried}. "
        f"Put the file into a folder and name the folder in KERASNEURO_WEIGHTS, "
        f"or place it at {cache.path_for(file)}."
    )
    if asked:
        return FetchFailed(message)
    return WeightsNotFound(message) if damaged is None else WeightsCorrupt(message)
