"""What the cache holds is listed and proven; cleaning deletes that and never anything else."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kerasneuro import registry
from kerasneuro.errors import InvalidOption, WeightsCorrupt
from kerasneuro.fetching import cache, digest_weights, housekeeping, import_file, savedmodel_folder
from kerasneuro.fetching.housekeeping import check_root, clean, remove_damaged, select
from kerasneuro.fetching.inventory import Entry, damage, entries, linked_folders
from kerasneuro.registry import Digest, WeightFile

MakeFile = Callable[..., WeightFile]
LONG_AGO = (1_000_000_000, 1_000_000_000)


@pytest.fixture
def file(make_file: MakeFile, monkeypatch: pytest.MonkeyPatch) -> WeightFile:
    """Register one sample, "tiny"."""
    record = make_file()
    sample = replace(registry.samples()["t1-group-average"], name="tiny", file=record)
    monkeypatch.setattr(registry, "samples", lambda: {"tiny": sample})
    return record


@pytest.fixture
def cached(file: WeightFile, tmp_path: Path, content: bytes) -> Path:
    """Put the registered file into the cache; gives its folder there."""
    mine = tmp_path / "mine.bin"
    mine.write_bytes(content)
    return import_file(mine, file).parent


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Register a SavedModel published with MD5 digests, and put it into the cache; gives its folder there."""
    files, paths = [], []
    for name in ("saved_model.pb", "variables.data-00000-of-00001", "variables.index"):
        content = name.encode() * 50
        digest = Digest("md5", hashlib.md5(content, usedforsecurity=False).hexdigest())
        files.append(WeightFile(name, "", "savedmodel", len(content), digest))
        (tmp_path / name).write_bytes(content)
        paths.append(import_file(tmp_path / name, files[-1]))
    card = replace(registry.get("kwyk-bwn"), files=tuple(files))
    monkeypatch.setattr(registry, "cards", lambda: (card,))
    return savedmodel_folder(files, paths)


