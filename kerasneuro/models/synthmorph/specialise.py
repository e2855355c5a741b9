"""Compute the kernels of the deformable network for one regularisation while its file streams by.

The published file holds 877 million numbers, from which the hypernetwork makes 26.6 million for a given
regularisation: each kernel is a sum of the rows of a matrix, weighted by the hypernetwork's last layer. So
the file is read once, in the order of its bytes; each row is added to its kernel and forgotten, and the same
bytes go into the digest. The kernels are kept in the cache, by digest and regularisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.errors import InvalidOption, KerasNeuroError, OutputError, WeightsCorrupt, WeightsMismatch
from kerasneuro.fetching import cache_directory, recall_digest, remember_digest, state_of
from kerasneuro.fetching.cache import mark
from kerasneuro.models.synthmorph.arrays import FIXED, file_layers, network_arrays
from kerasneuro.models.synthmorph.streamed import Summand, add_by_reading, add_rows
from kerasneuro.models.synthmorph.weights import (
    KERNEL,
    REGULARISATION,
    hyper_channels,
    infer_config,
    table,
)
from kerasneuro.weights import LazyArray, WeightStore, assign, read, write_flat

if TYPE_CHECKING:
    import keras

VERSION = "1"  # counts up when the kernels of a file would change
FORMAT = "kerasneuro-h5"
# What the released model is, beside its widths; see `graph.build`.
PIPELINE: dict[str, Any] = {"network": "deform", "bidir": True, "mid_space": True}

Regularisation = float | Sequence[float]


def check_regularisation(regularisation: Regularisation) -> tuple[float, ...]:
    """Return the hyperparameters as a tuple.

    Raises
    ------
    InvalidOption
        If one is not between 0 and 1.
    """
    values = regularisation if isinstance(regularisation, Sequence) else (regularisation,)
    with suppress(TypeError, ValueError):
        numbers = tuple(float(value) for value in values)
        if numbers and all(0 < number < 1 for number in numbers):
            return numbers
    raise InvalidOption(f"regularisation must be above 0 and below 1, found {regularisation!r}")


def specialised_network(
    path: Path | str,
    regularisation: Regularisation = REGULARISATION,
    *,
    config: Mapping[str, Any] | None = None,
    sha256: str | None = None,
) -> keras.Model:
    """Build the deformable network for one regularisation from the file of the hypernetwork.

    Parameters
    ----------
    path : path
        The file, in any layout of Keras 2.
    regularisation : float or sequence of float
        Weight of the smoothness, above 0 and below 1 (one for each hyperparameter of the file).
    config : mapping, optional
        Arguments of `graph.build` beside those that the file determines; by default those of the pipeline.
    sha256 : str, optional
        What the file must be.

    Returns
    -------
    keras.Model
        Maps two images to the transforms; its part `graph.velocity_network` holds the kernels.

    Raises
    ------
    InvalidOption
        If the regularisation is out of range, or not one for each hyperparameter.
    WeightsMismatch
        If the file holds no hypernetwork.
    WeightsCorrupt
        If it is damaged, or is not the expected file.
    """
    opened = open_specialised(Path(path), regularisation, sha256=sha256)
    if opened is None:
        raise WeightsMismatch(f"{path} holds no hypernetwork; give the file of synthmorph-deform")
    with opened as store:
        return build_specialised(store, config)


def open_specialised(
    path: Path, regularisation: Regularisation, *, sha256: str | None = None
) -> WeightStore | None:
    """Return the kernels for one regularisation, from the cache or computed; see `specialised_network`.

    Returns
    -------
    WeightStore or None
        Kernels and biases under the names of the specialised network; None if the file is no hypernetwork's.
    """
    values = check_regularisation(regularisation)
    known = recall_digest(path) if path.is_file() else None
    if known is not None and sha256 in (None, known):
        cached = _open_cached(_cached_path(known, values), known)
        if cached is not None:
            return cached
    with read(path) as store:
        if not file_layers(store)["hyper"]:
            return None
        before = state_of(path)
        kernels, summands = plan_kernels(store, values)
        digest = add_rows(path, summands)
    check_finite(path, kernels)
    if state_of(path) != before:
        raise WeightsCorrupt(f"{path} changed while it was read; try again")
    if sha256 is not None and digest != sha256:
        raise WeightsCorrupt(f"{path} has sha256 {digest}, expected {sha256}; replace the file")
    remember_digest(before, digest)
    # A read-only or full cache costs the next call another computation, nothing more.
    with suppress(OSError, OutputError):
        _keep(_cached_path(digest, values), kernels, digest)
    return store_of(kernels, path)


def specialise_model(
    model: keras.Model, regularisation: Regularisation, *, config: Mapping[str, Any] | None = None
) -> keras.Model:
    """Build the deformable network for one regularisation from a graph with a hypernetwork.

    Parameters
    ----------
    model : keras.Model
        "deform" or "joint" of `graph.build`, with a hypernetwork.
    regularisation, config
        See `specialised_network`.

    Returns
    -------
    keras.Model
        The deformable network without hypernetwork; later changes of `model` do not reach it.

    Raises
    ------
    InvalidOption
        If the model has no hypernetwork, or the regularisation is out of range.
    """
    from keras import ops

    from kerasneuro.models.synthmorph.graph import velocity_network

    values = check_regularisation(regularisation)
    variables = velocity_network(model).variables
    store = store_of({variable.path: ops.convert_to_numpy(variable) for variable in variables}, Path("model"))
    if not file_layers(store)["hyper"]:
        raise InvalidOption(f"the network {model.name!r} has no hypernetwork, so it cannot be specialised")
    kernels, summands = plan_kernels(store, values)
    add_by_reading(summands)
    return build_specialised(store_of(kernels, store.path), config)


def build_specialised(store: WeightStore, config: Mapping[str, Any] | None) -> keras.Model:
    """Build the specialised network around its kernels."""
    from kerasneuro.models.synthmorph.graph import build

    model = build(**{**infer_config(store), **PIPELINE, **(config or {}), "specialised": True})
    assign(model, store, table(store, model))
    return model


def plan_kernels(
    store: WeightStore, values: tuple[float, ...]
) -> tuple[dict[str, np.ndarray], list[Summand]]:
    """Return kernels and biases of zeros under our names, and what is to be added to them.

    Raises
    ------
    WeightsMismatch
        If the layers make no network.
    InvalidOption
        If there is not one value for each hyperparameter.
    """
    store = network_arrays(store, "deform")
    infer_config(store)
    layers = file_layers(store)
    hidden = hidden_units(store, layers["dense"], values)
    channels, rank = hyper_channels(store, layers["hyper"])
    kernels: dict[str, np.ndarray] = {}
    summands: list[Summand] = []
    for index, (layer, (inputs, filters)) in enumerate(zip(layers["hyper"], channels, strict=True)):
        shapes = {"kernel": (*(KERNEL,) * rank, inputs, filters), "bias": (filters,)}
        for part, shape in shapes.items():
            total = np.zeros(prod(shape), np.float32)
            kernels[f"{FIXED}{f'_{index}' if index else ''}/{part}"] = total.reshape(shape)
            matrix, bias = (store[f"{layer}/hyper{part}_{name}"] for name in ("kernel", "bias"))
            if matrix.shape != (hidden.size, total.size) or bias.shape != (total.size,):
                raise WeightsMismatch(
                    f"{store.path}: {layer} has arrays {matrix.shape} and {bias.shape} for its {part}, "
                    f"expected {(hidden.size, total.size)} and {(total.size,)}; give a file of SynthMorph"
                )
            summands += [Summand(matrix, hidden, total), Summand(bias, np.ones(1, np.float32), total)]
    return kernels, summands


def hidden_units(store: WeightStore, layers: Sequence[str], values: tuple[float, ...]) -> np.ndarray:
    """Compute the last layer of the hypernetwork, (H,) float32."""
    hidden = np.asarray(values, np.float32)
    for layer in layers:
        kernel, bias = store[f"{layer}/kernel"], store[f"{layer}/bias"]
        if kernel.shape[0] != hidden.size and layer == layers[0]:
            raise InvalidOption(
                f"{store.path} takes {kernel.shape[0]} hyperparameters, found {hidden.size}: {values}"
            )
        if kernel.shape != (hidden.size, *bias.shape):
            raise WeightsMismatch(
                f"{store.path}: the dense layer {layer} has arrays {kernel.shape} and {bias.shape}, expected "
                f"{hidden.size} inputs; give a file of SynthMorph"
            )
        hidden = np.maximum(hidden @ kernel.read() + bias.read(), 0).astype(np.float32)
    return hidden


def check_finite(path: Path, kernels: Mapping[str, np.ndarray]) -> None:
    """Refuse kernels with NaN or infinity."""
    for name, array in kernels.items():
        if not (np.isfinite(array.min()) and np.isfinite(array.max())):
            raise WeightsCorrupt(f"{path}: the arrays of {name} hold NaN or infinity; fetch it again")


def store_of(arrays: Mapping[str, np.ndarray], path: Path) -> WeightStore:
    """Give arrays in memory the form of an open weight file."""

    def lazy(name: str, array: np.ndarray) -> LazyArray:
        return LazyArray(name, array.shape, array.dtype, lambda selection: array[selection])

    return WeightStore(path, FORMAT, {name: lazy(name, array) for name, array in arrays.items()})


def _cached_path(digest: str, values: tuple[float, ...]) -> Path:
    name = "-".join(str(value) for value in values)
    return cache_directory() / "converted" / f"{digest}-{VERSION}" / f"synthmorph-specialised-{name}.h5"


def _keep(path: Path, kernels: Mapping[str, np.ndarray], digest: str) -> None:
    mark()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_flat(path, kernels, {"source_sha256": digest, "specialised": VERSION})


def _open_cached(path: Path, digest: str) -> WeightStore | None:
    """Read the kernels of an earlier call; a damaged or foreign file is only a lost shortcut."""
    with suppress(KerasNeuroError, OSError), read(path) as store:
        if store.attributes.get("source_sha256") == digest and file_layers(store)["fixed"]:
            return store_of({name: array.read() for name, array in store.items()}, path)
    return None
