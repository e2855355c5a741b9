"""The search order, the switches, and the cache."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading

import pytest

from kerasneuro.errors import FetchFailed, InvalidOption, WeightsCorrupt, WeightsNotFound
from kerasneuro.fetching import cache, cache_directory, datalad, ensure, find_local, import_file
from kerasneuro.fetching import digest as digest_module
from kerasneuro.registry import Source

DATASET = Source(
    kind="datalad", dataset="a/b", url="https://example.org/a/b", commit="0" * 40, path="model/1.0/w.h5"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    target = tmp_path / "mine"
    target.mkdir()
    monkeypatch.setenv("KERASNEURO_WEIGHTS", os.pathsep.join([str(tmp_path / "absent"), str(target)]))
    return target


# --- folders -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["weights.h5", "model/1.0/w.h5"])
def test_a_search_folder_is_used_by_dataset_path_and_by_name(folder, make_file, content, inside):
    path = folder / inside
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    file = make_file(DATASET)
    assert ensure(file) == path
    assert find_local(file) == path


def test_freesurfer_models_are_used(tmp_path, monkeypatch, make_file, content):
    monkeypatch.setenv("FREESURFER_HOME", str(tmp_path / "freesurfer"))
    models = tmp_path / "freesurfer" / "models"
    models.mkdir(parents=True)
    (models / "weights.h5").write_bytes(content)
    assert ensure(make_file()) == models / "weights.h5"


def test_a_wrong_file_in_a_folder_is_named_and_not_used(folder, make_file, server, content, fault_table):
    wrong = folder / "weights.h5"
    wrong.write_bytes(content[::-1])
    assert ensure(make_file(server.address("good"))) != wrong
    other = make_file(server.address("404"), content=content + b"1")
    with pytest.raises(FetchFailed) as caught:
        ensure(other)
    assert f"{wrong}: was not used" in str(caught.value)
    assert "absent" in str(caught.value)
    assert wrong.read_bytes() == content[::-1]
    fault_table("wrong bytes", "folder", "left alone and named, then the next source")
    fault_table("a search folder does not exist", "folder", "named in the error, then the next source")


def test_a_folder_file_that_cannot_be_read(folder, make_file, content, monkeypatch, fault_table):
    path = folder / "weights.h5"
    path.write_bytes(content)

    def refuse(name, *_args, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(digest_module, "digest_file", refuse)
    monkeypatch.setattr(cache, "verify", lambda path, file: refuse(path))
    with pytest.raises(WeightsNotFound, match="cannot be read: Permission denied"):
        ensure(make_file())
    fault_table("a file cannot be read", "folder", "named in the error, then the next source")


def test_a_folder_file_is_hashed_once(folder, make_file, content, monkeypatch):
    (folder / "weights.h5").write_bytes(content)
    file = make_file()
    ensure(file)
    monkeypatch.setattr(digest_module, "digest_file", lambda *_: pytest.fail("hashed again"))
    assert ensure(file) == folder / "weights.h5"


# --- switches ------------------------------------------------------------------------------------------


def test_nothing_is_asked_offline(server, make_file, monkeypatch, cache_folder, fault_table):
    monkeypatch.setenv("KERASNEURO_OFFLINE", "1")
    file = make_file(server.address("good"))
    with pytest.raises(WeightsNotFound, match=r"was not asked: offline") as caught:
        ensure(file)
    assert str(file) in str(caught.value) and str(cache.path_for(file)) in str(caught.value)
    assert server.requests == [] and not cache_folder.exists()
    fault_table("offline", "any", "not asked; the error says where to put the file")
    ensure(file, offline=False)
    assert ensure(file).exists()
    fault_table("offline", "cache", "served")


@pytest.mark.parametrize("policy", ["folder", "datalad"])
def test_the_source_can_be_limited(server, make_file, monkeypatch, policy):
    monkeypatch.setenv("KERASNEURO_SOURCE", policy)
    with pytest.raises(WeightsNotFound, match=f"limited to '{policy}'"):
        ensure(make_file(server.address("good")))
    assert server.requests == []
    assert ensure(make_file(server.address("good")), source="https").exists()


def test_an_unknown_policy_is_refused(make_file):
    with pytest.raises(InvalidOption, match="auto, datalad, https, folder"):
        ensure(make_file(), source="ftp")


def test_datalad_is_skipped_with_a_reason(server, make_file, monkeypatch, fault_table):
    monkeypatch.setattr(datalad, "find_program", lambda name: None)
    with pytest.raises(WeightsNotFound, match="needs the datalad extra"):
        ensure(make_file(DATASET))
    assert ensure(make_file(DATASET, server.address("good"))).exists()
    fault_table("git-annex is not installed", "datalad", "one sentence, then the next source")


def test_a_file_without_source_or_digest(make_file):
    with pytest.raises(WeightsNotFound, match="no source is registered"):
        ensure(make_file())
    with pytest.raises(WeightsCorrupt, match="without a digest"):
        ensure(make_file(digest=None))


def test_a_file_laid_into_the_cache_by_hand_is_found(make_file, content):
    file = make_file()
    assert find_local(file) is None
    path = cache.path_for(file)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert ensure(file) == path == find_local(file)


# --- cache ---------------------------------------------------------------------------------------------


def test_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("KERASNEURO_CACHE", str(tmp_path / "here"))
    assert cache_directory() == tmp_path / "here"
    monkeypatch.delenv("KERASNEURO_CACHE")
    assert cache_directory().name == "kerasneuro"


def test_a_hit_neither_asks_nor_hashes(server, make_file, monkeypatch):
    file = make_file(server.address("good"))
    path = ensure(file)
    record = json.loads(path.with_name("weights.h5.ok").read_text())
    assert record == {
        "size": file.bytes,
        "mtime_ns": path.stat().st_mtime_ns,
        "digest": f"sha256 {file.digest.value}",
    }
    monkeypatch.setattr(digest_module, "digest_file", lambda *_: pytest.fail("hashed again"))
    assert ensure(file) == path
    assert server.requests == ["good"]


@pytest.mark.parametrize("damage", ["absent", "unreadable", "older"])
def test_without_a_fitting_record_the_file_is_hashed_and_recorded_again(server, make_file, damage):
    file = make_file(server.address("good"))
    path = ensure(file)
    record = path.with_name("weights.h5.ok")
    good = record.read_text()
    if damage == "absent":
        record.unlink()
    elif damage == "unreadable":
        record.write_text("{")
    else:
        os.utime(path, ns=(1, 1))
    assert ensure(file) == path
    assert record.exists() and (record.read_text() == good) == (damage != "older")
    assert server.requests == ["good"]


def spoil(path):
    path.chmod(0o644)
    path.write_bytes(b"damaged")


def test_a_damaged_copy_is_removed_and_fetched_again(server, make_file, content, fault_table):
    file = make_file(server.address("good"))
    path = ensure(file)
    spoil(path)
    with pytest.warns(UserWarning, match="Removed a damaged file"):
        assert ensure(file).read_bytes() == content
    assert server.requests == ["good", "good"]
    fault_table("damaged copy", "cache", "removed with a warning and fetched again")


def test_a_damaged_copy_without_a_source(server, make_file, fault_table):
    file = make_file(server.address("good"))
    path = ensure(file)
    spoil(path)
    with pytest.warns(UserWarning, match="not used"):
        assert find_local(file) is None
    with (
        pytest.warns(UserWarning, match="Removed a damaged file"),
        pytest.raises(WeightsCorrupt, match="held a damaged copy"),
    ):
        ensure(file, offline=True)
    assert not path.exists()
    fault_table("damaged copy, offline", "cache", 'removed and refused: "held a damaged copy"')


def test_a_cache_that_cannot_be_written(server, make_file, cache_folder, fault_table):
    cache_folder.write_text("a file where the folder should be")
    with pytest.raises(FetchFailed, match=r"cannot be written.*KERASNEURO_CACHE") as caught:
        ensure(make_file(server.address("good")))
    assert str(cache_folder) in str(caught.value)
    assert server.requests == []
    fault_table("the cache folder is a file", "any", "one sentence that names it, before any transfer")


def test_a_read_only_cache(server, make_file, monkeypatch, fault_table):
    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(FetchFailed, match=r"cannot be written .*Read-only file system.*KERASNEURO_CACHE"):
        ensure(make_file(server.address("good")))
    assert server.requests == []
    fault_table("read-only cache", "any", "one sentence that names it, before any transfer")


def test_a_read_only_cache_beside_a_search_folder(folder, make_file, content, monkeypatch, fault_table):
    (folder / "weights.h5").write_bytes(content)

    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, "Read-only file system")

    hashed, verify = [], cache.verify
    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(cache, "verify", lambda path, file: (hashed.append(path), verify(path, file)))
    assert ensure(make_file()) == ensure(make_file()) == folder / "weights.h5" and len(hashed) == 2
    fault_table("read-only cache", "folder", "served, but hashed again each time")


def test_a_read_only_cache_still_serves(server, make_file, monkeypatch, fault_table):
    file = make_file(server.address("good"))
    path = ensure(file)
    path.with_name("weights.h5.ok").unlink()

    def refuse(*_args, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(cache.os, "replace", refuse)
    assert ensure(file) == path
    fault_table("read-only cache", "cache", "served")


def test_a_full_disk(server, make_file, monkeypatch, cache_folder):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kerasneuro.fetching.receive.os.fsync", full)
    with pytest.raises(FetchFailed, match=r"has no space left for weights\.h5 \(307,200 bytes"):
        ensure(make_file(server.address("good")))
    assert list((cache_folder / "tmp").iterdir()) == []


@pytest.mark.parametrize("kind", ["https", "git-blob"])
def test_a_disk_that_fills_up(ranges, make_file, content, cache_folder, full_disk, fault_table, kind):
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    place = {"repository": ranges.url, "commit": "v1", "path": "f", "blob": blob}
    file = make_file(ranges.address("f") if kind == "https" else Source(kind=kind, **place))
    with pytest.raises(FetchFailed, match=r"has no space left for .*free some space or set KERASNEURO_CACHE"):
        ensure(file)
    assert list((cache_folder / "tmp").iterdir()) == []
    fault_table("disk full", kind, "one sentence that names the folder; nothing is kept")


@pytest.mark.parametrize("name", ["../evil.h5", "sub/evil.h5"])
def test_a_name_cannot_leave_the_cache(make_file, fault_table, name):
    with pytest.raises(WeightsCorrupt, match="not a valid registry entry"):
        cache.path_for(make_file(name=name))
    fault_table("file name with a path", "cache", "refused")


def test_two_threads_make_one_transfer(server, make_file, content):
    file = make_file(server.address("dawdle"))
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(ensure(file))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1 and len(paths) == 4
    assert paths[0].read_bytes() == content
    assert server.requests == ["dawdle"]


def test_eight_processes_make_one_transfer(server, make_file, fault_table):
    file = make_file(server.address("dawdle"))
    code = (
        "from kerasneuro.fetching import ensure\n"
        "from kerasneuro.registry import Digest, Source, WeightFile\n"
        f"print(ensure({file!r}))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    outputs = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert outputs == {str(cache.path_for(file))}
    assert server.requests == ["dawdle"]
    fault_table("eight processes at once", "https", "one transfer, all succeed")


# --- import --------------------------------------------------------------------------------------------


def test_a_users_copy_is_imported_after_verification(make_file, tmp_path, content):
    mine = tmp_path / "renamed.bin"
    mine.write_bytes(content)
    file = make_file()
    path = import_file(mine, file)
    assert path == cache.path_for(file) == ensure(file) == import_file(mine, file)
    assert mine.read_bytes() == content
    mine.write_bytes(b"other")
    with pytest.raises(WeightsCorrupt, match=r"renamed\.bin"):
        import_file(mine, file)
