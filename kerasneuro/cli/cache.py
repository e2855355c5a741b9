"""``kerasneuro cache list|verify|clean``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import click

from kerasneuro import registry
from kerasneuro.cli.console import say_json, say_warning, size_text
from kerasneuro.cli.tables import say_table
from kerasneuro.fetching.cache import cache_directory
from kerasneuro.fetching.inventory import Entry, damage, entries, linked_folders

OK, FAILED = 0, 1
VERIFIED, DAMAGED, REMOVED, UNCHECKED = "verified", "DAMAGED", "damaged, removed", "not checked"

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
verbose_option = click.option("--verbose", is_flag=True, help="Show the traceback of an error.")


@click.group("cache", invoke_without_command=True)
@click.pass_context
def cache_command(ctx: click.Context) -> None:
    """List, verify or delete what has been fetched and converted (KERASNEURO_CACHE)."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cache_command.command("list")
@as_json_option
@verbose_option
def list_entries(as_json: bool, verbose: bool) -> None:
    """List the weights, converted files, partial transfers and dataset clones in the cache."""
    root = cache_directory()
    found = entries(root)
    if as_json:
        say_json({"cache": str(root), "entries": [record(entry) for entry in found]})
        return
    headings = ("kind", "model", "file", "size", "digest", "last read")
    say_table(headings, ((*cells(entry), entry.digest, day(entry.used)) for entry in found))
    click.echo(summary(found, f"in {root}"), err=True)


@cache_command.command("verify")
@click.option("--remove-damaged", is_flag=True, help="Delete what is damaged; it is fetched again when used.")
@as_json_option
@verbose_option
def verify_entries(remove_damaged: bool, as_json: bool, verbose: bool) -> int:
    """Hash all weights in the cache again, whatever is remembered of them.

    Exit code 1 if damaged files are left.
    """
    states = [(entry, *checked(entry)) for entry in entries(cache_directory())]
    if remove_damaged:
        states = removed(states)
    if as_json:
        say_json([{**record(entry), "state": state, "reason": reason} for entry, state, reason in states])
    else:
        headings = ("kind", "model", "file", "size", "state", "where")
        say_table(headings, ((*cells(entry), state, str(entry.path)) for entry, state, _ in states))
    for _, _, reason in states:
        if reason:
            say_warning(reason)
    return FAILED if any(state == DAMAGED for _, state, _ in states) else OK


@cache_command.command("clean")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--partial", is_flag=True, help="Only broken-off transfers.")
@click.option("--converted", is_flag=True, help="Only converted weights.")
@click.option("--datasets", is_flag=True, help="Only clones of datasets.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json_option
@verbose_option
def clean_entries(
    names: tuple[str, ...],
    partial: bool,
    converted: bool,
    datasets: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    verbose: bool,
) -> int:
    """Delete everything in the cache, or only some kinds, or only what belongs to NAME.

    What is deleted can be fetched again. A file that NAME shares with other models is deleted, too.
    """
    from kerasneuro.fetching.housekeeping import check_root, clean, select

    root, flags = cache_directory(), {"partial": partial, "converted": converted, "dataset": datasets}
    kinds = [kind for kind, chosen in flags.items() if chosen]
    for name in names:
        if name not in registry.samples():
            registry.get(name)
    if names and datasets:
        raise click.UsageError("the clone of a dataset belongs to no single model: --datasets takes no NAME")
    if root.exists():
        check_root(root)
    for folder in linked_folders(root):
        say_warning(f"{folder} is a symbolic link; what it leads to is left alone")
    chosen = select(entries(root), kinds=kinds, names=names)
    if not (dry_run or yes or not chosen or confirmed(chosen)):
        click.echo("nothing was deleted", err=True)
        return FAILED
    planned: list[tuple[Entry, str | None]] = [(entry, None) for entry in chosen]
    return tell_cleaned(planned if dry_run else clean(chosen), dry_run=dry_run, as_json=as_json)


def confirmed(chosen: list[Entry]) -> bool:
    """Ask a person; where there is none, refuse.

    Raises
    ------
    click.UsageError
        If nobody can be asked.
    """
    if not watched():
        raise click.UsageError("nobody can be asked here: say --yes to delete, or --dry-run to look first")
    say_table(("kind", "model", "file", "size"), map(cells, chosen), err=True)
    return click.confirm(f"Delete {summary(chosen, f'in {cache_directory()}')}?", err=True)


def watched() -> bool:
    """Say whether a person can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def tell_cleaned(outcome: list[tuple[Entry, str | None]], *, dry_run: bool, as_json: bool) -> int:
    """Say what was deleted and what was kept; 1 if something was kept."""
    gone = [entry for entry, reason in outcome if reason is None]
    kept = [(entry, reason) for entry, reason in outcome if reason is not None]
    if as_json:
        deleted = [record(entry) for entry in gone]
        left = [{**record(entry), "reason": reason} for entry, reason in kept]
        say_json({"dry_run": dry_run, "deleted": deleted, "kept": left})
    else:
        headings = ("kind", "model", "file", "size", "where")
        say_table(headings, ((*cells(entry), str(entry.path)) for entry in gone))
        click.echo(f"{'would delete' if dry_run else 'deleted'} {summary(gone)}", err=True)
    for entry, reason in kept:
        say_warning(f"{entry.path} was kept: it {reason}")
    return FAILED if kept else OK


def checked(entry: Entry) -> tuple[str, str]:
    """Hash an entry; give its state and what is wrong."""
    try:
        reason = damage(entry)
    except LookupError:
        return UNCHECKED, ""
    return (VERIFIED, "") if reason is None else (DAMAGED, reason)


def removed(states: list[tuple[Entry, str, str]]) -> list[tuple[Entry, str, str]]:
    """Delete the damaged entries; give the states after that."""
    from kerasneuro.fetching.housekeeping import remove_damaged

    damaged = [entry for entry, state, _ in states if state == DAMAGED]
    kept = dict(remove_damaged(damaged)) if damaged else {}
    after = []
    for entry, state, reason in states:
        if state == DAMAGED and kept[entry] is None:
            state = REMOVED
        elif state == DAMAGED:
            reason = f"{reason}; it was kept: it {kept[entry]}"
        after.append((entry, state, reason))
    return after


def record(entry: Entry) -> dict[str, Any]:
    """Describe an entry in a JSON document."""
    return {
        "kind": entry.kind,
        "models": list(entry.models),
        "file": entry.name,
        "path": str(entry.path),
        "bytes": entry.bytes,
        "digest": entry.digest or None,
        "last_read": None
        if entry.used is None
        else datetime.fromtimestamp(entry.used).isoformat("T", "seconds"),
    }


def cells(entry: Entry) -> tuple[str, str, str, str]:
    """Describe an entry for a reader."""
    return entry.kind, ", ".join(entry.models), entry.name, size_text(entry.bytes)


def day(seconds: float | None) -> str:
    """Write a time as a date."""
    return "" if seconds is None else datetime.fromtimestamp(seconds).date().isoformat()


def summary(chosen: Iterable[Entry], where: str = "") -> str:
    """Count entries and bytes."""
    sizes = [entry.bytes for entry in chosen]
    return f"{len(sizes)} entries, {size_text(sum(sizes))} {where}".rstrip()
