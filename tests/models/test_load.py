"""From a name to a task: weights given, found, described, refused, and kept converted."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kerasneuro
from kerasneuro import networks, registry
from kerasneuro.errors import (
    InvalidOption,
    ModelNotFound,
    ModelNotReady,
    WeightsCorrupt,
    WeightsMismatch,
    WeightsNotFound,
)
from kerasneuro.fetching import cache_directory


@pytest.fixture
def unet(fixtures: Path) -> Path:
    return fixtures / "nobrainer" / "unet_b2_full.h5"


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERASNEURO_CACHE", str(tmp_path / "cache"))
    return cache_directory()


def arrays(model) -> dict[str, np.ndarray]:
    import keras

    return {variable.path: keras.ops.convert_to_numpy(variable).copy() for variable in model.variables}


def test_width_and_classes_come_from_the_file(unet: Path, fixtures: Path) -> None:
    assert kerasneuro.load("nobrainer-brainy", weights=unet).model.count_params() == 74733
    six = kerasneuro.load("nobrainer-brainy", weights=fixtures / "nobrainer" / "unet_b1_c6_full.h5")
    assert six.model.output_shape[-1] == 6


def test_explicit_config_wins_over_the_file(unet: Path) -> None:
    with pytest.raises(WeightsMismatch):
        kerasneuro.load("nobrainer-brainy", weights=unet, config={"filters": 4})
    task = kerasneuro.load("nobrainer-brainy", weights=unet, config={"input_shape": (32, 32, 32, 1)})
    assert task.model.input_shape == (None, 32, 32, 32, 1)


def test_user_file_is_reported_by_its_digest(unet: Path) -> None:
    from hashlib import sha256

    entry = kerasneuro.load("nobrainer-brainy", weights=unet).provenance[""]
    assert entry["sha256"] == sha256(unet.read_bytes()).hexdigest()
    assert entry["registered"] == f"user file, sha256 {entry['sha256']}"


def test_a_path_is_no_registry_name() -> None:
    with pytest.raises(ModelNotFound, match="is a path, expected a registry name"):
        kerasneuro.load("folder/model")
    with pytest.raises(ModelNotFound, match="is a path"):
        kerasneuro.load(Path("deepbet"))


def test_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(ModelNotFound, match="deepbet"):
        kerasneuro.load("deepbett")


def test_planned_model_names_what_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = dataclasses.replace(registry.get("hsf-bagging-fast"), status="planned")
    monkeypatch.setattr(registry, "get", lambda name: planned)
    with pytest.raises(ModelNotReady, match=r"^hsf-bagging-fast is registered.*ready now: .*deepbet"):
        kerasneuro.load("hsf-bagging-fast")


def test_graph_without_published_weights() -> None:
    with pytest.raises(WeightsNotFound, match="weights=PATH"):
        kerasneuro.load("nobrainer-unet")


def test_missing_and_damaged_files(tmp_path: Path, unet: Path) -> None:
    with pytest.raises(WeightsNotFound, match="does not exist"):
        kerasneuro.load("nobrainer-brainy", weights=tmp_path / "no.h5")
    cut = tmp_path / "cut.h5"
    cut.write_bytes(unet.read_bytes()[:5000])
    with pytest.raises(WeightsCorrupt):
        kerasneuro.load("nobrainer-brainy", weights=cut)


@pytest.mark.parametrize(
    "weights",
    [{"bbox": "a.pt"}, {"bbox": "a.pt", "brain": "b.pt", "spine": "c.pt"}, ["a.pt"], ["a", "b", "c"], "a.pt"],
)
def test_every_part_needs_one_file(weights: object) -> None:
    with pytest.raises(InvalidOption, match="deepbet"):
        kerasneuro.load("deepbet", weights=weights)


def test_unknown_configuration_is_named() -> None:
    with pytest.raises(InvalidOption, match="no configuration depth"):
        kerasneuro.build("nobrainer-unet", depth=3)


def test_file_of_another_framework_is_converted_once(empty_cache: Path, deepbet_weights: dict) -> None:
    first = kerasneuro.load("deepbet", weights=deepbet_weights)
    converted = sorted(empty_cache.rglob("converted/*/deepbet-*.h5"))
    assert [path.name for path in converted] and len(converted) == 2
    again = networks.load_converted(
        first.card,
        networks.family_module(first.card, "graph"),
        "bbox",
        next(path for path in converted if path.name == "deepbet-bbox.h5"),
        {},
        first.provenance["bbox"]["sha256"],
    )
    expected = arrays(first.models["bbox"])
    assert arrays(again).keys() == expected.keys()
    for path, array in arrays(again).items():
        np.testing.assert_array_equal(array, expected[path])


def test_damaged_converted_file_is_passed_over(empty_cache: Path, deepbet_weights: dict) -> None:
    expected = arrays(kerasneuro.load("deepbet", weights=deepbet_weights).models["brain"])
    for path in empty_cache.rglob("converted/*/deepbet-*.h5"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    found = arrays(kerasneuro.load("deepbet", weights=deepbet_weights).models["brain"])
    for path, array in found.items():
        np.testing.assert_array_equal(array, expected[path])


def test_import_is_light() -> None:
    code = (
        "import sys, kerasneuro; "
        "heavy = {'keras', 'numpy', 'nibabel', 'h5py', 'scipy', 'tensorflow', 'torch', 'jax'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
