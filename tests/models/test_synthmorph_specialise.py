"""The deformable network for one regularisation, computed while the hypernetwork's file streams by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from kerasneuro import networks, registry
from kerasneuro.errors import InvalidOption, WeightsCorrupt, WeightsMismatch
from kerasneuro.fetching import remembered
from kerasneuro.models.synthmorph import graph, specialise, streamed, weights
from kerasneuro.registry import Digest
from kerasneuro.weight_files import describe_weights
from kerasneuro.weights import WeightStore, read

once = pytest.mark.backend_free  # these compute with NumPy alone
PATTERN = "converted/*/synthmorph-specialised-*.h5"


@pytest.fixture(scope="module")
def folder(fixtures: Path) -> Path:
    return fixtures / "synthmorph"


@pytest.fixture(scope="module")
def stored(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "deform.npz") as arrays:
        return dict(arrays)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache of its own, and no memory of earlier digests."""
    monkeypatch.setenv("KERASNEURO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "_KNOWN", {})
    return tmp_path / "cache"


@pytest.fixture
def file(folder: Path, tmp_path: Path) -> Path:
    """A copy of a hypernetwork's file that a test may change."""
    path = tmp_path / "deform.h5"
    path.write_bytes((folder / "deform.deform.inner.h5").read_bytes())
    return path


def numpy(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def kernels(store: WeightStore | None) -> dict[str, np.ndarray]:
    assert store is not None
    with store:
        return {name: array.read() for name, array in store.items()}


def forbidden(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("this should not have been called")


def rewrite(path: Path, target: Path, create: Callable[[h5py.Group, str, np.ndarray], None]) -> Path:
    """Copy a Keras file, each dataset written by `create`."""
    with h5py.File(path) as source, h5py.File(target, "w") as copy:
        copy.attrs.update(source.attrs)
        for layer in source:
            group = copy.create_group(layer)
            group.attrs.update(source[layer].attrs)
            for name in source[layer].attrs["weight_names"]:
                create(group, name, source[layer][name][()])
    return target


LAYOUTS: dict[str, Callable[[h5py.Group, str, np.ndarray], Any]] = {
    "chunked": lambda group, name, array: group.create_dataset(name, data=array, chunks=True),
    "compressed": lambda group, name, array: group.create_dataset(name, data=array, compression="gzip"),
    "double": lambda group, name, array: group.create_dataset(name, data=array.astype(np.float64)),
    "big-endian": lambda group, name, array: group.create_dataset(name, data=array.astype(">f4")),
}


@once
@pytest.mark.parametrize("layout", ["inner", "full"])
@pytest.mark.parametrize(("regularisation", "hyper"), [(0.5, "h0"), (0.15, "h1")])
def test_kernels_of_the_original(
    folder: Path, stored: dict[str, np.ndarray], layout: str, regularisation: float, hyper: str
) -> None:
    path = folder / f"deform.deform.{layout}.h5"
    found = kernels(specialise.open_specialised(path, regularisation))
    for index in (0, 1, 6):
        name = f"hyper_conv_from_dense_{index}" if index else "hyper_conv_from_dense"
        for part in ("kernel", "bias"):
            expected = stored[f"{part}{index}_{hyper}"]
            assert found[f"{name}/{part}"].shape == expected.shape
            np.testing.assert_allclose(found[f"{name}/{part}"], expected, rtol=0, atol=1e-6)


@once
def test_the_file_is_read_once_for_kernels_and_digest(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "digest_file", forbidden)
    monkeypatch.setattr(streamed, "add_by_reading", forbidden)
    monkeypatch.setattr(streamed, "BLOCK_BYTES", 64)  # many blocks within a row
    found = kernels(specialise.open_specialised(file, 0.5))
    assert specialise.recall_digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.undo()
    np.testing.assert_equal(found, kernels(specialise.open_specialised(file, 0.5)))


@once
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_storage_gives_the_same_kernels(file: Path, tmp_path: Path, layout: str) -> None:
    other = rewrite(file, tmp_path / "other.h5", LAYOUTS[layout])
    expected = kernels(specialise.open_specialised(file, 0.5))
    for name, array in kernels(specialise.open_specialised(other, 0.5)).items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-6)
    assert specialise.recall_digest(other) == hashlib.sha256(other.read_bytes()).hexdigest()


@once
def test_a_block_before_the_file_shifts_the_arrays(file: Path, tmp_path: Path) -> None:
    expected = kernels(specialise.open_specialised(file, 0.5))
    shifted = tmp_path / "shifted.h5"
    with h5py.File(shifted, "w", userblock_size=512):
        pass
    with h5py.File(file) as source, h5py.File(shifted, "a") as copy:
        copy.attrs.update(source.attrs)
        for layer in source:
            source.copy(layer, copy)
    for name, array in kernels(specialise.open_specialised(shifted, 0.5)).items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-6)


@once
def test_the_second_call_reads_the_cache_alone(
    file: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kernels(specialise.open_specialised(file, 0.3))
    assert len(list(own_cache.glob(PATTERN))) == 1
    monkeypatch.setattr(remembered, "_KNOWN", {})  # as in another process
    monkeypatch.setattr(specialise, "add_rows", forbidden)
    np.testing.assert_equal(kernels(specialise.open_specialised(file, 0.3)), first)
    with pytest.raises(AssertionError, match="not have been called"):
        specialise.open_specialised(file, 0.4)


@once
def test_another_file_under_the_same_name_is_read(file: Path) -> None:
    first = kernels(specialise.open_specialised(file, 0.3))
    with h5py.File(file, "a") as changed:
        changed["dense/dense/bias:0"][...] += 1
    second = kernels(specialise.open_specialised(file, 0.3))
    assert any(np.abs(first[name] - second[name]).max() > 1e-3 for name in first)


@once
def test_a_damaged_copy_in_the_cache_is_replaced(file: Path, own_cache: Path) -> None:
    expected = kernels(specialise.open_specialised(file, 0.3))
    (cached,) = own_cache.glob(PATTERN)
    for damage in (cached.read_bytes()[:5000], b"nothing"):
        cached.write_bytes(damage)
        np.testing.assert_equal(kernels(specialise.open_specialised(file, 0.3)), expected)
        assert len(cached.read_bytes()) > 5000


@once
def test_a_cache_that_can_not_be_written_is_no_error(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "occupied").write_text("a file where the cache should be")
    monkeypatch.setenv("KERASNEURO_CACHE", str(tmp_path / "occupied"))
    assert kernels(specialise.open_specialised(file, 0.3))


@once
def test_a_file_with_another_digest_is_refused_and_leaves_nothing(file: Path, own_cache: Path) -> None:
    with pytest.raises(WeightsCorrupt, match=r"has sha256 .* expected 0000"):
        specialise.open_specialised(file, 0.3, sha256="0" * 64)
    assert not list(own_cache.glob(PATTERN))
    assert specialise.recall_digest(file) is None


@once
def test_a_file_that_changes_meanwhile_is_refused(
    file: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(path: Path, summands: Any) -> str:
        digest = streamed.add_rows(path, summands)
        path.write_bytes(path.read_bytes() + b"more")
        return digest

    monkeypatch.setattr(specialise, "add_rows", change)
    with pytest.raises(WeightsCorrupt, match="changed while it was read"):
        specialise.open_specialised(file, 0.3)
    assert not list(own_cache.glob(PATTERN))


@once
@pytest.mark.parametrize("layer", ["hyper_conv_from_dense_1", "hyper_conv_from_dense_6"])
def test_numbers_that_are_none_are_refused(file: Path, own_cache: Path, layer: str) -> None:
    """Also in rows that the hypernetwork multiplies by zero."""
    with h5py.File(file, "a") as changed:
        changed[f"{layer}/{layer}/hyperkernel_kernel:0"][:, 7] = np.nan
    with pytest.raises(WeightsCorrupt, match=f"arrays of {layer}/kernel hold NaN"):
        specialise.open_specialised(file, 0.3)
    assert not list(own_cache.glob(PATTERN))


@once
@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, 2, float("nan"), "much", None, ()])
def test_regularisation_outside_its_range_is_refused(file: Path, value: Any) -> None:
    with pytest.raises(InvalidOption, match="regularisation must be above 0 and below 1"):
        specialise.specialised_network(file, value)


@once
def test_the_number_of_hyperparameters_must_fit(file: Path) -> None:
    with pytest.raises(InvalidOption, match="takes 1 hyperparameters, found 2"):
        specialise.specialised_network(file, (0.5, 0.5))


@once
def test_wrong_and_truncated_files_are_refused(folder: Path, file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatch, match="holds no hypernetwork"):
        specialise.specialised_network(folder / "affine.inner.h5")
    whole = file.read_bytes()
    for size in (100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.h5").write_bytes(whole[:size])
        with pytest.raises(WeightsCorrupt):
            specialise.specialised_network(tmp_path / "cut.h5")
    with h5py.File(file, "a") as changed:
        del changed["hyper_conv_from_dense_6/hyper_conv_from_dense_6/hyperkernel_kernel:0"]
        changed["hyper_conv_from_dense_6/hyper_conv_from_dense_6/hyperkernel_kernel:0"] = np.zeros(
            (5, 324), np.float32
        )
    with pytest.raises(WeightsMismatch, match=r"hyper_conv_from_dense_6 has arrays \(5, 324\)"):
        specialise.specialised_network(file)


def loaded(card: registry.ModelCard, path: Path, given: bool, **config: Any) -> tuple[keras.Model, str]:
    """Load one part as `kerasneuro.load` does; return the network and the digest of its provenance."""
    family: ModuleType = weights
    part = card.parts[-1] if card.parts else ""
    opened = networks.open_own_way(card, family, part, path, config, given=given)
    sha256 = describe_weights(card, part, path, given=given)["sha256"]
    return networks.load_part(card, graph, family, part, path, config, sha256, opened), sha256


@pytest.mark.parametrize("name", ["synthmorph-deform", "synthmorph-joint"])
def test_loading_gives_the_specialised_network(
    file: Path, name: str, stored: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kerasneuro.fetching.bundle.digest_file", forbidden)
    model, sha256 = loaded(registry.get(name), file, given=True)
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(model.inputs) == len(model.outputs) == 2
    kernel = graph.velocity_network(model).get_layer("hyper_conv_from_dense_1").kernel
    np.testing.assert_allclose(numpy(kernel), stored["kernel1_h0"], rtol=0, atol=1e-6)


def test_loading_keeps_the_hypernetwork_where_asked(file: Path) -> None:
    model, _ = loaded(registry.get("synthmorph-deform"), file, given=True, specialised=False)
    assert [tensor.name for tensor in model.inputs] == ["hyper", "image_1", "image_2"]
    with read(file) as store:
        expected = store["dense_1/kernel"].read()
    np.testing.assert_array_equal(numpy(graph.velocity_network(model).get_layer("dense_1").kernel), expected)


def test_loading_refuses_other_bytes_than_the_registered_ones(file: Path, own_cache: Path) -> None:
    card = registry.get("synthmorph-deform")
    with pytest.raises(WeightsCorrupt, match="expected 95b367cd"):
        loaded(card, file, given=False)
    assert not list(own_cache.glob(PATTERN))
    right = Digest("sha256", hashlib.sha256(file.read_bytes()).hexdigest())
    card = replace(card, files=(replace(card.files[0], digest=right),))
    assert loaded(card, file, given=False)[1] == right.value


def test_loading_with_other_widths_is_refused(file: Path) -> None:
    with pytest.raises(WeightsMismatch, match="does not fit the model"):
        loaded(registry.get("synthmorph-deform"), file, given=True, add_nf=(5, 5))


@once
def test_what_is_remembered_is_of_one_state_of_a_file(file: Path, own_cache: Path) -> None:
    state = remembered.state_of(file)
    remembered.remember_digest(state, "abc")
    (record,) = (own_cache / "records").iterdir()
    remembered._KNOWN.clear()
    assert remembered.recall_digest(file) == "abc"
    remembered._KNOWN.clear()
    record.write_text(json.dumps({"sha256": "other", "size": 1}))
    assert remembered.recall_digest(file) is None
    record.write_text("[]")
    assert remembered.recall_digest(file) is None
