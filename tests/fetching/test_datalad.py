"""Real datasets of git-annex and DataLad on this computer: web, directory remote, RIA store, faults."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from kerasneuro.errors import FetchFailed
from kerasneuro.fetching import annex, cache, datalad, digest_file, ensure, find_local
from kerasneuro.fetching.annex_environment import call_environment, find_program, search_path
from kerasneuro.fetching.annex_reasons import one_sentence
from kerasneuro.fetching.receive import SourceFailed
from kerasneuro.registry import Source

INSIDE = "model/1.0/weights.h5"
HAS_DATALAD = datalad._datalad_is_installed()
pytestmark = pytest.mark.skipif(find_program("git-annex") is None, reason="git-annex is not installed")
needs_datalad = pytest.mark.skipif(not HAS_DATALAD, reason="DataLad is not installed")
BOTH = [pytest.param("datalad", marks=needs_datalad), "git-annex"]


def git(folder, *arguments, **options) -> str:
    identity = {f"GIT_{a}_{b}": "test@localhost" for a in ("AUTHOR", "COMMITTER") for b in ("NAME", "EMAIL")}
    environment = {**os.environ, **identity, "PATH": search_path()}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, **options
    ).stdout


@pytest.fixture
def tool(request, monkeypatch):
    """Which programs fetch; plain git-annex (quick to start) where a test does not say."""
    name = getattr(request, "param", "git-annex")
    monkeypatch.setattr(datalad, "_datalad_is_installed", lambda: name == "datalad")
    return name


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "annex.retry-delay")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "0")


@pytest.fixture
def loopback(monkeypatch):
    """Open this computer's own addresses, which git-annex refuses and the library leaves refused."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    monkeypatch.setenv("GIT_CONFIG_KEY_1", "annex.security.allowed-ip-addresses")
    monkeypatch.setenv("GIT_CONFIG_VALUE_1", "127.0.0.1")


@pytest.fixture(scope="module")
def empty_dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty")
    git(folder, "init", "-q")
    git(folder, "annex", "init", "-q")
    (folder / ".datalad").mkdir()
    (folder / ".datalad" / "config").write_text(f'[datalad "dataset"]\n\tid = {uuid.uuid4()}\n')
    git(folder, "add", ".datalad")
    git(folder, "commit", "-qm", "Create")
    return folder


@pytest.fixture
def origin(empty_dataset, tmp_path):
    return Path(shutil.copytree(empty_dataset, tmp_path / "origin", symlinks=True))


def add_content(folder, content, unlock=False):
    target = folder / INSIDE
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink():
        target.unlink()
    target.write_bytes(content)
    git(folder, "annex", "add", "-q", INSIDE)
    if unlock:
        git(folder, "annex", "unlock", "-q", INSIDE)
    git(folder, "commit", "-qm", "Add weights", "-a")


def add_key(folder, content, *urls, key=None):
    """Register content that is not there, as a published dataset does."""
    key = key or f"SHA256E-s{len(content)}--{hashlib.sha256(content).hexdigest()}.h5"
    git(folder, "annex", "fromkey", "-q", "--force", key, INSIDE)
    for url in urls:
        git(folder, "annex", "registerurl", "-q", key, url)
    git(folder, "commit", "-qm", "Add a key")
    return key


def source_of(folder, **changes) -> Source:
    return Source(kind="datalad", **{"dataset": "a/b", "url": str(folder), "path": INSIDE, **changes})


def reason_of(file, **options) -> str:
    """Return what the failure says about the DataLad source, which must be one sentence."""
    with pytest.raises(FetchFailed) as caught:
        ensure(file, **options)
    text = str(caught.value)
    start = text.index("Tried: DataLad dataset")
    sentence = text[start : text.index(". Put the file into")]
    assert "\n" not in sentence and len(sentence) < 700
    return sentence


def clone_in(cache_folder):
    (clone,) = (cache_folder / "datasets").iterdir()
    return clone


# --- what works ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", BOTH, indirect=True)
def test_from_a_web_remote(tool, origin, server, loopback, make_file, content, cache_folder, fault_table):
    add_key(origin, content, server.address("404"), server.address("good"))
    seen = []
    file = make_file(source_of(origin))
    path = ensure(file, progress=lambda done, total: seen.append((done, total)))
    assert path == cache.path_for(file) and path.read_bytes() == content
    assert seen and all(0 <= done <= len(content) == total for done, total in seen)
    stored = clone_in(cache_folder) / INSIDE
    assert path.stat().st_ino == stored.stat().st_ino, "the content is stored once"
    fault_table("first address of a file is gone", tool, "the next address is asked")


