"""Every script of examples/ runs as the README says, and does what it is there to show."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Gradients are compared on every backend elsewhere; the scripts run once, under the first one.
pytestmark = [pytest.mark.training, pytest.mark.slow, pytest.mark.backend_free]

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


Runs = Callable[[str], tuple[str, Path]]


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Run a script once, and give what it printed and the folder that it ran in."""

    @functools.cache
    def run(name: str) -> tuple[str, Path]:
        folder = tmp_path_factory.mktemp(name)
        answer = subprocess.run(
            [sys.executable, str(ROOT / "examples" / f"{name}.py"), "--quick"],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, "KERASNEURO_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout, folder

    return run


@pytest.mark.parametrize("name", [script.stem for script in SCRIPTS])
def test_quick_run_does_what_it_shows(quick_run: Runs, name: str) -> None:
    told, _ = quick_run(name)
    for line in re.findall(r"^margin: .*$", told, re.MULTILINE):
        assert all(float(margin) > 0 for margin in re.findall(r"[+-]\d+\.\d+", line)), told


def test_every_script_is_listed() -> None:
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert SCRIPTS and [script.name for script in SCRIPTS if f"`{script.name}`" not in listed] == []


def test_finetuned_fastsurfer_learns_and_is_kept_as_arrays_and_as_a_plain_model(quick_run: Runs) -> None:
    import keras
    import numpy as np

    from kerasneuro.models.fastsurfer import finetune

    told, folder = quick_run("finetune_fastsurfer")
    assert float(re.search(r"^margin: ([+-]\d+\.\d+) by", told, re.MULTILINE)[1]) > 0.3, told
    (flat,) = folder.glob("*/fastsurfer_axial.h5")
    image = np.random.default_rng(0).random((1, 32, 48, 7)).astype(np.float32)
    ours = finetune.read_network(flat).predict_on_batch(image)
    plain = keras.models.load_model(flat.with_suffix(".keras")).predict_on_batch(image)
    assert ours.shape == (1, 32, 48, 6)
    np.testing.assert_allclose(np.asarray(ours), np.asarray(plain), atol=1e-4)


def test_finetuned_synthmorph_gains_both_ways_and_is_loaded_by_name(quick_run: Runs) -> None:
    import kerasneuro

    told, folder = quick_run("finetune_synthmorph")
    assert len(re.findall(r"^margin: \+0\.\d+ by fine-tuning", told, re.MULTILINE)) == 2, told
    sizes = set()
    for kind in ("specialised", "hyper"):
        (path,) = folder.glob(f"*/synthmorph_deform_{kind}.h5")
        (network,) = kerasneuro.load("synthmorph-deform", weights=path).models.values()
        sizes.add(network.count_params())
        assert [tensor.name for tensor in network.inputs] == ["image_1", "image_2"]
    assert len(sizes) == 1, "one network in two ways: of its own kernels, and specialised while it was read"


def test_finetuned_hsf_beats_random_weights_and_is_loaded_by_name(quick_run: Runs) -> None:
    import kerasneuro

    told, folder = quick_run("finetune_hsf")
    assert len(re.findall(r"^margin: \+0\.\d+", told, re.MULTILINE)) == 2, told
    task = kerasneuro.load("hsf-single-fast", weights=folder / "finetuned-hsf.pth")
    assert task.model.output_shape[-1] == 4
