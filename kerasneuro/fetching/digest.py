"""Digests of files: compute them, compare them, recognise a file by them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from kerasneuro.errors import MissingDependency, WeightsCorrupt
from kerasneuro.registry import Digest, ModelCard, WeightFile

CHUNK_BYTES = 1 << 20
POINTER_START = b"/annex/objects/"
LARGEST_POINTER_BYTES = 32 << 10
# No published file is larger whose size is not stated: none that lies in a git repository can be.
LARGEST_UNSTATED_BYTES = 1 << 30
ALGORITHMS = ("sha256", "md5", "xxh3_64", "git-blob")


class Hasher(Protocol):
    """Take bytes and give a hexadecimal digest."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Return the digest of the bytes so far."""


def new_hasher(algorithm: str, size: int) -> Hasher:
    """Start a digest over ``size`` bytes (a git blob id covers the size; the others ignore it).

    Raises
    ------
    MissingDependency
        For ``xxh3_64`` without the package xxhash.
    ValueError
        For an algorithm that is not one of ``ALGORITHMS``.
    """
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    if algorithm == "git-blob":
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    if algorithm == "xxh3_64":
        return _xxh3_64()
    raise ValueError(f"Unknown digest algorithm {algorithm!r}; known are {', '.join(ALGORITHMS)}.")


def digest_file(path: str | Path, algorithm: str) -> str:
    """Compute the digest of a file.

    Parameters
    ----------
    path : str or Path
        The file.
    algorithm : str
        One of ``"sha256"``, ``"md5"``, ``"xxh3_64"``, ``"git-blob"``.

    Returns
    -------
    str
        Lowercase hexadecimal digest.
    """
    with open(path, "rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        hasher = new_hasher(algorithm, size)
        while chunk := stream.read(CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def verify(path: str | Path, file: WeightFile) -> None:
    """Compare size and digest of a file with the registered ones.

    Raises
    ------
    WeightsCorrupt
        If size or digest differ, or if no digest is registered to compare with.
    """
    digest = required_digest(file)
    size = Path(path).stat().st_size
    if file.bytes is not None and size != file.bytes:
        raise WeightsCorrupt(
            f"{path} has {size:,} bytes, but {file.name} has {file.bytes:,}; replace the file."
        )
    found = digest_file(path, digest.algorithm)
    if found != digest.value:
        raise WeightsCorrupt(
            f"{path} has {digest.algorithm} {found}, but {file.name} has {digest.value}; replace the file."
        )


def holds_content(path: str | Path) -> bool:
    """Say whether a path is a file with content, not a placeholder of git-annex for content elsewhere.

    A placeholder is a dangling symbolic link, or a short text that begins with ``/annex/objects/`` where
    the file system has no links.
    """
    if not Path(path).is_file():
        return False
    if Path(path).stat().st_size > LARGEST_POINTER_BYTES:
        return True
    with open(path, "rb") as stream:
        return not stream.read(len(POINTER_START)).startswith(POINTER_START)


def required_digest(file: WeightFile) -> Digest:
    """Return the registered digest of a file, which every file that is fetched must have."""
    if file.digest is None:
        raise WeightsCorrupt(f"{file.name} is registered without a digest, so no copy of it can be verified.")
    return file.digest


def identify(
    path: str | Path, cards: Iterable[ModelCard], known: Mapping[str, str] | None = None
) -> str | None:
    """Recognise a file by its digest among the registered ones.

    Parameters
    ----------
    path : str or Path
        Any file.
    cards : iterable of ModelCard
        Where to look, usually ``kerasneuro.registry.cards()``.
    known : mapping of str to str, optional
        Algorithm -> digest of the file, where one has been computed already.

    Returns
    -------
    str or None
        ``"nobrainer-brainy: brain-extraction-unet-128iso-model.h5"``, or None if no digest equals.
    """
    size = Path(path).stat().st_size
    computed: dict[str, str | None] = dict(known or {})
    for card in cards:
        for file in card.files:
            unstated = file.bytes is None and size <= LARGEST_UNSTATED_BYTES
            if file.digest is None or not (unstated or file.bytes == size):
                continue
            algorithm = file.digest.algorithm
            if algorithm not in computed:
                computed[algorithm] = _digest_if_possible(path, algorithm)
            if computed[algorithm] == file.digest.value:
                return f"{card.name}: {file.name}"
    return None


def _digest_if_possible(path: str | Path, algorithm: str) -> str | None:
    try:
        return digest_file(path, algorithm)
    except MissingDependency:  # Then no file of that kind can be recognised, which is no error here.
        return None


def _xxh3_64() -> Hasher:
    try:
        import xxhash
    except ImportError as error:
        raise MissingDependency(
            "The file is published with an xxh3_64 digest, which needs the package xxhash: pip install xxhash"
        ) from error
    hasher: Hasher = xxhash.xxh3_64()
    return hasher