@needs_datalad
@pytest.mark.parametrize("tool", ["datalad"], indirect=True)
def test_one_file_and_never_the_dataset(tool, origin, make_file, content, cache_folder):
    add_content(origin, content)
    (origin / "other.h5").write_bytes(content[1:])
    git(origin, "annex", "add", "-q", "other.h5")
    git(origin, "commit", "-qm", "Add another")
    assert ensure(make_file(source_of(origin)), source="datalad").read_bytes() == content
    other = clone_in(cache_folder) / "other.h5"
    assert other.is_symlink() and not other.exists()


def test_a_hit_starts_no_program(tool, origin, make_file, content, monkeypatch):
    add_content(origin, content)
    file = make_file(source_of(origin))
    path = ensure(file)
    monkeypatch.setattr(datalad, "fetch", lambda *_: pytest.fail("asked again"))
    assert ensure(file) == path


def test_an_unlocked_file(tool, origin, make_file, content):
    add_content(origin, content, unlock=True)
    assert git(origin, "show", f"HEAD:{INSIDE}").startswith("/annex/objects/")
    assert ensure(make_file(source_of(origin))).read_bytes() == content


@pytest.mark.slow
@needs_datalad
@pytest.mark.parametrize("tool", ["datalad"], indirect=True)
def test_a_ria_store(tool, origin, tmp_path, make_file, content, monkeypatch, fault_table):
    add_content(origin, content)
    store = f"ria+file://{tmp_path / 'store'}"
    script = (
        "import sys; from datalad import api\n"
        "d = api.Dataset(sys.argv[1]); q = {'result_renderer': 'disabled'}\n"
        "d.create_sibling_ria(sys.argv[2], name='ria', new_store_ok=True, alias='w', **q)\n"
        "d.push(to='ria', **q)\n"
    )
    environment = {**os.environ, "PATH": search_path()}
    for role in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{role}_NAME": "t", f"GIT_{role}_EMAIL": "t@localhost"}
    subprocess.run(
        [sys.executable, "-c", script, str(origin), store], env=environment, check=True, capture_output=True
    )
    monkeypatch.setenv("KERASNEURO_DATALAD_SOURCE", f"{store}#~w")
    assert ensure(make_file(source_of("https://example.org/never-asked"))).read_bytes() == content
    fault_table("a site's RIA store in place of the dataset", "datalad", "fetched from it")


def test_a_ria_store_needs_datalad(tool, make_file):
    assert "needs DataLad" in reason_of(make_file(source_of("ria+file:///nowhere#~w")))


def test_without_active_environment_identity_or_home(tool, origin, make_file, content, monkeypatch, tmp_path):
    add_content(origin, content)
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith(("GIT_", "EMAIL", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "of-a-hook"))
    before = dict(os.environ)
    assert ensure(make_file(source_of(origin))).read_bytes() == content
    assert not (home / ".gitconfig").exists() and dict(os.environ) == before


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
def test_a_dataset_of_another_user(tool, origin, make_file, content, monkeypatch, tmp_path):
    add_content(origin, content)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = me\n")
    for folder, _, names in os.walk(origin):
        for name in (".", *names):
            os.chown(os.path.join(folder, name), 12345, 12345, follow_symlinks=False)
    assert ensure(make_file(source_of(origin))).read_bytes() == content
    assert (tmp_path / ".gitconfig").read_text() == "[user]\n\tname = me\n"


def test_the_registered_state_and_not_the_newest(tool, origin, make_file, content):
    add_content(origin, content)
    commit = git(origin, "rev-parse", "HEAD").strip()
    add_content(origin, content[::-1])
    assert ensure(make_file(source_of(origin, commit=commit))).read_bytes() == content


def test_a_file_that_was_added_after_the_clone(tool, origin, make_file, content, cache_folder):
    assert "has no file model/1.0/weights.h5" in reason_of(make_file(source_of(origin)))
    clone = clone_in(cache_folder)
    add_content(origin, content)
    assert ensure(make_file(source_of(origin))).read_bytes() == content
    assert clone_in(cache_folder) == clone


def test_the_dataset_of_a_site_serves_what_it_lists(tool, origin, make_file, content, monkeypatch):
    add_content(origin, content)
    entry = {"path": INSIDE, "digest": {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()}}
    (origin / "weights.json").write_text(json.dumps({"files": [entry]}))
    git(origin, "add", "weights.json")
    git(origin, "commit", "-qm", "List")
    monkeypatch.setenv("KERASNEURO_DATALAD_SOURCE", str(origin))
    assert ensure(make_file("https://example.org/never-asked")).read_bytes() == content


