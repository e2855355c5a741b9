"""Tables: drawn for a person at a terminal, plain lines for everything else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import click


def say_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "size", err: bool = False
) -> None:
    """Print rows: a table with headings on a terminal, else one line each with tabs between the cells.

    Parameters
    ----------
    headings : sequence of str
        Names of the columns.
    rows : iterable of sequence of str
        Cells in the order of the columns.
    right : str
        The column that is aligned to the right.
    err : bool
        Print on stderr instead of stdout.
    """
    stream = sys.stderr if err else sys.stdout
    if not stream.isatty():
        for row in rows:
            click.echo("\t".join(" ".join(cell.split()) for cell in row), err=err)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading == right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(stderr=err, highlight=False).print(table)
