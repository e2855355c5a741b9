"""``kerasneuro hub add|list|remove``: models of third parties."""

from __future__ import annotations

from pathlib import Path

import click

from kerasneuro.cli.console import say_json, say_warning
from kerasneuro.cli.tables import say_table

NOT_EXAMINED = "a digest proves that a file is the one described, not that it deserves trust"

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
verbose_option = click.option("--verbose", is_flag=True, help="Show the traceback of an error.")


@click.group("hub", invoke_without_command=True)
@click.pass_context
def hub_command(ctx: click.Context) -> None:
    """Add models of third parties, or your own, to the names that kerasneuro knows (KERASNEURO_HUB)."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@hub_command.command("add")
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE|FOLDER")
@click.option("--name", help="Another name than the one stated.")
@click.option("--replace", is_flag=True, help="Replace an added model of this name.")
@as_json_option
@verbose_option
def add_model(source: Path, name: str | None, replace: bool, as_json: bool, verbose: bool) -> None:
    """Add the model that FILE (.yaml, .yml, .json) describes, or the saved model in FOLDER.

    Nothing is fetched; files on this computer are compared with their digests.
    """
    from kerasneuro import hub, registry

    card = hub.add(source, name=name, replace=replace)
    if as_json:
        say_json(registry.as_dict(card))
    else:
        click.echo(card.name)
    say_warning(f"{card.name} comes from a third party: {NOT_EXAMINED}")


@hub_command.command("list")
@as_json_option
@verbose_option
def list_models(as_json: bool, verbose: bool) -> None:
    """List the models that have been added."""
    from kerasneuro import hub

    rows = hub.as_table(hub.added())
    if as_json:
        say_json(rows)
        return
    headings = ("name", "family", "files", "licence", "added", "from")
    say_table(headings, ([str(row[key]) for key in headings] for row in rows), right="files")
    if not rows:
        click.echo("no model has been added; `kerasneuro hub add FILE|FOLDER` adds one", err=True)


@hub_command.command("remove")
@click.argument("name")
@verbose_option
def remove_model(name: str, verbose: bool) -> None:
    """Take NAME off the list; its files stay where they are."""
    from kerasneuro import hub

    hub.remove(name)
    click.echo(f"removed {name}; its files stay where they are", err=True)
