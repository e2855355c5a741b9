"""Call git, git-annex and DataLad, and publish a dataset with them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kerasneuro.fetching.annex_environment import search_path

NOBODY = "kerasneuro"


class BuildError(Exception):
    """The dataset cannot be built; the text says why."""


def run(folder: Path, *command: str, lines: Iterable[str] = (), check: bool = True) -> str:
    """Run a program in a folder, with lines for its input, and return its output."""
    answer = subprocess.run(
        command, cwd=folder, input="".join(f"{line}\n" for line in lines),
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if check and answer.returncode != 0:
        raise BuildError(f"{' '.join(command[:3])} failed: {(answer.stderr or answer.stdout).strip()}")
    return answer.stdout


def prepare_environment() -> None:
    """Let this process and its children find git-annex, and commit where no identity is configured."""
    os.environ["PATH"] = search_path()
    configured = subprocess.run(["git", "config", "user.email"], capture_output=True, check=False)
    if configured.returncode != 0:
        for role in ("AUTHOR", "COMMITTER"):
            os.environ.setdefault(f"GIT_{role}_NAME", NOBODY)
            os.environ.setdefault(f"GIT_{role}_EMAIL", f"{NOBODY}@localhost")


def datalad_api() -> Any:
    """Import DataLad.

    Raises
    ------
    BuildError
        If it is not installed.
    """
    try:
        from datalad import api
    except ImportError as error:
        raise BuildError(f"DataLad is needed: pip install 'kerasneuro[datalad]' ({error})") from error
    return api


def push(out: Path, sibling: str, alias: str) -> None:
    """Publish branch and ``git-annex`` branch, which holds the addresses; there is no content to publish."""
    names = run(out, "git", "remote").split()
    if sibling.startswith("ria+"):
        dataset = datalad_api().Dataset(str(out))
        quiet = {"result_renderer": "disabled"}
        if "ria" not in names:
            dataset.create_sibling_ria(sibling, name="ria", alias=alias, new_store_ok=True, **quiet)
        dataset.push(to="ria", data="nothing", **quiet)
        return
    branch = run(out, "git", "symbolic-ref", "--short", "HEAD").strip()
    name = sibling if sibling in names else add_remote(out, sibling, branch, names)
    run(out, "git", "fetch", "-q", name)
    run(out, "git", "annex", "merge", "--quiet")
    run(out, "git", "push", "-q", name, branch, "git-annex")


def add_remote(out: Path, sibling: str, branch: str, names: Sequence[str]) -> str:
    """Return the remote with this address, made if necessary; a missing folder becomes a repository."""
    folder = Path(sibling).expanduser()
    if "://" not in sibling and not re.match(r"[\w.-]+@?[\w.-]+:", sibling):
        if not folder.exists() or not any(folder.iterdir()):
            run(out, "git", "init", "-q", "--bare", "-b", branch, str(folder.resolve()))
        sibling = str(folder.resolve())
    for name in names:
        if run(out, "git", "remote", "get-url", name).strip() == sibling:
            return name
    name = next(f"publish{number or ''}" for number in range(len(names) + 1)
                if f"publish{number or ''}" not in names)  # fmt: skip
    run(out, "git", "remote", "add", name, sibling)
    return name
