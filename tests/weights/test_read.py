"""The kind of a file is told by its content, and what is no weight file is named."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kerasneuro.errors import WeightsCorrupt, WeightsMismatch, WeightsNotFound
from kerasneuro.weights import read

OTHER = {
    "an empty file": b"",
    "an HTML page": b"\n<!DOCTYPE html><html><title>404</title></html>",
    "git-annex pointer": b"/annex/objects/MD5E-s19169888--0a1b2c.h5\n",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
    "gzip": gzip.compress(b"weights"),
    "a tar archive": bytes(257) + b"ustar" + bytes(250),
    "a text that starts with 'hello'": b"hello",
    "unknown kind": bytes(range(1, 20)),
    "a single NumPy array": b"\x93NUMPY\x01\x00",
    "an empty zip archive": b"PK\5\6" + bytes(18),
}


@pytest.mark.parametrize("found", OTHER)
def test_other_content_is_named(found: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    path.write_bytes(OTHER[found])
    with pytest.raises(WeightsCorrupt, match=found):
        read(path)


def test_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsCorrupt, match="is a folder"):
        read(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFound, match="check the path"):
        read(tmp_path / "none.h5")


def test_broken_annex_link(tmp_path: Path) -> None:
    link = tmp_path / "weights.h5"
    link.symlink_to(tmp_path / ".git/annex/objects/none")
    with pytest.raises(WeightsNotFound, match="datalad get"):
        read(link)


@pytest.mark.parametrize(
    ("name", "disguise", "format"),
    [
        ("nobrainer/unet_b1_full.h5", "model.pt", "keras-h5"),
        ("nobrainer/unet_b1_full.h5", "model.weights.h5", "keras-h5"),
        ("fastsurfer/net_small_axial.pkl", "model.h5", "torch-zip"),
        ("fastsurfer/e2e_coronal.pkl", "MD5-s1--0a", "torch-legacy"),
        ("weights/tiny_torchscript.pt", "model.onnx", "torchscript"),
    ],
)
def test_name_of_a_file_does_not_matter(
    name: str, disguise: str, format: str, fixtures: Path, tmp_path: Path
) -> None:
    shutil.copyfile(fixtures / name, tmp_path / disguise)
    with read(tmp_path / disguise) as store, read(fixtures / name) as original:
        assert store.format == format
        assert list(store) == list(original)


def test_sub_takes_a_root_off(fixtures: Path) -> None:
    with read(fixtures / "fastsurfer" / "e2e_coronal.pkl") as store:
        assert store.roots == ("model_state_dict",)
        inner = store.sub("model_state_dict").sub_prefix("module.")
        assert next(iter(inner)) == "encode1.conv0.weight"
        assert len(inner) == len(store)
        key = "encode1.conv0.weight"
        np.testing.assert_array_equal(inner[key].read(), store[f"model_state_dict.module.{key}"].read())
        with pytest.raises(WeightsMismatch, match="it holds model_state_dict"):
            store.sub("model")


def test_sub_of_a_nested_keras_file_keeps_layers(fixtures: Path) -> None:
    with read(fixtures / "synthmorph" / "affine.full.h5") as store:
        inner = store.sub("model_1")
        assert list(inner)[:2] == ["conv3d/kernel", "conv3d/bias"]
        assert inner.layers == (("model_1", tuple(inner)),)


@pytest.mark.parametrize("name", ["nobrainer/unet_b1_full.h5", "fastsurfer/net_small_axial.pkl"])
def test_closed_file_can_not_be_read(name: str, fixtures: Path) -> None:
    with read(fixtures / name) as store:
        array = next(iter(store.values()))
        array.read()
    with pytest.raises(WeightsCorrupt, match="can not be read"):
        array.read()


@pytest.mark.parametrize(
    "name", ["nobrainer/unet_b2_full.h5", "fastsurfer/e2e_coronal.pkl", "hsf/arunet_v4_bf16.ckpt"]
)
def test_parts_equal_slices_of_the_whole(name: str, fixtures: Path) -> None:
    with read(fixtures / name) as store:
        array = max(store.values(), key=lambda array: array.size)
        whole = array.read()
        assert whole.flags.c_contiguous and whole.flags.writeable and whole.dtype == array.dtype
        assert (whole.shape, whole.nbytes) == (array.shape, array.nbytes)
        for part in (0, slice(0, 1), (slice(None), slice(1, 2)), (..., 0), slice(1, None, 2)):
            np.testing.assert_array_equal(array.read(part), whole[part])
        whole[...] = 0
        assert array.read().any()


def test_no_backend_is_imported(fixtures: Path) -> None:
    names = ["nobrainer/unet_b1_full.h5", "fcd/ckpt_model_key.pth", "weights/tiny_torchscript.pt"]
    code = f"""
import sys
from kerasneuro.weights import read
for path in {[str(fixtures / name) for name in names]}:
    with read(path) as store:
        assert [array.read() for array in store.values()]
print(sorted({{"keras", "tensorflow", "torch", "jax", "openvino"}} & set(sys.modules)))
"""
    root = Path(__file__).parents[2]
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert answer.stdout == "[]\n"