def test_a_working_copy_as_search_folder(origin, make_file, content, monkeypatch, fault_table):
    add_key(origin, content)
    monkeypatch.setenv("KERASNEURO_WEIGHTS", str(origin))
    with pytest.raises(FileNotFoundError, match="placeholder without content"):
        ensure(make_file(source_of("unused")), source="folder")
    fault_table("placeholder without content", "folder", "named in the error (datalad get)")


# --- what fails ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", BOTH, indirect=True)
def test_a_dataset_without_content(tool, origin, make_file, content, fault_table):
    add_key(origin, content)
    sentence = reason_of(make_file(source_of(origin)))
    assert "the dataset knows no place that holds its content" in sentence
    fault_table("dataset without the content", tool, "one sentence, then the next source")


@pytest.mark.parametrize("tool", BOTH, indirect=True)
def test_wrong_bytes(tool, origin, ranges, loopback, make_file, content, fault_table):
    add_key(origin, content, ranges.address("f"))
    ranges.content = content[::-1]
    assert "sent other bytes than the dataset says" in reason_of(make_file(source_of(origin)))
    fault_table("wrong bytes from the web", tool, "refused by the key of the dataset")


def test_a_private_address_stays_refused(tool, origin, ranges, make_file, content, fault_table):
    add_key(origin, content, ranges.address("f"))
    assert "refuses the private address 127.0.0.1" in reason_of(make_file(source_of(origin)))
    assert ranges.requests == []
    fault_table("private network address", tool, "refused by git-annex; the limit is never lifted")


@needs_datalad
@pytest.mark.parametrize("tool", ["datalad"], indirect=True)
def test_a_clone_source_that_is_gone(tool, tmp_path, make_file, cache_folder, fault_table):
    sentence = reason_of(make_file(source_of(tmp_path / "gone")))
    assert "cannot be cloned: it does not exist or is no dataset" in sentence
    assert list((cache_folder / "datasets").iterdir()) == []
    fault_table("clone source is gone", tool, "one sentence, then the next source")


def test_a_directory_remote(tool, origin, tmp_path, make_file, content, cache_folder, fault_table):
    """A place that a site adds to the clone: good, damaged, and without the object that it claims."""
    add_content(origin, content)
    place = tmp_path / "place"
    place.mkdir()
    options = ("type=directory", f"directory={place}", "encryption=none")
    git(origin, "annex", "initremote", "-q", "place", *options)
    git(origin, "annex", "copy", "-q", "--to", "place", INSIDE)
    git(origin, "annex", "drop", "-q", "--force", INSIDE)
    file = make_file(source_of(origin))
    assert "no remote that holds its content can be reached" in reason_of(file)
    clone = clone_in(cache_folder)
    answer = git(clone, "annex", "enableremote", "place", f"directory={place}")
    words = answer.split()
    if "--safe" in words:  # Older versions know no verification.
        git(clone, "annex", "verifyremote", "place", "--safe", words[words.index("--safe") + 1])
    (stored,) = [path for path in place.rglob("*") if path.is_file()]
    stored.chmod(0o600)
    stored.write_bytes(content[::-1])
    assert "sent other bytes than the dataset says" in reason_of(file)
    fault_table("object in a directory remote is damaged", "git-annex", "refused by the key of the dataset")
    stored.write_bytes(content)
    assert ensure(file).read_bytes() == content
    cache.remove(file)
    git(clone, "annex", "drop", "-q", "--force", INSIDE)
    stored.parent.chmod(0o700)
    stored.unlink()
    assert "no remote that holds its content can be reached" in reason_of(file)
    fault_table("object in a directory remote is missing", "git-annex", "one sentence, then the next source")


def test_an_address_without_hash_is_judged_by_the_registered_digest(
    tool, origin, ranges, loopback, make_file, content, cache_folder, fault_table
):
    add_key(origin, content, ranges.address("f"), key=f"URL--{ranges.address('f')}")
    ranges.content = content[::-1]
    assert "holds other bytes than registered" in reason_of(make_file(source_of(origin)))
    assert not (clone_in(cache_folder) / INSIDE).exists(), "the wrong bytes are dropped"
    ranges.content = content
    assert ensure(make_file(source_of(origin))).read_bytes() == content
    fault_table("wrong bytes under a key without hash", "git-annex", "refused by the registered digest")


