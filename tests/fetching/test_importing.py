"""Files of a folder are recognised by their content and come into the cache; the folder stays as it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kerasneuro.errors import FetchFailed, InvalidOption, WeightsCorrupt
from kerasneuro.fetching import cache, ensure, find_local, savedmodel_folder
from kerasneuro.fetching.digest import digest_file
from kerasneuro.fetching.importing import import_folder
from kerasneuro.registry import Digest, WeightFile

MakeFile = Callable[..., WeightFile]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "stick"
    (target / "deep" / "inside").mkdir(parents=True)
    return target


@pytest.fixture
def mine(folder: Path, content: bytes) -> Path:
    path = folder / "deep" / "inside" / "no name.bin"
    path.write_bytes(content)
    path.chmod(0o640)
    return path


def test_file_is_linked_whatever_its_name(
    folder: Path, mine: Path, make_file: MakeFile, content: bytes
) -> None:
    before = mine.stat()
    ((item,), others) = import_folder(folder, [make_file()])
    assert (item.state, item.source, item.path) == ("linked", mine, cache.path_for(make_file()))
    assert others == [] and item.path.samefile(mine)
    after = mine.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert ensure(make_file(), offline=True) == item.path and mine.read_bytes() == content


def test_file_is_copied_where_links_are_not_possible(
    folder: Path, mine: Path, make_file: MakeFile, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(cache.os, "link", refuse)
    ((item,), _) = import_folder(folder, [make_file()])
    assert item.state == "copied" and not item.path.samefile(mine)
    assert item.path.read_bytes() == mine.read_bytes() == content
    assert item.path.stat().st_mode & 0o222 == 0 and mine.stat().st_mode & 0o777 == 0o640


def test_second_copy_is_not_needed(folder: Path, mine: Path, make_file: MakeFile, content: bytes) -> None:
    (folder / "zz.bin").write_bytes(content)
    imported, _ = import_folder(folder, [make_file()])
    assert sorted(item.state for item in imported) == ["linked", "not needed"]
    assert [item.state for item in import_folder(folder, [make_file()])[0]] == ["not needed"] * 2


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "xxh3_64", "git-blob"])
def test_size_may_be_unpublished(folder: Path, mine: Path, make_file: MakeFile, algorithm: str) -> None:
    file = make_file(bytes=None, digest=Digest(algorithm, digest_file(mine, algorithm)))
    (folder / "empty").touch()
    ((item,), others) = import_folder(folder, [file, make_file(content=b"other")])
    assert item.source == mine and find_local(file) == item.path
    assert others == [(folder / "empty", "is not registered, or not asked for")]


def test_what_is_not_wanted_is_passed_over(folder: Path, make_file: MakeFile, content: bytes) -> None:
    (folder / "damaged.h5").write_bytes(content[::-1])
    (folder / "short.h5").write_bytes(content[:-1])
    (folder / "dangling.h5").symlink_to("nowhere")
    (folder / ".git").mkdir()
    (folder / ".git" / "object").write_bytes(content)
    imported, others = import_folder(folder, [make_file()])
    assert imported == []
    assert sorted(path.name for path, _ in others) == ["damaged.h5", "dangling.h5", "short.h5"]
    assert find_local(make_file()) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipe_is_not_opened(folder: Path, make_file: MakeFile) -> None:
    os.mkfifo(folder / "pipe")
    assert import_folder(folder, [make_file(bytes=None)]) == ([], [])


def test_dataset_of_links_is_read(folder: Path, tmp_path: Path, make_file: MakeFile, content: bytes) -> None:
    annex = tmp_path / "objects" / "KEY"
    annex.parent.mkdir()
    annex.write_bytes(content)
    (folder / "w.h5").symlink_to(annex)
    ((item,), _) = import_folder(folder, [make_file()])
    assert item.state == "linked" and not item.path.is_symlink() and item.path.samefile(annex)


def test_damaged_copy_in_the_cache_is_replaced(
    folder: Path, mine: Path, make_file: MakeFile, content: bytes
) -> None:
    path = cache.path_for(make_file())
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    ((item,), _) = import_folder(folder, [make_file()])
    assert item.state == "linked" and path.read_bytes() == content


def test_later_edit_in_place_is_noticed_and_the_file_kept(
    folder: Path, mine: Path, make_file: MakeFile
) -> None:
    import_folder(folder, [make_file()])
    mine.write_bytes(b"edited")
    with pytest.raises(WeightsCorrupt):
        cache.look_up(make_file())
    cache.remove(make_file())
    assert mine.read_bytes() == b"edited" and mine.stat().st_mode & 0o777 == 0o640


def test_partial_file_of_a_transfer_is_never_a_link(
    folder: Path, mine: Path, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    part = cache.part_path(make_file())

    def die(*_: object, **__: object) -> None:
        assert not part.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "install", die)
    with pytest.raises(KeyboardInterrupt):
        import_folder(folder, [make_file()])
    assert list(part.parent.iterdir()) == [] and mine.read_bytes() == content


def test_savedmodel_comes_file_by_file(folder: Path) -> None:
    files = []
    for name in ("saved_model.pb", "variables.data-00000-of-00001", "variables.index"):
        content = name.encode() * 50
        digest = Digest("md5", hashlib.md5(content, usedforsecurity=False).hexdigest())
        files.append(WeightFile(name, "", "savedmodel", len(content), digest))
        (folder / f"renamed-{len(files)}").write_bytes(content)
    imported, others = import_folder(folder, files)
    assert [item.state for item in imported] == ["linked"] * 3 and others == []
    top = savedmodel_folder(files, [ensure(file, offline=True) for file in files])
    assert (top / "saved_model.pb").is_file() and (top / "variables" / "variables.index").is_file()


def test_no_folder(tmp_path: Path, make_file: MakeFile) -> None:
    with pytest.raises(InvalidOption, match="is not a folder"):
        import_folder(tmp_path / "absent", [make_file()])


def test_cache_that_cannot_be_written(
    folder: Path, mine: Path, make_file: MakeFile, cache_folder: Path, content: bytes
) -> None:
    cache_folder.write_text("a file where the folder should be")
    with pytest.raises(FetchFailed, match="KERASNEURO_CACHE"):
        import_folder(folder, [make_file()])
    assert mine.read_bytes() == content
