"""The models that a user has added: the file they are kept in, read and written whole."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from kerasneuro.errors import HubDamaged, OutputError

HUB_NAME = "hub.json"
VERSION = 1
LOCK_SECONDS = 60.0
Card = TypeVar("Card")


def hub_directory() -> Path:
    """Return the folder of the added models: ``KERASNEURO_HUB``, else the user's data folder."""
    chosen = os.environ.get("KERASNEURO_HUB")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("kerasneuro", appauthor=False))


def hub_path() -> Path:
    """Return the file of the added models; it may be absent."""
    return hub_directory() / HUB_NAME


def read_entries() -> list[dict[str, Any]]:
    """Read what has been added, as plain JSON types.

    Raises
    ------
    HubDamaged
        If the file cannot be read.
    """
    path = hub_path()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise HubDamaged(f"{path} cannot be read ({error}); repair it, or delete it to start anew") from error
    entries = content.get("models") if isinstance(content, Mapping) else None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        raise HubDamaged(f"{path} holds no list of models; repair it, or delete it to start anew")
    if content.get("version") != VERSION:
        raise HubDamaged(
            f"{path} has version {content.get('version')!r}, this kerasneuro reads {VERSION}; update it"
        )
    return entries


def usable(build: Callable[[Mapping[str, Any]], Card], taken: Container[str]) -> list[Card]:
    """Return the cards of the added models; what cannot be used is left out with a warning.

    So a damaged list never keeps anyone from the models that come with kerasneuro.

    Parameters
    ----------
    build : callable
        From an entry to a card.
    taken : container of str
        Names of the models that come with kerasneuro, which are never replaced.
    """
    try:
        entries = read_entries()
    except HubDamaged as error:
        warnings.warn(f"The added models are left out: {error}", stacklevel=5)
        return []
    cards = []
    for entry in entries:
        name = entry["name"]
        reason = "its name is that of a model that comes with kerasneuro" if name in taken else ""
        if not reason:
            try:
                cards.append(build(entry))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                reason = f"its entry does not fit this version ({error!r})"
        if reason:
            told = f"The added model {name} is left out, since {reason}; `kerasneuro hub remove {name}`"
            warnings.warn(f"{told} and add it anew", stacklevel=5)
    return cards


def write_entries(entries: Sequence[Mapping[str, Any]]) -> None:
    """Write what has been added, whole or not at all.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    path = hub_path()
    scratch = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    text = json.dumps({"version": VERSION, "models": list(entries)}, indent=2, ensure_ascii=False)
    try:
        scratch.write_text(text + "\n", encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def changing() -> Iterator[None]:
    """Keep other processes from changing the added models meanwhile; makes the folder.

    Raises
    ------
    OutputError
        If the folder cannot be written, or somebody else has held it for a minute.
    """
    import filelock

    folder = hub_directory()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f"{HUB_NAME}.lock", timeout=LOCK_SECONDS)
        lock.acquire()
    except filelock.Timeout as error:
        raise OutputError(f"another process is changing {hub_path()}; wait for it, or end it") from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"the folder of added models {folder} cannot be written ({error.strerror or error}); set "
        "KERASNEURO_HUB to another folder"
    )