def test_content_damaged_in_the_clone_is_fetched_again(
    tool, origin, make_file, content, cache_folder, fault_table
):
    add_content(origin, content)
    file = make_file(source_of(origin))
    path = ensure(file)
    path.chmod(0o600)
    path.write_bytes(content[::-1])  # The object in the clone is the same file.
    with pytest.warns(UserWarning, match="Removed a damaged file"):
        assert ensure(file).read_bytes() == content
    fault_table("content damaged on this disk", "git-annex", "removed and fetched again")


def test_https_is_next_in_auto_and_not_asked_in_datalad_mode(tool, origin, server, make_file, content):
    add_key(origin, content)
    file = make_file(source_of(origin), server.address("good"))
    reason_of(file, source="datalad")
    assert server.requests == []
    assert ensure(file).read_bytes() == content


# What the only web address of a file does, and what is said of it; git-annex compares the size first.
WEB_FAULTS = {
    "404": ("the file is gone (404)", "an address failed"),
    "500": ("answers 500 each time", "an address failed"),
    "long": ("longer than registered", "no remote that holds its content can be reached"),
    "page": ("a web page instead of the file", "no remote that holds its content can be reached"),
    "circle": ("redirect loop", "an address failed"),
}


@pytest.mark.parametrize("path", WEB_FAULTS)
def test_web_faults(tool, origin, server, loopback, make_file, content, fault_table, path):
    add_key(origin, content, server.address(path))
    fault, words = WEB_FAULTS[path]
    assert words in reason_of(make_file(source_of(origin)))
    fault_table(fault, tool, f'refused: "{words}"')


def test_a_cut_transfer_is_continued_by_git_annex(
    tool, origin, ranges, loopback, make_file, content, fault_table
):
    add_key(origin, content, ranges.address("f"))
    ranges.cuts = [200_000]
    assert ensure(make_file(source_of(origin))).read_bytes() == content
    fault_table("cut at a byte", tool, "fetched again by git-annex at once")


