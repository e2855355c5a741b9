"""Lists of subjects: a text file with one folder per line, each with a scan of the same name."""

from __future__ import annotations

from pathlib import Path

import click

from kerasneuro.errors import InvalidOption
from kerasneuro.tasks import Task


def subject_options(task: type[Task]) -> list[click.Option]:
    """Make ``--csv_file`` for a task whose scans have a name in a subject's folder."""
    if task.subject_image is None:
        return []
    text = (
        "Text file with the folder of one subject per line. The scan in each is the IMAGE given, else "
        f"{task.subject_image}; outputs begin with the folder's name."
    )
    return [
        click.Option(["csv_file", "--csv-file", "--csv_file"], type=click.Path(path_type=Path), help=text)
    ]


def list_subjects(
    task: type[Task], path: Path, names: list[dict[str, Path]]
) -> tuple[list[dict[str, Path]], list[str]]:
    """Read a list of subjects.

    Parameters
    ----------
    task : type of Task
        Its only role takes the scans.
    path : Path
        The list; empty lines are left out, relative folders begin where the program runs.
    names : list of mapping
        The scan's name inside each folder, role -> name, if the user gave one.

    Returns
    -------
    scans : list of mapping
        Role -> image, for every subject.
    stems : list of str
        The folders' names.

    Raises
    ------
    InvalidOption
        If the list cannot be read or is empty, or several names were given.
    """
    role = task.roles[0]
    if len(names) > 1:
        raise InvalidOption(f"--csv_file takes one name of a scan inside the folders, found {len(names)}")
    name = names[0][role] if names else Path(str(task.subject_image))
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"--csv_file {path} cannot be read as text: {error}") from error
    folders = [Path(line) for line in lines if line]
    if not folders:
        raise InvalidOption(f"--csv_file {path} names no folder; write one per line")
    return [{role: folder / name} for folder in folders], [folder.resolve().name for folder in folders]