def fill(root: Path, file: WeightFile) -> None:
    """Add a converted file, an old and a young partial file, and a clone with read-only content."""
    assert file.digest is not None
    made = root / "converted" / f"{file.digest.value}-1" / "family.h5"
    part = cache.part_path(file)
    old = root / "tmp" / "wheel-abc" / "some.whl"
    content = root / "datasets" / "set-0123" / ".git" / "annex" / "objects" / "KEY"
    for path in (made, part, part.with_name(part.name + ".json"), old, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    os.utime(old.parent, LONG_AGO)
    content.chmod(0o444)
    content.parent.chmod(0o555)


def of_kind(root: Path, kind: str) -> list[Entry]:
    return [entry for entry in entries(root) if entry.kind == kind]


def test_everything_is_listed(cached: Path, file: WeightFile, cache_folder: Path, content: bytes) -> None:
    fill(cache_folder, file)
    (weights,) = of_kind(cache_folder, "weights")
    assert (weights.path, weights.files) == (cached, (cached / file.name,))
    assert (weights.models, weights.digest) == (("tiny",), str(file.digest))
    assert (weights.name, weights.bytes) == (file.name, len(content))
    (converted,) = of_kind(cache_folder, "converted")
    assert (converted.name, converted.models, converted.bytes) == ("family.h5", ("tiny",), 5)
    part, wheel = sorted(of_kind(cache_folder, "partial"), key=lambda entry: entry.path.name)
    assert (part.models, part.bytes, part.busy) == (("tiny",), 10, False)
    assert (wheel.path.name, wheel.models, wheel.bytes, wheel.busy) == ("wheel-abc", (), 5, False)
    (dataset,) = of_kind(cache_folder, "dataset")
    assert (dataset.name, dataset.bytes) == ("set-0123", 5)


def test_absent_cache_is_empty(cache_folder: Path) -> None:
    assert entries(cache_folder) == [] and clean([]) == []
    assert not cache_folder.exists()


def test_savedmodel_and_its_converted_file_are_known(bundle: Path, cache_folder: Path) -> None:
    (entry,) = of_kind(cache_folder, "savedmodel")
    assert (entry.path, entry.models) == (bundle, ("kwyk-bwn",))
    assert entry.bytes == 0  # All of it is shared with the weights by hard links.
    assert damage(entry) is None
    made = cache_folder / "converted" / f"{digest_weights(bundle)}-1" / "kwyk.h5"
    made.parent.mkdir(parents=True)
    made.write_bytes(b"1")
    assert of_kind(cache_folder, "converted")[0].models == ("kwyk-bwn",)
    index = bundle / "variables" / "variables.index"
    index.unlink()
    index.write_bytes(b"other")
    assert "variables.index" in (damage(entry) or "")


def test_damage_behind_an_unchanged_record_is_found(
    cached: Path, file: WeightFile, cache_folder: Path, content: bytes
) -> None:
    path = cached / file.name
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(content[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.look_up(file) == path  # Size and time are the same: the record is believed.
    (entry,) = of_kind(cache_folder, "weights")
    assert "expected" in (damage(entry) or "")
    with pytest.raises(WeightsCorrupt):
        cache.look_up(file)


def test_no_digest_means_no_verdict(cached: Path, file: WeightFile, cache_folder: Path) -> None:
    fill(cache_folder, file)
    for kind in ("converted", "partial", "dataset"):
        with pytest.raises(LookupError):
            damage(of_kind(cache_folder, kind)[0])


def test_only_what_is_damaged_under_the_lock_is_removed(
    cached: Path, file: WeightFile, cache_folder: Path, tmp_path: Path
) -> None:
    chosen = of_kind(cache_folder, "weights")
    ((_, reason),) = remove_damaged(chosen)
    assert reason is not None and "intact" in reason and (cached / file.name).exists()
    (cached / file.name).unlink()
    (cached / file.name).write_bytes(b"damaged")
    assert remove_damaged(chosen) == [(chosen[0], None)]
    assert not cached.exists()


# --- cleaning ------------------------------------------------------------------------------------------


def test_everything_goes_but_tag_locks_and_strangers(
    cached: Path, file: WeightFile, cache_folder: Path, tmp_path: Path
) -> None:
    fill(cache_folder, file)
    (cache_folder / "my notes.txt").write_text("mine")
    outcome = clean(entries(cache_folder))
    assert len(outcome) >= 5 and all(reason is None for _, reason in outcome)
    assert entries(cache_folder) == []
    left = {path.name for path in cache_folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left == {"CACHEDIR.TAG", "my notes.txt"}
    assert (tmp_path / "mine.bin").exists()


def test_kinds_and_names(cached: Path, file: WeightFile, cache_folder: Path) -> None:
    fill(cache_folder, file)
    found = entries(cache_folder)
    assert {entry.kind for entry in select(found, names=["tiny"])} == {"weights", "converted", "partial"}
    assert select(found, names=["deepbet"]) == []
    clean(select(found, kinds=["converted", "dataset"]))
    assert {entry.kind for entry in entries(cache_folder)} == {"weights", "partial"}
    assert cached.exists()


def test_linked_file_of_the_user_survives(file: WeightFile, tmp_path: Path, content: bytes) -> None:
    mine = tmp_path / "mine.bin"
    mine.write_bytes(content)
    mine.chmod(0o640)
    path = import_file(mine, file, link=True)
    assert path.samefile(mine)
    clean(entries(cache.cache_directory()))
    assert not path.exists()
    assert mine.read_bytes() == content and mine.stat().st_mode & 0o777 == 0o640


@pytest.fixture
def running(file: WeightFile) -> Iterator[None]:
    """Hold the lock of the file in another process, as its transfer does."""
    code = (
        "import sys\nfrom kerasneuro.fetching import cache\n"
        f"with cache.hold({file.digest.value!r}, 'it'):\n    print(flush=True)\n    sys.stdin.read()"  # type: ignore[union-attr]
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate()


def test_running_transfer_is_left_alone(
    cached: Path, file: WeightFile, cache_folder: Path, running: None
) -> None:
    fill(cache_folder, file)
    kept = {entry.path.name for entry, reason in clean(entries(cache_folder)) if reason}
    assert kept == {cached.name, cache.part_path(file).name}
    assert (cached / file.name).exists() and cache.part_path(file).exists()


def test_young_files_without_a_lock_are_left_alone(cached: Path, cache_folder: Path) -> None:
    (cache_folder / "tmp" / "wheel-xyz").mkdir()
    ((entry, reason),) = clean(of_kind(cache_folder, "partial"))
    assert entry.path.exists() and reason is not None and "hour" in reason


def test_what_cannot_be_deleted_is_named_and_the_rest_goes(
    cached: Path, file: WeightFile, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache_folder, file)

    def refuse(path: Path) -> None:
        if path == cached / file.name:
            raise PermissionError(13, "Permission denied")
        path.unlink()

    monkeypatch.setattr(housekeeping, "delete_file", refuse)
    kept = [(entry.path, reason) for entry, reason in clean(entries(cache_folder)) if reason]
    assert kept == [(cached, "cannot be deleted: Permission denied")]
    assert [entry.kind for entry in entries(cache_folder)] == ["weights"]


# --- never anything else -------------------------------------------------------------------------------


def spoil_root(case: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tag = root / "CACHEDIR.TAG"
    if case == "home":
        monkeypatch.setenv("HOME" if os.name != "nt" else "USERPROFILE", str(root))
    elif case == "above home":
        monkeypatch.setenv("HOME" if os.name != "nt" else "USERPROFILE", str(root / "weights"))
    elif case == "no tag":
        tag.unlink()
    elif case == "other tag":
        tag.write_text(
            "Signature: 8a477f597d28d172789f06886806bc55\n# This folder belongs to another program.\n"
        )
    elif case == "linked tag":
        tag.rename(root.parent / "tag")
        tag.symlink_to(root.parent / "tag")
    elif case == "git tree":
        (root / ".git").mkdir()
    elif case == "in a git tree":
        (root.parent / ".git").write_text("gitdir: elsewhere")
    else:
        place = root.parent / "elsewhere" / "folder"
        place.parent.mkdir()
        root.rename(place)
        root.symlink_to(place)


CASES = ["home", "above home", "no tag", "other tag", "linked tag", "git tree", "in a git tree", "link"]


@pytest.mark.parametrize("case", CASES)
def test_suspicious_root_is_refused(
    cached: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    check_root(cache_folder)
    found = entries(cache_folder)
    spoil_root(case, cache_folder, monkeypatch)
    before = sorted(cache_folder.resolve().rglob("*"))
    with pytest.raises(InvalidOption, match="Nothing is deleted below"):
        clean(found)
    assert sorted(cache_folder.resolve().rglob("*")) == before


def test_root_of_the_file_system_is_refused() -> None:
    with pytest.raises(InvalidOption, match="root of the file system"):
        check_root(Path(Path.cwd().anchor))


def test_link_beside_the_cache_is_accepted(
    cached: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = cache_folder.with_name("other name")
    other.symlink_to(cache_folder)
    monkeypatch.setenv("KERASNEURO_CACHE", str(other))
    assert [reason for _, reason in clean(entries(other))] == [None]
    assert not cached.exists()


@pytest.mark.parametrize("name", ["weights", "converted", "tmp", "datasets", "savedmodels", "records"])
def test_linked_folder_is_neither_listed_nor_deleted(
    cached: Path, cache_folder: Path, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    (outside / "a" / "b" / "c").mkdir(parents=True)
    (outside / "a" / "b" / "c" / "d.h5").write_bytes(b"mine")
    if (cache_folder / name).exists():
        (cache_folder / name).rename(tmp_path / "moved")
    (cache_folder / name).symlink_to(outside)
    clean(entries(cache_folder))
    assert linked_folders(cache_folder) == [cache_folder / name]
    assert (outside / "a" / "b" / "c" / "d.h5").read_bytes() == b"mine"


def test_links_inside_are_removed_and_not_followed(
    cached: Path, file: WeightFile, cache_folder: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.h5").write_bytes(b"mine")
    outside.chmod(0o750)
    fill(cache_folder, file)
    clone = cache_folder / "datasets" / "set-0123"
    places = (clone / "link", cached / "linked.h5", cache_folder / "tmp" / "link")
    places[0].symlink_to(outside)
    places[1].symlink_to(outside / "mine.h5")
    places[2].symlink_to(outside)
    os.utime(places[2], LONG_AGO, follow_symlinks=False)
    assert all(reason is None for _, reason in clean(entries(cache_folder)))
    assert not any(os.path.lexists(path) for path in places)
    assert (outside / "mine.h5").read_bytes() == b"mine" and outside.stat().st_mode & 0o777 == 0o750


def test_folder_that_becomes_a_link_meanwhile_is_not_followed(
    cached: Path, file: WeightFile, cache_folder: Path, tmp_path: Path
) -> None:
    found = of_kind(cache_folder, "weights")
    (cache_folder / "weights").rename(tmp_path / "outside")
    (cache_folder / "weights").symlink_to(tmp_path / "outside")
    ((_, reason),) = clean(found)
    assert reason == "lies outside the cache"
    assert len(list((tmp_path / "outside").rglob(file.name))) == 1
