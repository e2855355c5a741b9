"""What ``kerasneuro fetch`` does without a transfer: check what is here, import from a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from kerasneuro.cli.console import say_json, say_warning, size_text
from kerasneuro.cli.licence import licence_record, tell_licence
from kerasneuro.cli.tables import say_table
from kerasneuro.errors import WeightsNotFound
from kerasneuro.fetching import find_local
from kerasneuro.fetching.importing import Imported, import_folder
from kerasneuro.fetching.owners import of_digests, published
from kerasneuro.fetching.presence import ABSENT, DAMAGED, check_copies
from kerasneuro.registry import WeightFile

OK, FAILED = 0, 1
HEADINGS = ("model", "file", "size", "state", "where")


def check_present(names: Iterable[str], *, as_json: bool) -> int:
    """Hash every copy of the files of some models (default all), and say in which state it is.

    Returns
    -------
    int
        1 if a copy is damaged, or if a file of a model that was named is absent; else 0.
    """
    copies = [(name, copy) for name, file in files_of(names) for copy in check_copies(file)]
    if as_json:
        say_json([row(name, c.file, c.state, c.path, reason=c.reason) for name, c in copies])
    else:
        say_states((name, c.file, c.state, c.path) for name, c in copies)
    for reason in dict.fromkeys(copy.reason for _, copy in copies if copy.reason):
        say_warning(reason)
    bad = {DAMAGED, ABSENT} if names else {DAMAGED}
    return FAILED if any(copy.state in bad for _, copy in copies) else OK


def import_from(folder: Path, names: Iterable[str], *, as_json: bool) -> int:
    """Import what is registered (of some models; default of any) from a folder, and say what became of it.

    Returns
    -------
    int
        1 if a file of a model that was named is neither there nor on this computer; else 0.

    Raises
    ------
    WeightsNotFound
        If no model was named and nothing was recognised.
    """
    wanted = files_of(names)
    imported, others = import_folder(folder, [file for _, file in wanted])
    if not names and not imported:
        raise WeightsNotFound(
            f"no file below {folder} is registered ({len(others)} were compared by size and digest); "
            "`kerasneuro info NAME` shows which files a model has"
        )
    absent = [(name, file) for name, file in wanted if find_local(file) is None] if names else []
    models = owners_of(imported, names)
    if as_json:
        say_json(import_record(imported, absent, others, models))
    else:
        rows = [(", ".join(owners(item.file, models)), item.file, item.state, item.path) for item in imported]
        say_states([*rows, *((name, file, ABSENT, None) for name, file in absent)])
        click.echo(f"{len(imported)} files recognised, {len(others)} passed over in {folder}", err=True)
    for path, reason in others:
        if not reason.startswith("is not registered"):
            say_warning(f"{path} {reason}")
    for name in models:
        tell_licence(name)
    return FAILED if absent else OK


def files_of(names: Iterable[str]) -> list[tuple[str, WeightFile]]:
    """List the files of some models and samples, or of all where none is named.

    Raises
    ------
    WeightsNotFound
        If a model has no published file.
    """
    known = published()
    for name in names:
        if name not in known:
            raise WeightsNotFound(f"{name} has no published file; bring your own with --weights PATH")
    return [(name, file) for name in names or known for file in known[name]]


def owners_of(imported: Iterable[Imported], names: Iterable[str]) -> list[str]:
    """Name the models (of those asked for) that something was recognised of."""
    known = of_digests()
    found = dict.fromkeys(name for item in imported for name in known.get(str(item.file.digest), ()))
    return [name for name in found if not names or name in names]


def owners(file: WeightFile, models: Iterable[str]) -> list[str]:
    """Name those models that have a file."""
    return [name for name in of_digests().get(str(file.digest), ()) if name in models]


def import_record(
    imported: Iterable[Imported],
    absent: Iterable[tuple[str, WeightFile]],
    others: Iterable[tuple[Path, str]],
    models: Iterable[str],
) -> dict[str, Any]:
    """Say in a JSON document what became of the files of a folder."""
    return {
        "imported": [
            {
                "models": owners(item.file, models),
                "file": item.file.name,
                "state": item.state,
                "source": str(item.source),
                "path": str(item.path),
            }
            for item in imported
        ],
        "absent": [row(name, file, ABSENT, None) for name, file in absent],
        "passed over": [{"path": str(path), "reason": reason} for path, reason in others],
        "licences": {name: licence_record(name) for name in models},
    }


def row(name: str, file: WeightFile, state: str, path: Path | None, **more: str) -> dict[str, Any]:
    """Say in a JSON document in which state a file is."""
    known = {"model": name, "file": file.name, "bytes": file.bytes, "digest": str(file.digest)}
    return {**known, "state": state, "path": None if path is None else str(path), **more}


def say_states(rows: Iterable[tuple[str, WeightFile, str, Path | None]]) -> None:
    """Print the states of files for a reader."""
    cells = ((n, f.name, size_text(f.bytes), state, str(path or "")) for n, f, state, path in rows)
    say_table(HEADINGS, cells)
