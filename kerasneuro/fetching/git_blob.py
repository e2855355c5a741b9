"""Fetch a file that is published as a blob in a git repository: by its raw URL, verified by its blob id."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from kerasneuro.fetching.digest import digest_file
from kerasneuro.fetching.http import fetch_url
from kerasneuro.fetching.receive import Progress, WrongBytes
from kerasneuro.registry import Source, WeightFile


def fetch(source: Source, file: WeightFile, part: Path, progress: Progress | None = None) -> None:
    """Fetch the blob into ``part``; registered digest and blob id must both fit.

    A blob id is the SHA-1 of the size and the content, so it also fixes a size that is not published.

    Raises
    ------
    SourceFailed
        If the server is not reached, answers with an error, or sends other bytes.
    """
    fetch_url(raw_url(source), file, part, progress)
    found = digest_file(part, "git-blob")
    if found != source.blob:
        raise WrongBytes(f"sent other bytes (git blob {found}, expected {source.blob})")


def raw_url(source: Source) -> str:
    """Derive the URL of the file itself from repository, commit and path.

    ``owner/name`` is a repository on GitHub. For a repository given by its full URL the path is
    ``/raw/<commit>/<path>``, which GitHub, GitLab and Bitbucket understand.
    """
    repository = (source.repository or "").removesuffix(".git").rstrip("/")
    inside = f"{quote(source.commit or '')}/{quote(source.path or '')}"
    if "://" in repository:
        return f"{repository}/raw/{inside}"
    return f"https://raw.githubusercontent.com/{repository}/{inside}"