def test_too_little_space_for_git_annex(
    tool, origin, server, loopback, make_file, content, monkeypatch, fault_table
):
    """git-annex itself keeps a reserve of the disk; a large one is a full disk."""
    add_key(origin, content, server.address("good"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "3")
    monkeypatch.setenv("GIT_CONFIG_KEY_2", "annex.diskreserve")
    monkeypatch.setenv("GIT_CONFIG_VALUE_2", "1 exabyte")
    assert "not enough free space" in reason_of(make_file(source_of(origin)))
    fault_table("disk full", tool, 'refused: "not enough free space"')


def test_an_interrupted_clone_is_removed(tool, origin, make_file, content, cache_folder, fault_table):
    add_content(origin, content)
    source = source_of(origin)
    name = datalad._clone_name(source, datalad.clone_source(source))
    left = cache_folder / "datasets" / f"{name}.tmp-1" / "objects"
    left.mkdir(parents=True)
    left.chmod(0o555)
    assert ensure(make_file(source)).read_bytes() == content
    assert clone_in(cache_folder).name == name
    fault_table("an interrupted clone", "git-annex", "removed and cloned anew")


@needs_datalad
@pytest.mark.parametrize("tool", ["datalad"], indirect=True)
def test_datalad_that_does_not_import(tool, origin, make_file, content, monkeypatch, tmp_path, fault_table):
    add_content(origin, content)
    (tmp_path / "datalad").mkdir()
    (tmp_path / "datalad" / "__init__.py").write_text("raise ImportError('half installed')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {annex.WORKER}".replace(
        "sys.path[:] = {paths!r}", "sys.path[1:] = {paths!r}"
    )
    monkeypatch.setattr(annex, "WORKER", code)
    assert ensure(make_file(source_of(origin))).read_bytes() == content
    fault_table("DataLad does not import", "datalad", "fetched with plain git-annex")


KILLED = """
import sys
from kerasneuro.fetching import datalad, ensure
from kerasneuro.registry import Digest, Source, WeightFile
datalad._datalad_is_installed = lambda: False
print("ready", flush=True)
ensure({file!r})
"""


@pytest.mark.slow
def test_killed_at_random_moments(
    tool, origin, ranges, loopback, make_file, content, monkeypatch, fault_table
):
    """Kills while cloning, while fetching, while handing over; git-annex dies with us."""
    add_key(origin, content, ranges.address("f"))
    ranges.pause = 0.005
    file = make_file(source_of(origin))
    random.seed(7)
    for _ in range(8):
        command = [sys.executable, "-c", KILLED.format(file=file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(random.uniform(0.0, 1.0))
            process.kill()
        found = find_local(file)
        if found is not None:
            assert found.read_bytes() == content
            cache.remove(file)
    monkeypatch.setattr(datalad, "sleep", lambda _seconds: pytest.fail("a transfer has outlived its caller"))
    assert ensure(file).read_bytes() == content
    fault_table("kill -9 at random moments", "git-annex", "continued by the next call; no wrong byte")


# --- a model whose only source is a dataset ------------------------------------------------------------


@needs_datalad
@pytest.mark.parametrize("tool", ["datalad"], indirect=True)
def test_a_model_is_loaded_from_a_dataset_alone(
    tool, origin, make_file, fixtures, monkeypatch, tmp_path, fault_table
):
    """`kerasneuro.load` on an empty cache: with the content in the dataset, and without."""
    import kerasneuro
    from kerasneuro import registry

    content = (fixtures / "nobrainer" / "unet_b1_full.h5").read_bytes()
    add_content(origin, content)
    file = make_file(source_of(origin), content=content, name="unet.h5")
    card = dataclasses.replace(registry.get("nobrainer-brainy"), name="mine", files=(file,))
    monkeypatch.setattr(registry, "_registry", lambda: ({"mine": card}, {}))
    task = kerasneuro.load("mine")
    entry = task.provenance[""]
    assert Path(entry["path"]) == cache.path_for(file) and entry["registered"] == "mine: unet.h5"
    assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert task.model.count_params() > 10_000

    monkeypatch.setenv("KERASNEURO_CACHE", str(tmp_path / "another"))
    git(origin, "annex", "drop", "-q", "--force", INSIDE)
    with pytest.raises(FetchFailed, match="the dataset knows no place that holds its content") as caught:
        kerasneuro.load("mine")
    assert "\n" not in str(caught.value)
    fault_table("only a dataset, without the content", "datalad", "kerasneuro.load says it in one sentence")


# --- parts ---------------------------------------------------------------------------------------------


def test_a_foreign_transfer_is_waited_for(monkeypatch, tmp_path, fault_table):
    waited, answers = [], [SourceFailed(datalad.BUSY)] * 2
    monkeypatch.setattr(datalad, "sleep", waited.append)

    class Busy:
        def get(self, clone, path, progress):
            if answers:
                raise answers.pop()

    datalad._get_patiently(Busy(), tmp_path, "f", None)
    assert waited == [2.0, 2.0]
    answers += [SourceFailed(datalad.BUSY)] * 9
    with pytest.raises(SourceFailed, match="another program"):
        datalad._get_patiently(Busy(), tmp_path, "f", None)
    fault_table("another program fetches the same file", "git-annex", "waited for, then the next source")


def test_a_silent_program_is_ended(monkeypatch, tmp_path, fault_table):
    monkeypatch.setattr(annex, "SILENT_SECONDS", 0.1)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with annex.Program(command, os.environ, tmp_path) as program:
        assert list(program.records()) == []
        assert "was silent" in program.error_text()
    fault_table("the program falls silent", "git-annex", "ended after a while, then the next source")


def test_git_that_does_not_end_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(annex, "CLONE_SECONDS", 0.3)
    alias = "alias.wait=!sleep 60"
    with pytest.raises(SourceFailed, match=r"did not finish within 0\.3 s"):
        annex.run_git(["-c", alias, "wait"], os.environ, tmp_path)


def test_what_the_environment_of_a_call_holds(monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_AUTHOR_NAME", "me")
    with call_environment("https://example.org/x", tmp_path / "clone") as environment:
        assert environment["GIT_AUTHOR_NAME"] == "me"
        assert environment["GIT_TERMINAL_PROMPT"] == "0"
        assert not [name for name in environment if "annex" in name.lower() or "security" in name.lower()]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a\nfailed: Verification of content failed", "a remote sent other bytes than the dataset says"),
        ("Failed to obtain OSF node handle: x", "OSF could not be reached"),
        ("http://h/f download failed: Not Found", "an address failed (Not Found)"),
        ("something  else\n", "something else"),
        ("", "gave no reason"),
    ],
)
def test_one_sentence(text, sentence):
    assert one_sentence(text) == sentence


def test_placeholders_are_no_files(tmp_path):
    from kerasneuro.fetching.digest import holds_content

    pointer, dangling, real = tmp_path / "pointer", tmp_path / "dangling", tmp_path / "real"
    pointer.write_text("/annex/objects/SHA256E-s3--abc.h5\n")
    dangling.symlink_to("nowhere")
    real.write_bytes(b"/annex")
    assert [holds_content(path) for path in (pointer, dangling, real)] == [False, False, True]
    assert len(digest_file(real, "sha256")) == 64
