"""convert writes one whole file, or says in one sentence why not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kerasneuro
from kerasneuro.weights import read
from kerasneuro.weights.torch_writer import write_torch

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of deepbet with narrow stages."""
    import keras

    from kerasneuro.models.deepbet import graph
    from kerasneuro.models.deepbet.weights import original
    from kerasneuro.weights import write_original

    model = graph.build(widths=(4, 8, 8, 16), head_width=4)
    values = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.variables}
    path = tmp_path_factory.mktemp("state") / "state.pth"
    write_original(path, original(model), values.__getitem__)
    return path


def test_path_is_printed_and_the_file_loads(call: Call, weights: Path, tmp_path: Path) -> None:
    outcome = call("convert", weights, "--to", "nobrainer-brainy", "-o", tmp_path / "out.h5")
    assert (outcome.code, outcome.out.strip(), outcome.errors) == (0, str(tmp_path / "out.h5"), [])
    assert os.listdir(tmp_path) == ["out.h5"]
    assert kerasneuro.load("nobrainer-brainy", weights=tmp_path / "out.h5").model.count_params() > 0


def test_json(call: Call, state: Path, tmp_path: Path) -> None:
    outcome = call("convert", state, "--to", "deepbet", "--part", "brain", "-o", tmp_path / "b.h5", "--json")
    row = {"model": "deepbet", "part": "brain", "source": str(state), "output": str(tmp_path / "b.h5")}
    assert (outcome.code, outcome.json) == (0, {"converted": [row]})


def test_parts_go_into_a_folder_and_back(call: Call, state: Path, tmp_path: Path) -> None:
    given = [f"{part}={state}" for part in ("bbox", "brain")]
    outcome = call("convert", *given, "--to", "deepbet", "-o", tmp_path / "ours")
    assert outcome.code == 0, outcome.err
    assert sorted(os.listdir(tmp_path / "ours")) == ["deepbet-bbox.h5", "deepbet-brain.h5"]
    ours = {part: tmp_path / "ours" / f"deepbet-{part}.h5" for part in ("bbox", "brain")}
    assert set(kerasneuro.load("deepbet", weights=ours).models) == {"bbox", "brain"}
    given = [f"{part}={path}" for part, path in ours.items()]
    outcome = call("convert", *given, "--to", "deepbet", "--to-original", "-o", tmp_path / "back")
    assert outcome.code == 0, outcome.err
    for part in ours:
        assert (tmp_path / "back" / f"deepbet-{part}.pth").read_bytes() == state.read_bytes()


def test_onnx_model_becomes_a_keras_model(call: Call, fixtures: Path, tmp_path: Path) -> None:
    import keras

    source = fixtures / "hsf" / "onnx_ops" / "conv2d.onnx"
    outcome = call("convert", source, "-o", tmp_path / "m.keras", "--json")
    row = {"source": str(source), "output": str(tmp_path / "m.keras"), "layout": "channels_last"}
    assert (outcome.code, outcome.json) == (0, {"converted": [row]})
    assert os.listdir(tmp_path) == ["m.keras"]
    assert keras.models.load_model(tmp_path / "m.keras").input_shape == (2, 9, 8, 3)
    again = call("convert", source, "-o", tmp_path / "m.keras")
    assert again.code == 1 and "exists already" in again.errors[0]
    assert call("convert", source, "-o", tmp_path / "m.keras", "--overwrite", "--layout", "onnx").code == 0
    assert keras.models.load_model(tmp_path / "m.keras").input_shape == (2, 3, 9, 8)


