"""The project's own files agree with each other and hold nothing that belongs to one machine."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import kerasneuro

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
MOST_BYTES = 60_000_000
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def data_files() -> list[str]:
    return sorted(path.relative_to(DATA).as_posix() for path in DATA.rglob("*") if path.is_file())


def noticed_patterns() -> list[str]:
    text = (DATA / "NOTICE").read_text(encoding="utf-8")
    return re.findall(r"`([\w.*?/\[\]-]+/[\w.*?/\[\]-]+)`", text)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)


def test_reference_files_stay_small() -> None:
    assert 0 < sum((DATA / name).stat().st_size for name in data_files()) < MOST_BYTES


def test_notice_names_source_of_every_reference_file() -> None:
    patterns = noticed_patterns()
    unnamed = [
        name
        for name in data_files()
        if name != "NOTICE" and not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    ]
    assert unnamed == []


def test_no_text_belongs_to_one_machine() -> None:
    answer = subprocess.run(
        [sys.executable, "tools/check_text.py"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (answer.returncode, answer.stdout) == (0, "")


@pytest.mark.parametrize(
    "line", ["see /" + "work/notes.txt", "cd /" + "root/thing", "https://py" + "pi.org/simple"]
)
def test_text_of_one_machine_is_found(tmp_path: Path, line: str) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "notes.md").write_text(f"fine\n{line}\n")
    answer = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "check_text.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert answer.stdout.startswith("notes.md:2: ")


def test_version_is_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {kerasneuro.__version__}\n" in citation
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_all_holds_every_extra_but_dev_and_hippocampus() -> None:
    extras = PROJECT["optional-dependencies"]
    named = re.search(r"\[(.*)\]", extras["all"][0])
    assert named is not None
    assert set(named.group(1).split(",")) == set(extras) - {"all", "dev", "hippocampus"}


def test_no_requirement_is_pinned_exactly() -> None:
    extras = PROJECT["optional-dependencies"].values()
    requirements = [*PROJECT["dependencies"], *(item for extra in extras for item in extra)]
    assert [item for item in requirements if re.search(r"(?<![<>!])==\s*\d", item.split(";")[0])] == []


def test_import_loads_no_backend_and_no_array_library() -> None:
    heavy = "keras tensorflow jax torch openvino numpy scipy nibabel h5py pandas"
    answer = run_python(
        "import sys, kerasneuro; kerasneuro.list_models();"
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    assert (answer.returncode, answer.stdout.strip()) == (0, "[]"), answer.stderr


def test_generated_documents_are_current() -> None:
    answer = subprocess.run(
        [sys.executable, "docs/build.py", "--check"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
