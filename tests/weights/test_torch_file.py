"""PyTorch files give the tensors that PyTorch itself reads from them."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.weights import read

MAKE = runpy.run_path(str(Path(__file__).parents[1] / "hostile" / "torch_files.py"))
CHECKPOINTS = {
    "fastsurfer/e2e_axial.pkl": ("torch-zip", ("model_state_dict", "optimizer_state_dict")),
    "fastsurfer/e2e_coronal.pkl": ("torch-legacy", ("model_state_dict",)),
    "fastsurfer/net_small_axial.pkl": ("torch-zip", ("model_state_dict",)),
    "fcd/ckpt_model_key.pth": ("torch-zip", ("model",)),
    "hsf/arunet_v4_bf16.ckpt": ("torch-zip", ("state_dict",)),
    "hsf/arunet_v4_dyn.state_dict.pth": ("torch-zip", ("_model",)),
}
with_torch = pytest.mark.skipif(os.environ.get("KERAS_BACKEND") != "torch", reason="PyTorch writes the files")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_tensors_are_those_that_pytorch_reads(name: str, fixtures: Path) -> None:
    expected = json.loads((fixtures / "weights" / "checkpoints.json").read_text())[name]
    digest = hashlib.sha256()
    with read(fixtures / name) as store:
        assert (store.format, store.roots) == CHECKPOINTS[name]
        for array in store.values():
            digest.update(array.read().tobytes())
        found = {
            "keys": len(store),
            "keys_sha256": hashlib.sha256("\n".join(store).encode()).hexdigest(),
            "values_sha256": digest.hexdigest(),
            "elements": sum(array.size for array in store.values()),
        }
    assert found == expected


def test_names_of_fastsurfer(fixtures: Path) -> None:
    manifest = json.loads((fixtures / "fastsurfer" / "manifest_axial.json").read_text())["state_dict"]
    with read(fixtures / "fastsurfer" / "e2e_axial.pkl") as store:
        state = store.sub("model_state_dict")
        assert len(state) == len(manifest) == 205
        assert [(key, len(array.shape)) for key, array in state.items()] == [
            (entry["key"], len(entry["shape"])) for entry in manifest
        ]
        assert store.attributes == {"epoch": "8"}
        assert "optimizer_state_dict.state.0.exp_avg" in store
    with read(fixtures / "fastsurfer" / "e2e_coronal.pkl") as store:
        assert list(store.sub("model_state_dict").sub_prefix("module.")) == list(state)


def test_names_and_shapes_of_fcd(fixtures: Path) -> None:
    manifest = json.loads((fixtures / "fcd" / "fcd_manifest.json").read_text())["weights"]
    with read(fixtures / "fcd" / "ckpt_model_key.pth") as store:
        state = store.sub("model")
        assert [(key, list(array.shape)) for key, array in state.items()] == [
            (entry["key"], entry["shape"]) for entry in manifest
        ]
        assert store.attributes["epoch"] == "32"


def test_bfloat16_is_the_rounded_float32(fixtures: Path) -> None:
    manifest = json.loads((fixtures / "hsf" / "manifest_full_size.json").read_text())["arunet_v4"]["weights"]
    with (
        read(fixtures / "hsf" / "arunet_v4_bf16.ckpt") as half,
        read(fixtures / "hsf" / "arunet_v4_dyn.state_dict.pth") as single,
    ):
        assert list(half.sub("state_dict")) == list(single) == [entry["name"] for entry in manifest]
        for key, array in single.items():
            rounded = half[f"state_dict.{key}"].read()
            assert rounded.dtype == np.float32
            np.testing.assert_allclose(rounded, array.read(), rtol=2.0**-8, atol=0)
            assert not (rounded.view(np.uint32) & 0xFFFF).any()


@pytest.mark.parametrize("name", ["tiny_torchscript.pt", "tiny_traced.pt"])
def test_torchscript_archive(name: str, fixtures: Path) -> None:
    shapes = {
        "first.weight": (2, 1, 3, 3, 3),
        "first.bias": (2,),
        "inner.0.weight": (2,),
        "inner.0.bias": (2,),
        "inner.0.running_mean": (2,),
        "inner.0.running_var": (2,),
        "inner.0.num_batches_tracked": (),
        "inner.2.weight": (3, 2, 1, 1, 1),
    }
    with read(fixtures / "weights" / name) as store:
        assert store.format == "torchscript"
        assert {key: array.shape for key, array in store.items()} == shapes
        for position, (key, shape) in enumerate(shapes.items()):
            size = int(np.prod(shape))
            expected = np.arange(size).reshape(shape) * 0.5 + position
            assert store[key].dtype == (np.int64 if "num" in key else np.float32)
            np.testing.assert_array_equal(store[key].read(), expected)


def test_code_of_an_archive_is_never_opened(fixtures: Path, tmp_path: Path) -> None:
    """The archive reads the same when its code is replaced by nonsense."""
    path = tmp_path / "model.pt"
    with (
        zipfile.ZipFile(fixtures / "weights" / "tiny_torchscript.pt") as old,
        zipfile.ZipFile(path, "w") as new,
    ):
        for member in old.infolist():
            data = b"raise SystemExit" if "/code/" in member.filename else old.read(member)
            new.writestr(member.filename, data)
    with read(path) as store:
        assert store["first.bias"].read().tolist() == [1, 1.5]


@pytest.mark.parametrize("write", ["write_zip", "write_legacy"])
def test_views_share_a_storage(write: str, tmp_path: Path) -> None:
    tensor, stored = MAKE["tensor"], MAKE["storage"](4)
    views = {
        "turned": tensor(stored, (2, 2), (1, 2)),
        "row": tensor(stored, (2,), (1,), 2),
        "column": tensor(stored, (2,), (2,), 1),
        "scalar": tensor(stored, (), (), 3),
        "empty": tensor(stored, (0, 3), (3, 1)),
    }
    MAKE[write](tmp_path / "file", MAKE["dictionary"](**views))
    with read(tmp_path / "file") as store:
        found = {key: array.read().tolist() for key, array in store.items()}
        assert store["empty"].read().shape == (0, 3)
    assert found == {"turned": [[0, 2], [1, 3]], "row": [2, 3], "column": [1, 3], "scalar": 3, "empty": []}


def test_big_endian_archive(tmp_path: Path) -> None:
    values = np.arange(4, dtype=">f4").tobytes()
    MAKE["write_zip"](
        tmp_path / "file", MAKE["good"](), {"0": values}, **{f"{MAKE['ROOT']}/byteorder": b"big"}
    )
    with read(tmp_path / "file") as store:
        assert store["weight"].read().tolist() == [0, 1, 2, 3]


def test_archive_with_a_foreign_name(tmp_path: Path) -> None:
    """`torch.save` names the archive's folder after the file."""
    path = tmp_path / "file"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("modèle-最/data.pkl", b"\x80\x02" + MAKE["good"]() + b".")
        archive.writestr("modèle-最/data/0", MAKE["FOUR"])
    with read(path) as store:
        assert store["weight"].read().tolist() == [0, 1, 2, 3]