def test_existing_output_needs_overwrite(call: Call, weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.h5"
    target.write_bytes(b"mine")
    arguments = ("convert", weights, "--to", "nobrainer-brainy", "-o", target)
    outcome = call(*arguments)
    assert outcome.code == 1 and len(outcome.errors) == 1 and "exists already" in outcome.errors[0]
    assert target.read_bytes() == b"mine"
    assert call(*arguments, "--overwrite").code == 0
    with read(target) as store:
        assert store.attributes["model"] == "nobrainer-brainy"


def test_one_existing_output_of_several_stops_all(call: Call, state: Path, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "deepbet-brain.h5").write_bytes(b"mine")
    outcome = call("convert", f"bbox={state}", f"brain={state}", "--to", "deepbet", "-o", tmp_path / "ours")
    assert outcome.code == 1 and "exists already" in outcome.errors[0]
    assert os.listdir(tmp_path / "ours") == ["deepbet-brain.h5"]


BAD = {
    "unknown model": (["{h5}", "--to", "deepbett", "-o", "{out}"], 1, "did you mean 'deepbet'"),
    "another network": (["{h5}", "--to", "fcd-mobilenet", "-o", "{out}"], 1, "not a checkpoint of the FCD"),
    "no model": (["{h5}", "-o", "{out}"], 2, "--to NAME"),
    "no output": (["{h5}", "--to", "nobrainer-brainy"], 2, "--output"),
    "no file": (["--to", "nobrainer-brainy", "-o", "{out}"], 2, "FILE"),
    "part missing": (["{pth}", "--to", "deepbet", "-o", "{out}"], 1, "its parts are bbox, brain"),
    "part unknown": (
        ["{pth}", "--to", "deepbet", "--part", "spine", "-o", "{out}"],
        1,
        "no part 'spine'; its parts are bbox, brain",
    ),
    "part of one": (["{h5}", "--to", "kwyk-bwn", "--part", "a", "-o", "{out}"], 1, "it has one network"),
    "two files": (["{h5}", "{h5}", "--to", "nobrainer-brainy", "-o", "{out}"], 1, "give one file"),
    "two files of one part": (["bbox={pth}", "bbox={pth}", "--to", "deepbet", "-o", "{out}"], 1, "own part"),
    "part twice": (["bbox={pth}", "--part", "bbox", "--to", "deepbet", "-o", "{out}"], 1, "own part"),
    "another model": (["{pth}", "--to", "nobrainer-brainy", "-o", "{out}"], 1, "not a nobrainer U-Net"),
    "another family": (["{h5}", "--to", "deepbet", "--part", "bbox", "-o", "{out}"], 1, "does not fit"),
    "missing source": (["{none}", "--to", "nobrainer-brainy", "-o", "{out}"], 1, "no weight file at"),
    "empty source": (["{empty}", "--to", "nobrainer-brainy", "-o", "{out}"], 1, "an empty file"),
    "folder as source": (["{folder}", "--to", "nobrainer-brainy", "-o", "{out}"], 1, "is a folder"),
    "cut h5": (["{cut_h5}", "--to", "nobrainer-brainy", "-o", "{out}"], 1, "damaged"),
    "cut pth": (["{cut_pth}", "--to", "deepbet", "--part", "bbox", "-o", "{out}"], 1, "damaged|not complete"),
    "folder as output": (["{h5}", "--to", "nobrainer-brainy", "-o", "{folder}"], 1, "is a folder"),
    "output below a file": (["{h5}", "--to", "nobrainer-brainy", "-o", "{h5}/out.h5"], 1, "is a file"),
    "output folder missing": (
        ["{h5}", "--to", "nobrainer-brainy", "-o", "{none}/a/b.h5"],
        1,
        "does not exist",
    ),
    "output is the source": (
        ["{h5}", "--to", "nobrainer-brainy", "-o", "{h5}", "--overwrite"],
        1,
        "is the file to convert",
    ),
    "cut onnx": (["{onnx}", "-o", "{folder}/model.keras"], 1, "is not an ONNX model"),
    "onnx to weights without a model": (["{onnx}", "-o", "{out}"], 2, "--to NAME"),
    "weights to a whole model": (
        ["{h5}", "-o", "{folder}/model.keras"],
        1,
        "only the network of an ONNX file",
    ),
    "whole model of a name": (
        ["{onnx}", "--to", "deepbet", "-o", "{folder}/m.keras"],
        2,
        "--to has no meaning",
    ),
    "layout of weights": (["{h5}", "--layout", "onnx", "-o", "{out}"], 2, "--layout has no meaning"),
    "kwyk to the original": (
        ["{kwyk}", "--to", "kwyk-bwn", "--to-original", "-o", "{out}"],
        1,
        "cannot write the original format of kwyk-bwn",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_sentence_and_leaves_nothing(
    case: str, call: Call, weights: Path, state: Path, fixtures: Path, tmp_path: Path
) -> None:
    import re

    given = tmp_path / "given"
    given.mkdir()
    shutil.copy(weights, given / "unet.h5")
    shutil.copy(state, given / "state.pth")
    (given / "empty.h5").touch()
    (given / "cut.h5").write_bytes(weights.read_bytes()[:60_000])
    (given / "cut.pth").write_bytes(state.read_bytes()[:60_000])
    (given / "model.onnx").write_bytes(b"\x08\x07")
    (given / "folder").mkdir()
    names = {
        "h5": given / "unet.h5",
        "pth": given / "state.pth",
        "none": tmp_path / "none",
        "empty": given / "empty.h5",
        "cut_h5": given / "cut.h5",
        "cut_pth": given / "cut.pth",
        "onnx": given / "model.onnx",
        "folder": given / "folder",
        "kwyk": fixtures / "nobrainer" / "kwyk_bwn",
        "out": tmp_path / "out" / "out.h5",
    }
    arguments, code, words = BAD[case]
    before = {path: path.read_bytes() for path in given.rglob("*") if path.is_file()}
    outcome = call("convert", *(argument.format(**names) for argument in arguments))
    assert outcome.code == code, outcome.err
    assert len(outcome.errors) == 1 and re.search(words, outcome.errors[0]), outcome.err
    assert {path: path.read_bytes() for path in given.rglob("*") if path.is_file()} == before
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and given not in path.parents]


@contextmanager
def small_disk(most_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as a full disk does."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("most_bytes", [0, 3_000, 100_000])
@pytest.mark.parametrize("original", [(), ("--to-original",)])
def test_full_disk_leaves_nothing(
    most_bytes: int, original: tuple[str, ...], call: Call, weights: Path, state: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    for source, to in ((weights, ["nobrainer-brainy"]), (state, ["deepbet", "--part", "bbox"])):
        with small_disk(most_bytes):
            outcome = call("convert", source, "--to", *to, *original, "-o", tmp_path / "out" / "out.h5")
        assert outcome.code == 1, outcome.err
        assert len(outcome.errors) == 1 and "can not be written" in outcome.errors[0], outcome.err
        assert os.listdir(tmp_path / "out") == []


def test_state_dict_of_something_else(call: Call, tmp_path: Path) -> None:
    write_torch(tmp_path / "other.pth", [("fc.weight", np.ones((2, 2), "f4"))])
    arguments = ("--to", "deepbet", "--part", "bbox", "-o", tmp_path / "out.h5")
    outcome = call("convert", tmp_path / "other.pth", *arguments)
    assert outcome.code == 1 and "(init.0.weight is missing)" in outcome.errors[0]
    assert os.listdir(tmp_path) == ["other.pth"]
