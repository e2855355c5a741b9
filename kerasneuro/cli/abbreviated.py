"""A choice whose names may be cut short, as the commands of FreeSurfer allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    ParamType = click.ParamType[str]
else:
    ParamType = click.ParamType  # No generic in the older versions of click.


class Abbreviated(ParamType):
    """Accept one of several names, or the start of one that fits no other.

    Parameters
    ----------
    names : sequence of str
        The full names.
    """

    name = "choice"

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """List the names."""
        return f"[{'|'.join(self.names)}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the full name."""
        fitting = [value] if value in self.names else [name for name in self.names if name.startswith(value)]
        if len(fitting) != 1 or not value:
            problem = "may mean several" if len(fitting) > 1 and value else "is none"
            self.fail(f"{value!r} {problem} of {', '.join(self.names)}", param, ctx)
        return fitting[0]
