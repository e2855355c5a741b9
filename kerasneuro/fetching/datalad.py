"""Fetch one file of a DataLad dataset: through DataLad where it is installed, else through git-annex."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.fetching import cache
from kerasneuro.fetching.annex import Datalad, DataladUnusable, GitAnnex, Tool, run_git
from kerasneuro.fetching.annex_environment import call_environment, find_program
from kerasneuro.fetching.digest import holds_content, verify
from kerasneuro.fetching.folders import listed_paths
from kerasneuro.fetching.receive import Progress, SourceFailed, WrongBytes
from kerasneuro.registry import Source, WeightFile

VARIABLE = "KERASNEURO_DATALAD_SOURCE"
BUSY = "another program is fetching the same file"
BUSY_TRIES = 5
BUSY_PAUSE = 2.0
sleep: Callable[[float], None] = time.sleep


def fetch(source: Source, file: WeightFile, part: Path, progress: Progress | None = None) -> None:
    """Get one file of the dataset into ``part`` and verify it with the registered digest.

    The dataset is cloned once, without content, to ``datasets/`` in the cache. ``part`` becomes a hard
    link to the content in the clone where the file system allows it, so nothing is stored twice.

    Raises
    ------
    SourceFailed
        If the dataset cannot be cloned, does not have the file, or no remote delivers its registered bytes.
    """
    origin = clone_source(source)
    name = _clone_name(source, origin)
    folder = cache.cache_directory() / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    clone = folder / name
    with (
        cache.hold(f"dataset-{name}", f"the dataset {origin}"),
        call_environment(origin, clone) as environment,
        _tool(environment, folder) as tool,
    ):
        fresh = not (clone / ".git").exists()
        if fresh:
            _clone(tool, origin, clone)
        try:
            _get(tool, environment, clone, source, file, part, progress)
        except SourceFailed:
            if fresh:
                raise
            # The dataset may have learned of the file, or of a place that holds it, since it was cloned.
            with suppress(SourceFailed):
                run_git(["fetch", "-q", "origin"], environment, clone)
                run_git(["annex", "merge", "--quiet"], environment, clone)
            _get(tool, environment, clone, source, file, part, progress)


def missing_programs() -> str | None:
    """Say why no dataset can be asked on this computer, or None if one can."""
    missing = [name for name in ("git", "git-annex") if find_program(name) is None]
    if not missing:
        return None
    return (
        f"needs {' and '.join(missing)}: needs the datalad extra (pip install 'kerasneuro[datalad]') and git"
    )


def clone_source(source: Source) -> str:
    """Return what to clone: the site's mirror (``KERASNEURO_DATALAD_SOURCE``), else the published dataset."""
    chosen = os.environ.get(VARIABLE, "").strip()
    if not chosen:
        return source.url or ""
    path = Path(chosen).expanduser()
    return str(path.resolve()) if path.exists() else chosen


def own_source() -> Source | None:
    """Return the site's own dataset as a source for any file that its ``weights.json`` lists."""
    if not os.environ.get(VARIABLE, "").strip():
        return None
    return Source(kind="datalad", dataset="kerasneuro-weights")


def _clone_name(source: Source, origin: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", source.dataset or "dataset").strip("-.")
    return f"{plain}-{hashlib.sha256(origin.encode()).hexdigest()[:12]}"


@contextmanager
def _tool(environment: Mapping[str, str], folder: Path) -> Iterator[Tool]:
    """Start DataLad; if it is not installed or does not import, give plain git-annex."""
    with ExitStack() as stack:
        if _datalad_is_installed():
            with suppress(DataladUnusable):
                yield stack.enter_context(Datalad(environment, folder))
                return
        yield GitAnnex(environment)


def _datalad_is_installed() -> bool:
    # A folder named "datalad" in the working directory also imports, but has no "datalad.api".
    try:
        return importlib.util.find_spec("datalad.api") is not None
    except ImportError:
        return False


def _clone(tool: Tool, origin: str, clone: Path) -> None:
    """Clone under another name and rename, so that an interrupted clone is never taken for a whole one."""
    for left in clone.parent.glob(f"{clone.name}.tmp-*"):  # We hold the lock: nobody works on them.
        remove_clone(left)
    scratch = clone.with_name(f"{clone.name}.tmp-{os.getpid()}")
    try:
        tool.clone(origin, scratch)
        os.replace(scratch, clone)
    except SourceFailed as error:
        raise SourceFailed(f"cannot be cloned: {error}") from error
    finally:
        if scratch.exists():
            remove_clone(scratch)


def remove_clone(folder: Path) -> None:
    """Delete a clone, whose content git-annex keeps in read-only folders."""
    for place, _, _ in os.walk(folder):
        with suppress(OSError):
            os.chmod(place, 0o700)
    # A program whose caller was killed may still be writing there; the next call removes the rest.
    shutil.rmtree(folder, ignore_errors=True)


def _get(
    tool: Tool,
    environment: Mapping[str, str],
    clone: Path,
    source: Source,
    file: WeightFile,
    part: Path,
    progress: Progress | None,
) -> None:
    """Bring the content into the clone and hand it over; content that is not the file is dropped."""
    _check_out(environment, clone, source.commit)
    path = _path_in(clone, source, file)
    present = holds_content(clone / path)
    if not present:
        _get_patiently(tool, clone, path, progress)
        if not holds_content(clone / path):
            raise SourceFailed("no content came, although no failure was reported")
    _hand_over(clone / path, part)
    try:
        verify(part, file)
    except WeightsCorrupt as error:
        part.unlink()
        run_git(["annex", "drop", "--force", "--quiet", "--", path], environment, clone)
        if present and not holds_content(
            clone / path
        ):  # It was damaged on this disk; the remotes may have it whole.
            return _get(tool, environment, clone, source, file, part, progress)
        raise WrongBytes("holds other bytes than registered") from error


def _check_out(environment: Mapping[str, str], clone: Path, commit: str | None) -> None:
    """Show the registered state of the dataset, or its newest where the clone does not have that one."""
    head = run_git(["rev-parse", "--symbolic-full-name", "HEAD"], environment, clone)
    if head.startswith("refs/heads/adjusted/"):  # git-annex's own branch where links are not possible.
        return
    wanted = commit or ""
    try:
        run_git(["cat-file", "-e", f"{wanted}^{{commit}}"], environment, clone)
    except SourceFailed:
        wanted = "origin/HEAD"
    with suppress(SourceFailed):
        run_git(["checkout", "-q", "--detach", wanted], environment, clone)


def _path_in(clone: Path, source: Source, file: WeightFile) -> str:
    published = [source.path] if source.path else []
    for path in (*published, *listed_paths(clone, file)):
        if ".." not in Path(path).parts and os.path.lexists(clone / path):
            return path
    raise SourceFailed(f"has no file {source.path or file.name}")


def _get_patiently(tool: Tool, clone: Path, path: str, progress: Progress | None) -> None:
    """Get a file; if a program of somebody else is getting it at this moment, wait for that."""
    for remaining in reversed(range(BUSY_TRIES)):
        try:
            return tool.get(clone, path, progress)
        except SourceFailed as error:
            if BUSY not in str(error) or not remaining:
                raise
        sleep(BUSY_PAUSE)


def _hand_over(content: Path, part: Path) -> None:
    part.unlink(missing_ok=True)
    try:
        os.link(content.resolve(), part)
    except OSError:  # Another file system, or one without links.
        shutil.copyfile(content, part)
