"""``kerasneuro fetch``."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from kerasneuro import registry
from kerasneuro.cli.console import on_terminal, say_json, size_text
from kerasneuro.cli.licence import licence_of, licence_record, tell_licence
from kerasneuro.cli.tables import say_table
from kerasneuro.errors import KerasNeuroError, OutputError
from kerasneuro.registry import WeightFile

Progress = Callable[[int, int | None], None]
SOURCES = ("auto", "datalad", "https", "folder")


@click.command("fetch")
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="Fetch every model that is ready and every sample.")
@click.option(
    "--verify-only", is_flag=True, help="No transfer: hash the files that are here (of all, or NAME...)."
)
@click.option(
    "--from",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="No transfer: import from a folder what is registered (of all, or NAME...), whatever it is called.",
)
@click.option("--dest", type=click.Path(path_type=Path), metavar="DIR", help="Copy the verified files there.")
@click.option(
    "--source", type=click.Choice(SOURCES), help="Where to look; default KERASNEURO_SOURCE, else auto."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def fetch_command(
    names: tuple[str, ...],
    everything: bool,
    verify_only: bool,
    folder: Path | None,
    dest: Path | None,
    source: str | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Bring the files of models and samples onto this machine, verify them, and print where they are."""
    for name in names:
        if name not in registry.samples():
            registry.get(name)  # An unknown name is told before anything is transferred.
    asked = tuple(dict.fromkeys(names))
    if verify_only or folder is not None:
        if (verify_only and folder is not None) or dest is not None or source is not None:
            raise click.UsageError(
                "--verify-only and --from each stand without the other, --dest and --source"
            )
        from kerasneuro.cli.local import check_present, import_from

        asked = () if everything else asked
        return (
            import_from(folder, asked, as_json=as_json)
            if folder is not None
            else check_present(asked, as_json=as_json)
        )
    if everything:
        asked = tuple(dict.fromkeys((*asked, *fetchable())))
    if not asked:
        raise click.UsageError("name a model or a sample, or say --all")
    transfer(asked, dest, source, as_json=as_json)
    return 0


def transfer(names: Iterable[str], dest: Path | None, source: str | None, *, as_json: bool) -> None:
    """Fetch the files of models, tell their licences, and print where the files are."""
    import kerasneuro

    if dest is not None:
        prepare(dest)
    paths: dict[str, dict[str, Path]] = {}
    for name in names:
        with transfer_bar(name) as progress:
            found = kerasneuro.fetch(name, source=source, progress=progress)
        if dest is not None:
            found = {file.name: copy_to(dest, found[file.name], file) for file in files_of(name)}
        tell_licence(name)
        paths[name] = found
        if not as_json:
            click.echo("\n".join(str(path) for path in found.values()))
    if as_json:
        say_json({name: {"files": paths[name], "licence": licence_record(name)} for name in paths})
    elif on_terminal():
        rows = (
            (name, file, size_text(path.stat().st_size), "verified", licence_of(name).name)
            for name, found in paths.items()
            for file, path in found.items()
        )
        say_table(("model", "file", "size", "state", "licence"), rows, err=True)


def fetchable() -> list[str]:
    """Name the models that are ready and have published files, and the samples."""
    models = [card.name for card in registry.cards() if card.status == "ready" and card.files]
    return [*models, *registry.samples()]


def files_of(name: str) -> tuple[WeightFile, ...]:
    """List the files of a model or sample."""
    samples = registry.samples()
    return (samples[name].file,) if name in samples else registry.get(name).files


def prepare(folder: Path) -> None:
    """Prove that the target folder can be used before anything is transferred."""
    from kerasneuro.tasks.result import prepare_folder

    prepare_folder(folder)


def copy_to(folder: Path, path: Path, file: WeightFile) -> Path:
    """Copy a verified file whole or not at all; a copy that is there already is verified and kept.

    Raises
    ------
    OutputError
        If another file has the name, or the folder cannot be written.
    """
    from kerasneuro.fetching import verify

    target = folder / file.name
    if target.exists():
        try:
            verify(target, file)
        except KerasNeuroError as error:
            raise OutputError(f"{target} exists already and is another file; move it away first") from error
        return target
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{file.name}.")
        os.close(handle)
        shutil.copyfile(path, temporary)
        verify(Path(temporary), file)
        Path(temporary).chmod(0o644)
        os.replace(temporary, target)
    except KerasNeuroError:
        raise
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
    return target


@contextmanager
def transfer_bar(name: str) -> Iterator[Progress]:
    """Show how far a transfer is, on stderr."""
    click.echo(f"fetching {name} ...", err=True)
    if not on_terminal():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    with Bar(BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None, start=True)
        yield lambda done, total: bar.update(task, completed=done, total=total)
