"""Tell the licence of what is fetched, once."""

from __future__ import annotations

import click

from kerasneuro import registry
from kerasneuro.registry import Licence


def licence_of(name: str) -> Licence:
    """Return the licence of the files of a model or sample."""
    samples = registry.samples()
    return samples[name].licence if name in samples else registry.get(name).licence


def tell_licence(name: str) -> None:
    """Print the licence on stderr, unless the cache notes that it was printed before."""
    from kerasneuro.fetching.licences import is_new

    licence = licence_of(name)
    if is_new(name, licence):
        where = f"{licence.grant}, read {licence.read}" if licence.grant else f"read {licence.read}"
        note = f" {licence.note}" if licence.note else ""
        click.echo(f"licence of {name}: {licence.name} ({where}).{note}", err=True)


def licence_record(name: str) -> dict[str, str]:
    """Say in a JSON document under which licence the files of a model are."""
    licence = licence_of(name)
    return {"name": licence.name, "grant": licence.grant, "read": licence.read, "note": licence.note}