def test_settings_beside_the_weights_are_inert(tmp_path: Path) -> None:
    """An argparse namespace, a NumPy metric and a path are read over, not rebuilt."""
    mention, call, text = (MAKE[name] for name in ("mention", "call", "text"))
    namespace = mention("argparse", "Namespace") + b")\x81" + MAKE["dictionary"](lr=MAKE["integer"](3)) + b"b"
    metric = call(
        "numpy.core.multiarray",
        "scalar",
        call("numpy", "dtype", text("f8")),
        call("_codecs", "encode", text("x")),
    )
    value = MAKE["dictionary"](
        model=MAKE["good"](),
        args=namespace,
        best=metric,
        folder=call("pathlib", "PosixPath", text("/"), text("x")),
    )
    MAKE["write_zip"](tmp_path / "file", value)
    with read(tmp_path / "file") as store:
        assert list(store) == ["model.weight"]


@with_torch
@pytest.mark.parametrize("zipped", [True, False])
def test_every_number_type_of_torch_save(zipped: bool, tmp_path: Path) -> None:
    import torch

    floats = ["float64", "float32", "float16", "bfloat16", "complex64", "complex128"]
    integers = ["int64", "int32", "int16", "int8", "uint8", "bool", *(["uint16", "uint32"] if zipped else [])]
    tensors = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in floats + integers}
    path = tmp_path / "file"
    torch.save(
        {"state": tensors, "list": [tensors["float32"].T]}, path, _use_new_zipfile_serialization=zipped
    )
    with read(path) as store:
        assert store.format == ("torch-zip" if zipped else "torch-legacy")
        for name, tensor in tensors.items():
            found = store[f"state.{name}"].read()
            assert found.dtype == ("float32" if name == "bfloat16" else name)
            np.testing.assert_array_equal(found, np.arange(6).reshape(2, 3).astype(found.dtype))
            assert tensor.shape == found.shape
        np.testing.assert_array_equal(store["list.0"].read(), np.arange(6).reshape(2, 3).T)


@with_torch
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_newer_pickles_and_parameters(protocol: int, tmp_path: Path) -> None:
    import torch

    layer = torch.nn.Conv2d(1, 2, 3)
    content = {
        "layer": dict(layer.named_parameters()),
        "state": layer.state_dict(),
        "names": {"a"},
        "size": layer.weight.shape,
    }
    torch.save(content, tmp_path / "file", pickle_protocol=protocol)
    with read(tmp_path / "file") as store:
        assert list(store) == ["layer.weight", "layer.bias", "state.weight", "state.bias"]
        np.testing.assert_array_equal(store["layer.weight"].read(), layer.weight.detach().numpy())


@with_torch
def test_torchscript_archive_made_now(tmp_path: Path) -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.InstanceNorm3d(2, affine=True)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(str(tmp_path / "model.pt"))
    with read(tmp_path / "model.pt") as store:
        assert list(store) == list(model.state_dict())
        for key, tensor in model.state_dict().items():
            np.testing.assert_array_equal(store[key].read(), tensor.numpy())


@with_torch
def test_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    import torch

    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "module.pt")
    with pytest.raises(WeightsCorrupt, match="save the state dict"):
        read(tmp_path / "module.pt")
