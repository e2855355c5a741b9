"""Files made to do harm are refused with a sentence, quickly, and nothing in them is run."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kerasneuro.errors import WeightsCorrupt
from kerasneuro.weights import read

MAKE = runpy.run_path(str(Path(__file__).parents[1] / "hostile" / "make.py"))
BUILDERS, TORCH, HDF5, ONNX, KERAS = (MAKE[name] for name in ("BUILDERS", "TORCH", "HDF5", "ONNX", "KERAS"))

# A part of the sentence, where a refusal for any other reason would hide a hole.
WORDS = {
    "os_system": "'os.system'",
    "posix_system": "'posix.system'",
    "subprocess": "'subprocess.getoutput'",
    "eval": "'builtins.eval'",
    "eval_python2": "'builtins.eval'",
    "exec_inside": "'builtins.exec'",
    "stack_global": "'os.system'",
    "inst": "INST",
    "getattr": "'builtins.getattr'",
    "dotted_name": "'torch._utils.os.system'",
    "load_from_bytes": "_load_from_bytes",
    "torch_hub": "'torch.hub.load'",
    "record_called": "calls something",
    "text_called": "calls something",
    "extension": "EXT1",
    "strides_beyond": "outside its storage",
    "stride_negative": "negative",
    "offset_negative": "negative",
    "offset_beyond": "outside its storage",
    "expanded_bomb": "outside its storage",
    "size_overflow": "outside its storage",
    "rank_differs": "do not belong to its shape",
    "count_too_large": "declares 4398046511104 bytes",
    "count_too_small": "declares 8 bytes",
    "storage_missing": "'7' is missing",
    "storage_kind": "EvilStorage",
    "cycle": "in a cycle",
    "laughs": "too deeply",
    "deep_key": "key of a dictionary",
    "deep": "too deeply",
    "double_name": "two tensors named 'a.b'",
    "legacy_cut": "reaches past its end",
    "legacy_tail": "after its last storage",
    "zip_traversal": "outside the archive",
    "zip_absolute": "outside the archive",
    "zip_backslash": "outside the archive",
    "zip_double": "two members",
    "zip_two_roots": "several",
    "zip_overlap": "overlap",
    "zip_bomb": "declares 67108864 bytes",
    "keras_archive": r"Keras 3 model \(.keras\)",
    "numpy_archive": "NumPy",
    "h5_bomb_chunks": "declares 4398046511104 bytes",
    "h5_bomb_unfiltered": "but 0 are stored",
    "h5_bomb_contiguous": "but 0 are stored",
    "h5_bomb_packed": "declares 268435456 bytes",
    "h5_large_chunks": "chunks of",
    "h5_foreign_filter": "the HDF5 filter 6",
    "h5_soft_link": "SoftLink",
    "h5_external_link": "ExternalLink",
    "h5_external_group": "ExternalLink",
    "h5_link_elsewhere": "SoftLink",
    "h5_cycle": "reached twice",
    "h5_hard_link": "reached twice",
    "h5_external_storage": "in another file",
    "h5_virtual": "virtual",
    "h5_no_layer_names": "without layer_names",
    "h5_no_weight_names": "no attribute weight_names",
    "h5_native_layout": "Keras 3 native layout",
    "h5_array_is_group": "'kernel:0' of layer 'dense' is missing",
    "h5_array_missing": "'kernel:0' of layer 'dense' is missing",
    "h5_compound_values": "expected an array of numbers",
    "h5_cut": "truncated",
    "h5_empty_values": "expected an array of numbers",
    "h5_layer_missing": "has no group",
    "h5_layer_twice": "listed twice",
    "h5_names_are_not_text": "is not text",
    "h5_names_are_numbers": "not a list of names",
    "h5_object_values": "expected an array of numbers",
    "h5_reference_values": "expected an array of numbers",
    "h5_text_values": "expected an array of numbers",
    "h5_weight_twice": "names an array twice",
    "h5_flat_nameless": "no name of its own",
    "legacy_count_negative": "reaches past its end",
    "legacy_storage_twice": "does not list its storages",
    "legacy_storage_unlisted": "is missing",
    "mark_missing": "damaged pickle",
    "memory_missing": "damaged pickle",
    "obj": "os.system",
    "pickle_cut": "damaged pickle",
    "pickle_plain": "'os.system'",
    "stack_empty": "damaged pickle",
    "storage_is_text": "not a storage",
    "zip_byte_order": "byte order",
    "zip_cut": "not complete",
    "zip_cut_front": "overlap",
    "zip_storage_packed": "is missing",
    "h5_flat_link": "ExternalLink",
    "h5_flat_later_version": "version 1, found 99",
    "onnx_dims_overflow": "impossible shape",
    "onnx_dims_overflow_to_four": "impossible shape",
    "onnx_dims_negative": "impossible shape",
    "onnx_dims_negative_pair": "impossible shape",
    "onnx_dims_huge": "needs 4398046511104 bytes, has 16",
    "onnx_dims_huge_beside_none": "impossible shape",
    "onnx_dims_many": "impossible shape",
    "onnx_raw_short": "needs 20 bytes, has 16",
    "onnx_raw_long": "needs 12 bytes, has 16",
    "onnx_raw_twice": "twice",
    "onnx_raw_and_typed": "twice",
    "onnx_raw_missing": "needs 16 bytes, has 0",
    "onnx_floats_short": "needs 20 bytes, has 16",
    "onnx_floats_of_integers": "as another type",
    "onnx_integers_short": "needs 5 values, has 4",
    "onnx_integers_cut": "reaches past its end",
    "onnx_integers_as_one_number": "a number where a text should be",
    "onnx_type_unknown": "of the type 99",
    "onnx_type_missing": "of the type 0",
    "onnx_type_text": "of the type 8",
    "onnx_segment": "in segments",
    "onnx_place_unknown": "neither this file nor another",
    "onnx_place_both": "neither this file nor another",
    "onnx_name_missing": "is empty or given twice",
    "onnx_name_twice": "is empty or given twice",
    "onnx_name_is_not_text": "not a text",
    "onnx_sparse": "sparse",
    "onnx_two_graphs": "or several",
    "onnx_graph_is_number": "a number where a text should be",
    "onnx_initialiser_is_number": "a number where a text should be",
    "onnx_group": "unknown kind 3",
    "onnx_length_beyond": "past the end of its message",
    "onnx_no_graph": "no graph",
    "onnx_cut": "past the end of its message",
    "onnx_endless_number": "past its end",
    "onnx_external_parent": "leads outside its folder",
    "onnx_external_parent_inside": "leads outside its folder",
    "onnx_external_absolute": "leads outside its folder",
    "onnx_external_absolute_in_folder": "leads outside its folder",
    "onnx_external_windows": "leads outside its folder",
    "onnx_external_drive": "leads outside its folder",
    "onnx_external_nothing": "leads outside its folder",
    "onnx_external_zero_byte": "leads outside its folder",
    "onnx_external_folder": "leads outside its folder",
    "onnx_external_link": "a link that leads outside its folder",
    "onnx_external_beyond": "would end at byte 20",
    "onnx_external_beyond_all": "would end at byte 9223372036854775808",
    "onnx_external_offset_negative": "'-16'",
    "onnx_external_offset_text": "'0x10'",
    "onnx_external_length_short": "12 are listed",
    "onnx_external_length_huge": "999",
    "keras_lambda_archive": r"Keras 3 model \(.keras\)",
    "h5_lambda_without_arrays": "without layer_names",
}


def words(name: str) -> str:
    return WORDS.get(name) or WORDS[name.removesuffix("_zip").removesuffix("_legacy")]


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_hostile_file_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / name
    BUILDERS[name](path, canary)
    with pytest.raises(WeightsCorrupt, match=words(name)) as caught:
        read(path).close()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not canary.exists()


def test_canary_would_be_made_by_a_reader_that_runs_code(tmp_path: Path) -> None:
    """The corpus is armed: Python's own unpickler creates the canary."""
    path, canary = tmp_path / "armed", tmp_path / "canary"
    BUILDERS["pickle_plain"](path, canary)
    subprocess.run(
        [sys.executable, "-c", f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"], check=True
    )
    assert canary.exists()


@pytest.mark.parametrize("write", ["write_zip", "write_legacy"])
def test_harmless_twin_of_the_hostile_pickles_is_read(write: str, tmp_path: Path) -> None:
    path = tmp_path / "good"
    TORCH[write](path, TORCH["good"]())
    with read(path) as store:
        np.testing.assert_array_equal(store["weight"].read(), np.arange(4, dtype="f4"))


def test_harmless_twin_of_the_hostile_hdf5_files_is_read(tmp_path: Path) -> None:
    path = tmp_path / "good"
    HDF5["keras_file"](path, lambda layer: layer.create_dataset("kernel:0", data=np.ones(4, "f4")))
    with read(path) as store:
        assert list(store) == ["dense/kernel"]


def test_harmless_twin_of_the_hostile_onnx_files_is_read(tmp_path: Path) -> None:
    path = tmp_path / "good"
    path.write_bytes(ONNX["model"](ONNX["tensor"](2, 2)))
    with read(path) as store:
        np.testing.assert_array_equal(store["weight"].read(), np.arange(4, dtype="f4").reshape(2, 2))


def test_onnx_graph_of_two_thousand_levels_is_not_entered(tmp_path: Path) -> None:
    path = tmp_path / "nested"
    ONNX["write_nested"](path)
    with read(path) as store:
        assert list(store) == ["weight"]


def test_lambda_in_a_configuration_is_text(tmp_path: Path) -> None:
    path, canary = tmp_path / "lambda.h5", tmp_path / "canary"
    KERAS["write_lambda_h5"](path, canary)
    with read(path) as store:
        np.testing.assert_array_equal(store["dense/kernel"].read(), np.arange(4, dtype="f4"))
        assert "Lambda" in store.attributes["model_config"]
    assert not canary.exists()


def test_lambda_of_the_corpus_is_armed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    code = f"import base64, marshal; exec(marshal.loads(base64.b64decode({KERAS['marshalled'](canary)!r})))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert canary.exists()


def test_loading_a_file_with_a_lambda_builds_our_graph(fixtures: Path, tmp_path: Path) -> None:
    """The whole way to a network: the graph is ours, whatever the file's configuration says."""
    import h5py

    import kerasneuro

    path, canary = tmp_path / "unet.h5", tmp_path / "canary"
    shutil.copyfile(fixtures / "nobrainer" / "unet_b1_full.h5", path)
    path.chmod(0o600)
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = KERAS["config_of_h5"](canary)
    task = kerasneuro.load("nobrainer-brainy", weights=path)
    assert not any(type(layer).__name__ == "Lambda" for layer in task.model.layers)
    assert not canary.exists()


def test_damaged_value_of_a_zip_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "flipped"
    TORCH["write_zip"](path, TORCH["good"]())
    data = path.read_bytes()
    assert data.count(TORCH["FOUR"]) == 1
    path.write_bytes(data.replace(TORCH["FOUR"], TORCH["FOUR"][:-1] + b"\x41"))
    with read(path) as store, pytest.raises(WeightsCorrupt, match="checksum"):
        store["weight"].read()


@pytest.mark.parametrize("kind", ["zip", "legacy", "h5", "onnx"])
def test_every_cut_of_a_good_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    if kind == "h5":
        HDF5["keras_file"](path, lambda layer: layer.create_dataset("kernel:0", data=np.ones(4, "f4")))
    elif kind == "onnx":
        path.write_bytes(ONNX["model"](ONNX["tensor"](4)))
    else:
        TORCH[f"write_{kind}"](path, TORCH["good"]())
    size = path.stat().st_size
    step = 1 if kind != "h5" else 97
    for length in range(size - 1, -1, -step):
        os.truncate(path, length)
        with pytest.raises(WeightsCorrupt):
            read(path).close()
