"""The files of a SavedModel, brought together as a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest

from kerasneuro import registry
from kerasneuro.fetching import cache_directory, digest_file, digest_weights, main_file, savedmodel_folder
from kerasneuro.registry import Digest, ModelCard, WeightFile
from kerasneuro.weight_files import describe_weights, locate_weights

NAMES = ("saved_model.pb", "variables.data-00000-of-00001", "variables.index")
PLACES = ("saved_model.pb", "variables/variables.data-00000-of-00001", "variables/variables.index")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERASNEURO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def scattered(fixtures: Path, tmp_path: Path) -> tuple[list[WeightFile], list[Path]]:
    """The files of one model, each in a folder of its own."""
    files, paths = [], []
    for index, (name, place) in enumerate(zip(NAMES, PLACES, strict=True)):
        content = (fixtures / "nobrainer" / "kwyk_bwn_multi" / place).read_bytes()
        path = tmp_path / f"folder{index}" / name
        path.parent.mkdir()
        path.write_bytes(content)
        digest = Digest("sha256", hashlib.sha256(content).hexdigest())
        files.append(WeightFile(name, "", "savedmodel", len(content), digest))
        paths.append(path)
    return files, paths


def contents(folder: Path) -> list[bytes]:
    return [(folder / place).read_bytes() for place in PLACES]


def test_scattered_files_become_a_folder_once(scattered) -> None:
    files, paths = scattered
    folder = savedmodel_folder(files, paths)
    assert folder.parent == cache_directory() / "savedmodels"
    assert contents(folder) == [path.read_bytes() for path in paths]
    made = (folder / PLACES[0]).stat()
    assert savedmodel_folder(files, paths) == folder
    assert (folder / PLACES[0]).stat().st_mtime_ns == made.st_mtime_ns
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_links_are_used_where_possible_and_copies_elsewhere(scattered, monkeypatch) -> None:
    files, paths = scattered
    folder = savedmodel_folder(files, paths)
    assert all(os.path.samefile(folder / place, path) for place, path in zip(PLACES, paths, strict=True))

    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    changed = [dataclasses.replace(files[0], name="saved_model.pb"), *files[1:]][::-1]
    copies = savedmodel_folder(changed, paths[::-1])
    assert copies != folder and contents(copies) == contents(folder)
    assert not any(os.path.samefile(copies / place, path) for place, path in zip(PLACES, paths, strict=True))


def test_a_damaged_folder_is_made_anew(scattered) -> None:
    files, paths = scattered
    folder = savedmodel_folder(files, paths)
    (folder / PLACES[1]).unlink()
    (folder / PLACES[1]).write_bytes(b"damaged")
    assert contents(savedmodel_folder(files, paths)) == [path.read_bytes() for path in paths]


def test_a_dataset_is_used_where_it_lies(scattered, fixtures: Path) -> None:
    model = fixtures / "nobrainer" / "kwyk_bwn_multi"
    assert savedmodel_folder(scattered[0], [model / place for place in PLACES]) == model
    assert not (cache_directory() / "savedmodels").exists()


def test_digest_of_a_folder_changes_with_every_file(scattered) -> None:
    folder = savedmodel_folder(*scattered)
    whole = digest_weights(folder)
    assert digest_weights(folder / "variables") == whole
    assert main_file(folder) == folder / PLACES[1] and main_file(folder / PLACES[0]) == folder / PLACES[0]
    assert digest_weights(folder / PLACES[0]) == digest_file(folder / PLACES[0], "sha256")
    (folder / PLACES[0]).unlink()
    assert digest_weights(folder) != whole


@pytest.fixture
def card(scattered) -> ModelCard:
    return dataclasses.replace(registry.get("kwyk-bwn-multi"), files=tuple(scattered[0]))


def test_registered_files_are_located_as_one_folder(card, scattered, monkeypatch) -> None:
    folders = os.pathsep.join(str(path.parent) for path in scattered[1])
    monkeypatch.setenv("KERASNEURO_WEIGHTS", folders)
    paths = locate_weights(card, None)
    assert list(paths) == [""] and contents(paths[""]) == [path.read_bytes() for path in scattered[1]]
    described = describe_weights(card, "", paths[""], given=False)
    assert described["registered"] == "kwyk-bwn-multi: variables.data-00000-of-00001"
    assert described["sha256"] == digest_weights(paths[""])


def test_a_folder_of_the_user_is_recognised(card, fixtures: Path, monkeypatch) -> None:
    model = fixtures / "nobrainer" / "kwyk_bwn_multi"
    assert describe_weights(card, "", model, given=True)["registered"].startswith("user file")
    monkeypatch.setattr(registry, "cards", lambda: (card,))
    described = describe_weights(card, "", model, given=True)
    assert described["registered"] == "kwyk-bwn-multi: variables.data-00000-of-00001"
