"""Run the command line in this process, with small weight files and a real scan."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kerasneuro.cli import main

SMALL = ("--resize", "64", "64", "64", "--block", "32", "32", "32")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        """The lines on stderr apart from progress, which starts with the seconds, and from warnings."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return [line for line in lines if not line.startswith(("[", "fetching ", "kerasneuro: warning: "))]


Call = Callable[..., Outcome]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> Outcome:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def scan(fixtures: Path) -> Path:
    return fixtures / "nobrainer" / "pipe_t1.nii.gz"


@pytest.fixture
def weights(fixtures: Path) -> Path:
    return fixtures / "nobrainer" / "pipe_unet_b2.h5"


@pytest.fixture
def brainy(call: Call, weights: Path) -> Call:
    """Run the small brainy network: images and further options are given by the test."""

    def run(*arguments: object) -> Outcome:
        return call("run", "nobrainer-brainy", *arguments, "--weights", weights, *SMALL)

    return run


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("KERASNEURO_CACHE", str(folder))
    for name in ("WEIGHTS", "SOURCE", "OFFLINE"):
        monkeypatch.delenv(f"KERASNEURO_{name}", raising=False)
    monkeypatch.delenv("FREESURFER_HOME", raising=False)
    return folder
