"""The environment in which git, git-annex and DataLad are called; the user's git settings stay as is."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Set while a git hook runs, for instance; they would direct our calls to another repository.
MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")


@contextmanager
def call_environment(origin: str, clone: Path) -> Iterator[dict[str, str]]:
    """Yield the environment for the calls on one clone.

    It holds the programs of this Python's environment in ``PATH``, an identity for the records that
    git-annex commits into the clone, no way to ask for a password, and, where origin or clone belong to
    somebody else, git's permission to read just these folders.
    """
    environment = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    environment["PATH"] = search_path()
    for role in ("AUTHOR", "COMMITTER"):
        environment.setdefault(f"GIT_{role}_NAME", "kerasneuro")
        environment.setdefault(f"GIT_{role}_EMAIL", "kerasneuro@localhost")
    environment["GIT_TERMINAL_PROMPT"] = "0"
    environment.setdefault("GIT_ASKPASS", "true")
    environment["LANGUAGE"] = "en"
    foreign = _foreign_folders(origin, clone)
    if not foreign:
        yield environment
        return
    with tempfile.TemporaryDirectory(prefix="kerasneuro-git-") as folder:
        # Settings in GIT_CONFIG_COUNT do not reach the upload-pack of a local clone; this file does.
        settings = Path(folder) / "config"
        settings.write_text(_trusting_config(foreign), encoding="utf-8")
        yield {**environment, "GIT_CONFIG_GLOBAL": str(settings)}


def search_path() -> str:
    """Return ``PATH`` with the scripts of this Python, which an environment that is not active lacks."""
    given = os.environ.get("PATH", os.defpath)
    folders = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable)]
    scripts = os.pathsep.join(dict.fromkeys(folders))
    first_choice = (given, scripts) if shutil.which("git-annex", path=given) else (scripts, given)
    return os.pathsep.join(first_choice)


def find_program(name: str) -> str | None:
    """Return the program that a call in this environment would find."""
    return shutil.which(name, path=search_path())


def _foreign_folders(origin: str, clone: Path) -> list[Path]:
    """List the repositories of the call that exist on this computer and belong to another user."""
    if not hasattr(os, "getuid"):
        return []
    places = [clone, clone / ".git"]
    for place in _local_repositories(origin):
        places += [place, place / ".git"]
    return [place for place in places if place.exists() and place.stat().st_uid != os.getuid()]


def _local_repositories(origin: str) -> list[Path]:
    """Return the repository a clone source names on this computer: a path, or a data set of a RIA store."""
    store = re.fullmatch(r"ria\+file://([^#]+)#(~?)([^@]+)(@.*)?", origin)
    if store is None:
        path = Path(origin.removeprefix("file://"))
        return [path.resolve()] if path.is_absolute() else []
    root, alias, name = Path(store[1]), store[2], store[3]
    path = root / "alias" / name if alias else root / name[:3] / name[3:]
    return [path, path.resolve()]


def _trusting_config(folders: Sequence[Path]) -> str:
    """Write a git configuration: the user's own one, and trust in these folders."""
    home = Path(os.environ.get("HOME") or Path.home())
    configured = os.environ.get("XDG_CONFIG_HOME") or home / ".config"
    usual = [Path(configured) / "git" / "config", home / ".gitconfig"]
    given = os.environ.get("GIT_CONFIG_GLOBAL")
    lines = [f"[include]\n\tpath = {_quoted(path)}" for path in ([Path(given)] if given else usual)]
    lines += [f"[safe]\n\tdirectory = {_quoted(folder)}" for folder in folders]
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    text = path.as_posix().replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
