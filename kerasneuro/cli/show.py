"""``kerasneuro list`` and ``kerasneuro info``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from kerasneuro import registry
from kerasneuro.cli.console import say_json, size_text
from kerasneuro.errors import WeightsCorrupt
from kerasneuro.fetching.cache import path_for
from kerasneuro.fetching.folders import candidates, own_places, search_folders
from kerasneuro.registry import ModelCard, Sample, WeightFile

PIPE_WIDTH = 200  # columns where the output is no terminal, so that nothing is cut


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def list_command(pattern: str, as_json: bool, verbose: bool) -> None:
    """List the models and the sample scans.

    PATTERN is a wildcard such as 'hsf-*'; quote it.
    """
    cards = [registry.get(name) for name in registry.names(pattern)]
    samples = [sample for name, sample in registry.samples().items() if matches(name, pattern)]
    rows = [model_row(card) for card in cards] + [sample_row(sample) for sample in samples]
    if as_json:
        say_json(rows)
    elif rows:
        print_table(rows)
    else:
        click.echo(f"no name matches {pattern!r}; `kerasneuro list` shows all", err=True)


@click.command("info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def info_command(name: str, as_json: bool, verbose: bool) -> None:
    """Show everything that is known about a model or a sample scan."""
    samples = registry.samples()
    record: ModelCard | Sample = samples[name] if name in samples else registry.get(name)
    files = (record.file,) if isinstance(record, Sample) else record.files
    local = {file.name: local_path(file) for file in files}
    if as_json:
        say_json({**registry.as_dict(record), "local": local})
    else:
        print_card(record, local)


def matches(name: str, pattern: str) -> bool:
    """Compare a name with a wildcard, as the registry does."""
    from fnmatch import fnmatchcase

    return fnmatchcase(name, pattern)


def local_path(file: WeightFile) -> Path | None:
    """Find a file on this machine by name and size; its digest is checked when it is used."""
    try:
        inside = own_places(file)
        inside += [place for folder, _ in search_folders() for place in candidates(folder, file)]
        places = [*inside, path_for(file)] if file.digest else inside
    except WeightsCorrupt:
        return None
    for place in places:
        if place.is_file() and file.bytes in (None, place.stat().st_size):
            return place
    return None


def model_row(card: ModelCard) -> dict[str, Any]:
    """Say what the list says about a model."""
    return {
        "name": card.name,
        "task": card.task,
        "status": card.status,
        "bytes": total_bytes(card.files),
        "files": len(card.files),
        "local": bool(card.files) and all(local_path(file) for file in card.files),
        "licence": card.licence.name,
    }


def sample_row(sample: Sample) -> dict[str, Any]:
    """Say what the list says about a sample scan."""
    return {
        "name": sample.name,
        "task": "sample scan",
        "status": "ready",
        "bytes": sample.file.bytes,
        "files": 1,
        "local": local_path(sample.file) is not None,
        "licence": sample.licence.name,
    }


def total_bytes(files: Iterable[WeightFile]) -> int | None:
    """Add up the sizes; None if one is not published."""
    sizes = [file.bytes for file in files]
    known = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the list for a reader."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "task", "status", "weights", "here", "licence"):
        last = heading == "licence"
        table.add_column(heading, justify="right" if heading == "weights" else "left", no_wrap=not last)
    for row in rows:
        size = size_text(row["bytes"]) if row["files"] else "none"
        cells = (
            row["name"],
            row["task"],
            row["status"],
            size,
            "yes" if row["local"] else "no",
            row["licence"],
        )
        table.add_row(*map(Text, cells))
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False).print(table)


def print_card(record: ModelCard | Sample, local: Mapping[str, Path | None]) -> None:
    """Print a card for a reader, one heading and its text at a time."""
    values = registry.as_dict(record)
    files = [record.file] if isinstance(record, Sample) else list(record.files)
    for key in ("files", "file", "name", "summary"):
        values.pop(key, None)
    click.echo(f"{record.name}\n  {record.summary}")
    if isinstance(record, ModelCard) and record.third_party:
        click.echo(
            f"  third party, added on {record.third_party.added}; not examined by kerasneuro's authors"
        )
    for key, value in values.items():
        lines = list(text_lines(value))
        if lines:
            click.echo(f"\n{key.replace('_', ' ')}")
            click.echo("\n".join(f"  {line}" for line in lines))
    click.echo("\nfiles")
    for file in files:
        click.echo(f"  {file}\n    here: {local[file.name] or 'no'}")
        for source in file.sources:
            facts = registry.as_dict(source)
            kind = facts.pop("kind")
            click.echo(f"    {kind}: " + ", ".join(f"{name} {value}" for name, value in facts.items()))
    if not files:
        click.echo("  none published: give your own with --weights PATH")


def text_lines(value: Any) -> Iterable[str]:
    """Write a value of a card as lines."""
    if value is None or value in ("", [], {}):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            inner = ", ".join(map(str, item)) if isinstance(item, list) else item
            if inner not in (None, "", {}):
                yield f"{key}: {inner}"
    elif isinstance(value, list):
        yield from map(str, value)
    else:
        yield str(value)
