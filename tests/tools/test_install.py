"""The installer stops before a CUDA package is downloaded."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "install.py"


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(*packages: tuple[str, str]) -> dict[str, Any]:
    return {"install": [{"metadata": {"name": name, "version": version}} for name, version in packages]}


CPU = report(("torch", "2.13.0+cpu"), ("numpy", "2.4.6"), ("networkx", "3.6"))
GPU = report(("torch", "2.13.0"), ("nvidia-cublas-cu13", "13.0"), ("triton", "3.5"), ("cuda-bindings", "13"))


@pytest.fixture
def pip_calls(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []
    monkeypatch.setattr(install.subprocess, "call", lambda command: calls.append(command) or 0)
    return calls


@pytest.mark.parametrize(
    "package",
    [
        ("nvidia-cudnn-cu13", "9"),
        ("nvidia_nccl_cu13", "2"),
        ("triton", "3.5"),
        ("pytorch-triton", "3"),
        ("cuda-toolkit", "13"),
        ("cuda_pathfinder", "1"),
        ("torch", "2.13.0+cu130"),
        ("torch", "2.13.0+rocm7"),
    ],
)
def test_gpu_package_is_recognised(install: ModuleType, package: tuple[str, str]) -> None:
    assert len(install.cuda_packages(report(("numpy", "2"), package))) == 1


def test_cpu_plan_is_clean(install: ModuleType) -> None:
    assert install.cuda_packages(CPU) == []


def test_plan_with_cuda_is_refused_before_anything_is_installed(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, pip_calls: list[list[str]]
) -> None:
    monkeypatch.setattr(install, "make_plan", lambda arguments: GPU)
    with pytest.raises(SystemExit, match=r"nvidia-cublas-cu13==13\.0.*\n.*Nothing was downloaded") as caught:
        install.main(["torch==2.13.0"])
    assert "TORCH_CPU_INDEX" in str(caught.value)
    assert pip_calls == []


def test_given_index_is_used_only_where_the_configured_one_has_cuda(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, pip_calls: list[list[str]]
) -> None:
    monkeypatch.setattr(install, "make_plan", lambda arguments: CPU if "--index-url" in arguments else GPU)
    assert install.main(["torch==2.13.0", "--cpu-index", "file:///somewhere"]) == 0
    assert pip_calls[0][-2:] == ["--index-url", "file:///somewhere"]
    monkeypatch.setattr(install, "make_plan", lambda arguments: CPU)
    install.main(["torch==2.13.0", "--cpu-index", "file:///somewhere"])
    assert "--index-url" not in pip_calls[1]


def test_clean_plan_is_installed(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, pip_calls: list[list[str]]
) -> None:
    monkeypatch.setattr(install, "make_plan", lambda arguments: CPU)
    install.main(["--editable", ".[dev]", "torch==2.13.0"])
    assert pip_calls == [
        [sys.executable, "-m", "pip", "install", "-qq", "torch==2.13.0", "--editable", ".[dev]"]
    ]


def test_unmeetable_requirement_gives_pips_own_words(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answer:
        returncode = 1
        stderr = "ERROR: no matching distribution"
        stdout = ""

    monkeypatch.setattr(install.subprocess, "run", lambda *args, **kwargs: Answer())
    with pytest.raises(SystemExit, match="no matching distribution"):
        install.make_plan(["nothing==0"])
