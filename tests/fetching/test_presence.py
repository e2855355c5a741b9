"""Every copy is hashed, whatever was remembered; a licence is new once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kerasneuro import registry
from kerasneuro.errors import WeightsCorrupt
from kerasneuro.fetching import cache, find_local, import_file
from kerasneuro.fetching.licences import FILE_NAME, is_new
from kerasneuro.fetching.presence import check_copies
from kerasneuro.registry import Licence, WeightFile

MakeFile = Callable[..., WeightFile]
LICENCE = Licence("MIT", "https://example.org/LICENSE", "2026-01-01")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("KERASNEURO_WEIGHTS", str(folder))
    return folder


def states(file: WeightFile) -> list[tuple[str, Path | None]]:
    return [(copy.state, copy.path) for copy in check_copies(file)]


def test_absent(make_file: MakeFile, shelf: Path, cache_folder: Path) -> None:
    assert states(make_file()) == [("absent", None)]
    assert not cache_folder.exists()


def test_every_copy_is_told(make_file: MakeFile, shelf: Path, content: bytes) -> None:
    file = make_file()
    (shelf / file.name).write_bytes(content)
    cached = import_file(shelf / file.name, file)
    assert states(file) == [("verified", shelf / file.name), ("verified", cached)]
    (shelf / file.name).write_bytes(content[:-1])
    assert states(file) == [("DAMAGED", shelf / file.name), ("verified", cached)]


@pytest.mark.parametrize("place", ["shelf", "cache"])
def test_record_is_not_trusted_and_dropped(
    make_file: MakeFile, shelf: Path, content: bytes, place: str
) -> None:
    file = make_file()
    path = shelf / file.name
    path.write_bytes(content)
    if place == "cache":
        path = import_file(path, file)
        (shelf / file.name).unlink()
        path.chmod(0o644)
    assert find_local(file) == path
    before = path.stat()
    path.write_bytes(content[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert find_local(file) == path  # By its record, which is all that an ordinary call looks at.
    (copy,) = check_copies(file)
    assert copy.state == "DAMAGED" and "replace the file" in copy.reason
    with pytest.raises(WeightsCorrupt):
        cache.look_outside(path, file) if place == "shelf" else cache.look_up(file)


def test_other_registered_file_of_the_name_is_no_damaged_copy(
    make_file: MakeFile, shelf: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = replace(registry.get("deepbet"), files=(make_file(),))
    monkeypatch.setattr(registry, "cards", lambda: (card,))
    (shelf / "weights.h5").write_bytes(content)
    assert states(make_file(content=content[::-1])) == [("absent", None)]


def test_placeholder_is_absent(make_file: MakeFile, shelf: Path) -> None:
    (shelf / "weights.h5").write_bytes(b"/annex/objects/SHA256E-s1--0.h5\n")
    assert states(make_file()) == [("absent", None)]


# --- licences ------------------------------------------------------------------------------------------


def test_licence_is_new_once_and_again_when_it_changes(cache_folder: Path) -> None:
    assert is_new("tiny", LICENCE) and not is_new("tiny", LICENCE)
    assert is_new("other", LICENCE) and not is_new("tiny", LICENCE)
    changed = replace(LICENCE, name="GPL-3.0")
    assert is_new("tiny", changed) and not is_new("tiny", changed)
    shown = json.loads((cache_folder / FILE_NAME).read_text())
    assert shown["tiny"]["name"] == "GPL-3.0" and shown["other"]["grant"] == LICENCE.grant
    assert sorted(path.name for path in cache_folder.iterdir()) == ["CACHEDIR.TAG", FILE_NAME]


@pytest.mark.parametrize("text", ["{", "[]", '{"tiny": 1}', "\xff"])
def test_damaged_note_is_replaced(cache_folder: Path, text: str) -> None:
    cache_folder.mkdir()
    (cache_folder / FILE_NAME).write_bytes(text.encode("latin-1"))
    assert is_new("tiny", LICENCE) and not is_new("tiny", LICENCE)


def test_read_only_cache_shows_it_again(cache_folder: Path) -> None:
    cache_folder.write_text("a file where the folder should be")
    assert is_new("tiny", LICENCE) and is_new("tiny", LICENCE)
