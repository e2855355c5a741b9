"""Name every file of a run before the first scan is read, and put files in place whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kerasneuro.errors import InvalidOption, KerasNeuroError, OutputError
from kerasneuro.tasks import Task
from kerasneuro.tasks.result import check_targets, plan_outputs


@dataclass(frozen=True)
class Job:
    """One scan (or set of images), and the files that its result becomes.

    Attributes
    ----------
    images : mapping of str to Path
        Role -> image.
    stem : str
        Start of the file names in a folder.
    files : mapping of str to Path
        Field of the result -> target.
    page : Path or None
        Target of the quality page.
    """

    images: Mapping[str, Path]
    stem: str
    files: Mapping[str, Path]
    page: Path | None

    @property
    def folder(self) -> Path:
        """Where the files go."""
        return next(iter(self.files.values())).parent

    def main(self, task: type[Task]) -> Path:
        """Return the main output, or the first one where it is not asked for."""
        return self.files.get(task.main_output, next(iter(self.files.values())))

    @property
    def targets(self) -> tuple[Path, ...]:
        """Every file that may be written."""
        pages = (self.page, self.page.with_suffix(".png")) if self.page else ()
        return (*self.files.values(), *pages)


def plan_jobs(
    task: type[Task],
    scans: Iterable[Mapping[str, Path]],
    target: str,
    *,
    outputs: tuple[str, ...] | None,
    report: bool,
    overwrite: bool,
    read: Iterable[Path] = (),
    stems: Sequence[str] | None = None,
    skip_existing: bool = False,
) -> list[Job]:
    """Plan all scans, and refuse what cannot end well.

    Parameters
    ----------
    task : type of Task
        Its outputs.
    scans : iterable of mapping
        Role -> image, for every scan.
    target : str
        A folder or an image file name.
    outputs : tuple of str, optional
        The fields to write.
    report, overwrite : bool
        Whether a quality page is written, and whether existing files are replaced.
    read : iterable of Path
        Other files that are read, such as weights: they may not be targets either.
    stems : sequence of str, optional
        Start of the file names of each scan (default: the name of its first image).
    skip_existing : bool
        Leave out scans whose main output (else the first one written) exists.

    Raises
    ------
    InvalidImage
        If an image is missing or no file.
    InvalidOption, OutputError
        If two scans have one target, a target is an input or exists, or a folder cannot be used.
    """
    from kerasneuro.volume.header_check import check_file

    scans = list(scans)
    for path in (path for images in scans for path in images.values()):
        check_file(path)
    starts: Sequence[str | None] = stems or [None] * len(scans)
    jobs = [
        plan_job(task, images, target, outputs=outputs, report=report, stem=stem)
        for images, stem in zip(scans, starts, strict=True)
    ]
    refuse_clashes(jobs)
    if skip_existing:
        jobs = [job for job in jobs if not job.main(task).exists()]
    refuse_inputs(jobs, [*(path for images in scans for path in images.values()), *read])
    check_targets([path for job in jobs for path in job.targets], overwrite=overwrite)
    return jobs


def plan_job(
    task: type[Task],
    images: Mapping[str, Path],
    target: str,
    *,
    outputs: tuple[str, ...] | None,
    report: bool,
    stem: str | None = None,
) -> Job:
    """Name the files of one scan."""
    from kerasneuro.volume import strip_suffix

    stem = stem or strip_suffix(next(iter(images.values())))
    files = plan_outputs(target, stem, outputs=task.outputs, main_output=task.main_output, wanted=outputs)
    first = next(iter(files.values()))
    single = first == Path(target)
    if single and outputs is not None and outputs != (task.main_output,):
        raise InvalidOption(
            f"{target!r} is one file, which takes the {task.main_output} alone; give a folder for --outputs"
        )
    page = first.parent / f"{strip_suffix(first) if single else stem}_report.html" if report else None
    return Job(images, stem, files, page)


def refuse_clashes(jobs: list[Job]) -> None:
    """Refuse two scans whose results would have one name."""
    owners: dict[str, Path] = {}
    for job in jobs:
        image = next(iter(job.images.values()))
        for path in job.targets:
            # Compared without case, since some file systems do not tell capital from small letters.
            key = os.path.abspath(path).casefold()
            if key in owners:
                raise OutputError(
                    f"{owners[key]} and {image} would both be written to {path}; "
                    "give several scans a folder and different names, or run them one by one"
                )
            owners[key] = image


def refuse_inputs(jobs: list[Job], inputs: list[Path]) -> None:
    """Refuse a target that is one of the files read."""
    for path in (path for job in jobs for path in job.targets if path.exists()):
        for source in inputs:
            if source.exists() and os.path.samefile(path, source):
                raise OutputError(f"the output {path} is an input of this run; choose another target")


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Lend a hidden folder inside the output folder; it is removed whatever happens.

    Raises
    ------
    OutputError
        If the disk is full or the folder cannot be written.
    """
    temporary: str | None = None
    try:
        temporary = tempfile.mkdtemp(prefix=".kerasneuro-", dir=folder)
        yield Path(temporary)
    except KerasNeuroError:  # Some of them are OSErrors, too.
        raise
    except OSError as error:
        raise OutputError(f"the results cannot be written to {folder}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Move finished files from the staging folder to the output folder, all of them or none."""
    placed: dict[str, Path] = {}
    fresh: list[Path] = []
    try:
        for name, path in files.items():
            target = folder / path.name
            if not target.exists():
                fresh.append(target)
            os.replace(path, target)
            placed[name] = target
    except BaseException:
        for target in fresh:
            with suppress(OSError):
                target.unlink(missing_ok=True)
        raise
    return placed
