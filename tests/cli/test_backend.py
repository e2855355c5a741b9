"""The command line chooses a backend only where nobody has."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from kerasneuro.cli import backend
from kerasneuro.cli.backend import choose_backend
from kerasneuro.errors import MissingDependency


@pytest.fixture
def nobody_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide keras, the environment and the configuration of this machine; gives the folder of keras.json."""
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "")  # Restored afterwards, whatever the test sets.
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(backend, "is_installed", lambda name: name in names)


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        (("tensorflow", "torch", "jax", "openvino"), "tensorflow"),
        (("openvino", "jax", "torch"), "torch"),
        (("openvino", "jax"), "jax"),
        (("openvino",), "openvino"),
    ],
)
def test_first_installed_is_taken_and_told(
    nobody_chose: Path, monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], expected: str
) -> None:
    install(monkeypatch, *installed)
    told = choose_backend()
    assert told is not None and f"the {expected} backend" in told
    assert os.environ["KERAS_BACKEND"] == expected
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"]


def test_environment_is_followed(nobody_chose: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "tensorflow", "jax")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert choose_backend() is None
    assert os.environ["KERAS_BACKEND"] == "jax"


def test_keras_json_is_followed(nobody_chose: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "tensorflow", "jax")
    (nobody_chose / "keras.json").write_text(json.dumps({"backend": "jax"}))
    assert choose_backend() is None
    assert "KERAS_BACKEND" not in os.environ


@pytest.mark.parametrize("content", ['{"backend": "tensorflow"}', "{}", "[]", "no json"])
def test_keras_json_that_names_nothing_usable_is_passed_over(
    nobody_chose: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    install(monkeypatch, "jax")
    (nobody_chose / "keras.json").write_text(content)
    assert "jax" in (choose_backend() or "")
    assert os.environ["KERAS_BACKEND"] == "jax"


def test_nothing_installed_names_the_extras(nobody_chose: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(MissingDependency, match=r"kerasneuro\[tensorflow\].*torch, jax, openvino"):
        choose_backend()


def test_chosen_but_not_installed_names_its_extra(
    nobody_chose: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "tensorflow")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(MissingDependency, match=r"kerasneuro\[torch\]"):
        choose_backend()


def test_looking_for_a_backend_does_not_import_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pretended.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert backend.is_installed("pretended")
    assert not backend.is_installed("pretended_too")
