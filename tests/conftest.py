"""What every test shares: the reference files, a cache of its own, and the rules of the backends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests that can not run under OpenVINO, which computes but does not train: start of the node id -> reason.
OPENVINO_SKIPS: dict[str, str] = {}

OPTIONAL_SKIPS = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of the reference files, one folder per family (``KERASNEURO_FIXTURES``, default tests/data)."""
    folder = Path(os.environ.get("KERASNEURO_FIXTURES") or Path(__file__).parent / "data")
    if not folder.is_dir():
        pytest.exit(f"the reference files are missing: {folder} is not a folder (KERASNEURO_FIXTURES)", 2)
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache, search folders and settings out of the tests, and the tests out of the cache."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("KERASNEURO_WEIGHTS", "KERASNEURO_SOURCE", "KERASNEURO_OFFLINE", "FREESURFER_HOME"):
            patch.delenv(name, raising=False)
        patch.setenv("KERASNEURO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def backend() -> str:
    """Name the backend of this run without importing Keras."""
    return os.environ.get("KERAS_BACKEND") or "keras.json or Keras's default"


def pytest_report_header() -> str:
    return f"backend: {backend()}"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OPTIONAL_SKIPS] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with its reason, what an inference-only backend can not run."""
    if backend() != "openvino":
        return
    for item in items:
        reason = next((why for start, why in OPENVINO_SKIPS.items() if item.nodeid.startswith(start)), None)
        if item.get_closest_marker("training"):
            reason = "OpenVINO computes but does not train"
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.skipped and item.get_closest_marker("optional"):
        item.config.stash[OPTIONAL_SKIPS].append(item.nodeid)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Count the optional tests that had nothing to run on, so that a green run hides nothing."""
    left_out = config.stash[OPTIONAL_SKIPS]
    if left_out:
        terminalreporter.write_line(f"OPTIONAL: {len(left_out)} tests had no program or file to run on")
