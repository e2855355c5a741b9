"""Folders of scans: a pattern says which images in them are run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.tasks import Task

LABELS = "_seg.nii.gz"


def folder_options(task: type[Task]) -> list[click.Option]:
    """Make ``--pattern`` for a task of one image."""
    if len(task.roles) != 1:
        return []
    text = "Images to run in the folders given, such as '*_T1w.nii.gz' or '**/*_T1w.nii.gz'."
    return [click.Option(["--pattern"], metavar="GLOB", help=text)]


def expand_folders(task: type[Task], paths: Iterable[Path], pattern: str | None) -> list[Path]:
    """Put the images that fit a pattern in the place of each folder.

    What a run of the same task has written is no scan, and no file of labels (``*_seg.nii.gz``) is.

    Parameters
    ----------
    task : type of Task
        Its outputs.
    paths : iterable of Path
        Images and folders.
    pattern : str, optional
        With ``*``, ``?``, ``[`` and ``**``.

    Raises
    ------
    InvalidOption
        If a folder comes without a pattern, a pattern without a folder, or it is no pattern.
    InvalidImage
        If nothing in a folder fits.
    """
    given = list(paths)
    folders = [path for path in given if path.is_dir()]
    if not folders and pattern is None:
        return given
    if not folders or pattern is None:
        raise InvalidOption(
            "--pattern says which images in a folder are run; give a folder as the image"
            if pattern
            else f"{folders[0]} is a folder; say which images in it are run, such as --pattern '*_T1w.nii.gz'"
        )
    return [
        image
        for path in given
        for image in (images_in(path, pattern, results_of(task)) if path.is_dir() else [path])
    ]


def results_of(task: type[Task]) -> tuple[str, ...]:
    """Return how the files end that a task writes."""
    return (LABELS, *(f"_{name}{suffix}" for name, suffix in task.outputs.items()))


def images_in(folder: Path, pattern: str, left_out: tuple[str, ...]) -> list[Path]:
    """List the files below a folder that fit a pattern."""
    try:
        fitting = sorted(path for path in folder.glob(pattern) if path.is_file())
    except (ValueError, NotImplementedError) as error:
        raise InvalidOption(
            f"--pattern {pattern!r} is none: {error}; give one such as '**/*_T1w.nii.gz'"
        ) from error
    found = [path for path in fitting if not path.name.endswith(left_out)]
    if not found:
        more = f" but {len(fitting)} results" if fitting else ""
        raise InvalidImage(f"{folder} holds no image that fits {pattern!r}{more}; check folder and pattern")
    return found
