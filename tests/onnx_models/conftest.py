"""Compute converted models on each backend in the way that is quick there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Arrays = list[np.ndarray]
# Models that JAX compiles together: fewer compilations are quicker, too large ones are slower.
GROUP = 20


def compute(models: Mapping[str, Any], inputs: Mapping[str, Arrays]) -> dict[str, Arrays]:
    """Return model name -> outputs; under JAX several models are compiled at once."""
    names = [*models]
    if keras.backend.backend() != "jax":
        return {name: outputs(models[name], inputs[name]) for name in names}
    import jax

    found: dict[str, Any] = {}
    for start in range(0, len(names), GROUP):
        part = names[start : start + GROUP]

        def run(given: Any, part: list[str] = part) -> Any:
            return {
                name: models[name](given[name] if len(given[name]) > 1 else given[name][0]) for name in part
            }

        found |= jax.jit(run)({name: inputs[name] for name in part})
    return {name: as_arrays(found[name]) for name in names}


def outputs(model: Any, given: Arrays) -> Arrays:
    """Run one model: as a user of OpenVINO would, elsewhere without compiling."""
    x = given if len(given) > 1 else given[0]
    if keras.backend.backend() == "openvino":
        return as_arrays(model.predict(x, batch_size=len(given[0]), verbose=0))
    return as_arrays(model(x))


def as_arrays(found: Any) -> Arrays:
    parts = found if isinstance(found, list | tuple) else [found]
    return [np.asarray(keras.ops.convert_to_numpy(part)) for part in parts]


@pytest.fixture(scope="session")
def hsf(fixtures: Path) -> Path:
    return fixtures / "hsf"


@pytest.fixture(scope="session")
def run() -> Callable[[Any, Arrays], Arrays]:
    """Run one model."""
    return lambda model, given: compute({"one": model}, {"one": given})["one"]


@pytest.fixture(scope="session")
def run_all() -> Callable[..., dict[str, Arrays]]:
    """Run several models."""
    return compute


def model_of(
    nodes: Sequence[NodeProto],
    shapes: Mapping[str, Any],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 18,
    outputs: Sequence[str] = ("out",),
) -> ModelProto:
    """Return a model of float inputs of given shapes."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs]
    weights = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, results, initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def save(model: ModelProto, folder: Path) -> Path:
    """Write a model to a folder."""
    path = folder / "small.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def reference(model: ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Compute a model with the reference of the package onnx."""
    for value in model.graph.output:  # The reference wants types, but no shapes.
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, dict(inputs))]


@pytest.fixture(scope="session")
def small() -> Callable[..., ModelProto]:
    """Make a small ONNX model."""
    return model_of


@pytest.fixture
def write(tmp_path: Path) -> Callable[[ModelProto], Path]:
    """Write a model to a folder of its own."""
    return lambda model: save(model, tmp_path)


@pytest.fixture(scope="session")
def expected() -> Callable[..., list[np.ndarray]]:
    """Compute a model with the reference of the package onnx."""
    return reference
