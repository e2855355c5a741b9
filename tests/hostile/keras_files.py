"""Keras files whose configuration holds code: a Lambda layer, as old and new Keras write it; see make.py.

Keras 2 stores the code of a Lambda as a marshalled code object in base64 and runs it when the model is built
from its configuration (CVE-2024-3660).
"""

from __future__ import annotations

import base64
import json
import marshal
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

Builder = Callable[[Path, Path], None]
BUILDERS: dict[str, Builder] = {}


def register(builder: Builder) -> Builder:
    BUILDERS[builder.__name__] = builder
    return builder


def marshalled(canary: Path) -> str:
    """Code that makes the canary, as a Lambda layer stores it."""
    source = f"open({str(canary)!r}, 'w').close()"
    return base64.b64encode(marshal.dumps(compile(source, "lambda", "exec"))).decode("ascii")


def config_of_h5(canary: Path) -> str:
    """The ``model_config`` of a Keras 2 file with one Lambda layer."""
    function = [marshalled(canary), None, None]
    layer = {
        "class_name": "Lambda",
        "config": {"name": "evil", "function": function, "function_type": "lambda"},
    }
    return json.dumps({"class_name": "Sequential", "config": {"name": "model", "layers": [layer]}})


def config_of_archive(canary: Path) -> str:
    """The ``config.json`` of a Keras 3 archive with one Lambda layer."""
    code = {
        "class_name": "__lambda__",
        "config": {"code": marshalled(canary), "defaults": None, "closure": None},
    }
    layer = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "evil", "function": code}}
    return json.dumps(
        {"module": "keras", "class_name": "Sequential", "config": {"name": "model", "layers": [layer]}}
    )


@register
def keras_lambda_archive(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
        archive.writestr("config.json", config_of_archive(canary))
        archive.writestr("model.weights.h5", b"")


@register
def h5_lambda_without_arrays(path: Path, canary: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = config_of_h5(canary)


def write_lambda_h5(path: Path, canary: Path) -> None:
    """A good Keras 2 file beside a hostile configuration: its arrays may be read, the code must not run."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = config_of_h5(canary)
        file.attrs["keras_version"] = "2.15.0"
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = np.array([b"dense", b"evil"])
        weights.create_group("evil").attrs["weight_names"] = np.array([], "S1")
        weights.create_group("dense").attrs["weight_names"] = np.array([b"dense/kernel:0"])
        weights["dense/dense/kernel:0"] = np.arange(4, dtype="f4")
