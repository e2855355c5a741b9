"""Checkpoints that resume exactly: weights, states of random generators, optimiser and progress in one file.

The file is complete or absent, whenever the process ends, so what is in it belongs together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasneuro.errors import WeightsCorrupt, WeightsMismatch
from kerasneuro.weights import read, write_flat

KIND = "training checkpoint"


def save_checkpoint(path: Path, model: keras.Model, progress: Mapping[str, Any], history: np.ndarray) -> None:
    """Write the state of a compiled network at the end of an epoch.

    Parameters
    ----------
    path : Path
        Replaced once the new file is complete.
    model : keras.Model
        Compiled; its optimiser is built.
    progress : mapping
        Small plain values: the epoch and what early stopping remembers.
    history : numpy.ndarray
        Numbers of the epochs, shape ``(E, K)``.

    Raises
    ------
    OutputError
        If it cannot be written.
    """

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        for name, variable in _variables(model).items():
            yield name, keras.ops.convert_to_numpy(variable)
        yield "history", np.asarray(history, np.float64)

    write_flat(path, arrays(), {"kind": KIND, "progress": json.dumps(progress)})


def restore_checkpoint(path: Path, model: keras.Model) -> tuple[dict[str, Any], np.ndarray]:
    """Put the state of `save_checkpoint` into a compiled network of the same build.

    Returns
    -------
    progress : dict
        As it was saved.
    history : numpy.ndarray
        As it was saved.

    Raises
    ------
    WeightsMismatch
        If the file belongs to another network or optimiser.
    WeightsCorrupt
        If it is damaged.
    """
    with read(path) as store:
        if store.attributes.get("kind") != KIND:
            raise WeightsMismatch(f"{path} is no checkpoint of a training run; check the output folder")
        variables = _variables(model)
        expected = {name: tuple(variable.shape) for name, variable in variables.items()}
        found = {name: array.shape for name, array in store.items() if name != "history"}
        if expected != found or "history" not in store:
            different = sorted({name for name, _ in expected.items() ^ found.items()})
            raise WeightsMismatch(
                f"{path} belongs to another network or optimiser: {len(different)} differences, first "
                f"{', '.join(different[:3])}; resume with the configuration that it was started with"
            )
        for name, variable in variables.items():
            variable.assign(store[name].read().reshape(tuple(variable.shape)))
        try:
            progress = json.loads(store.attributes["progress"])
        except (KeyError, ValueError) as error:
            raise WeightsCorrupt(f"{path} does not state its epoch; start the training anew") from error
        return progress, store["history"].read()


def read_progress(path: Path) -> int:
    """Return how many epochs a checkpoint has done, without the network that it belongs to.

    Raises
    ------
    WeightsMismatch
        If the file is no checkpoint.
    """
    with read(path) as store:
        if store.attributes.get("kind") != KIND or "history" not in store:
            raise WeightsMismatch(f"{path} is no checkpoint of a training run; check the output folder")
        return int(store["history"].shape[0])


def _variables(model: keras.Model) -> dict[str, Any]:
    """Name every variable that the next step depends on by its place; Keras counts some names up."""
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    # Metrics start anew with each epoch.
    metrics = {id(variable) for variable in model.metrics_variables}
    network = [variable for variable in model.variables if id(variable) not in metrics]
    named = {f"model/{number:04d}": variable for number, variable in enumerate(network)}
    return named | {f"optimizer/{number:04d}": item for number, item in enumerate(optimizer.variables)}
