"""Convert weight files: any original format to kerasneuro's own, and back to the format of the original."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasneuro import registry
from kerasneuro.__about__ import __version__
from kerasneuro.errors import InvalidOption, OutputError
from kerasneuro.networks import CONVERTER, family_module, lay_out, ready_card, sketch_graph

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from kerasneuro.registry import ModelCard
    from kerasneuro.weights import WeightStore

ORIGIN = ("source", "source_sha256", "source_format", "registered")


def convert_weights(
    path: str | os.PathLike[str],
    to: str,
    output: str | os.PathLike[str],
    *,
    part: str | None = None,
    to_original: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a weight file of a registered model in kerasneuro's own format, or in that of the original.

    The arrays are read, converted and written one at a time; nothing in the file is run.

    Parameters
    ----------
    path : path
        A Keras 2 ``.h5`` file, a PyTorch state dict or checkpoint, a TorchScript archive, the folder of a
        SavedModel, or a file that this function wrote.
    to : str
        Registry name of the model that the file belongs to.
    output : path
        The new file. Our own format is HDF5 with the names of our variables and the origin of the weights;
        `kerasneuro.load` takes it as ``weights=`` on every backend.
    part : str, optional
        Which network of the model the file holds, where the model has several.
    to_original : bool
        Write the file that the original package reads: the weights of Keras 2, or a PyTorch state dict.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The new file, complete.

    Raises
    ------
    ModelNotFound, ModelNotReady
        If the model is not registered, or this version cannot build it.
    InvalidOption
        If `part` is missing or unknown, a whole model (``.keras``) is asked for, or the original cannot be
        written.
    OutputError
        If the output exists, is the source, or cannot be written.
    WeightsNotFound, WeightsCorrupt, WeightsMismatch
        If the source is missing, damaged, or belongs to another model.

    Examples
    --------
    >>> import kerasneuro
    >>> kerasneuro.convert_weights("model.pt", "deepbet", "brain.h5", part="brain")  # doctest: +SKIP
    PosixPath('brain.h5')
    """
    from kerasneuro.weights import match, read, values_for, write_flat, write_original

    source, target = Path(path), Path(output)
    refuse_whole_model(source, target)
    card = ready_card(to)
    part = choose_part(card, part)
    check_paths(source, target, overwrite)
    graph, weights = family_module(card, "graph"), family_module(card, "weights")
    if to_original and not hasattr(weights, "original"):
        raise InvalidOption(
            f"kerasneuro cannot write the original format of {card.name} ({original_format(card)}); "
            "convert to .h5, which kerasneuro reads on every backend"
        )
    with read(source) as store:
        layout = lay_out(card, weights, part, store)
        model = sketch_graph(card, graph, layout.config, part)
        pairs = match(model, layout.store, layout.table(model), ignore=layout.ignored)
        matched = {variable.path: (variable, entry) for variable, entry in pairs}

        def values(name: str) -> np.ndarray:
            variable, entry = matched[name]
            return values_for(model, layout.store, variable, entry).astype(variable.dtype, copy=False)

        if to_original:
            write_original(target, weights.original(model), values)
        else:
            arrays: Iterator[tuple[str, np.ndarray]] = ((name, values(name)) for name in matched)
            write_flat(target, arrays, describe_origin(card, part, source, store, layout.config))
    return target


def convert_graph(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    layout: str = "channels_last",
    overwrite: bool = False,
) -> Path:
    """Write the network of an ONNX file as a whole Keras model (``.keras``); nothing in the file is run.

    Parameters
    ----------
    path : path
        The ONNX file.
    output : path
        The new file. Plain Keras reads it after ``import kerasneuro.nn.registered``.
    layout : {"channels_last", "onnx"}
        See `kerasneuro.convert`.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The new file, complete.

    Raises
    ------
    InvalidOption
        If the layout is unknown, or the output is not named ``.keras``.
    OutputError
        If the output exists, is the source, or cannot be written.
    WeightsNotFound, WeightsCorrupt, UnsupportedGraph
        If the source is missing or damaged, or has an operator that is not supported.
    """
    from kerasneuro.onnx_models import convert
    from kerasneuro.weights.whole_file import whole_file

    source, target = Path(path), Path(output)
    if target.suffix.lower() != ".keras":
        raise InvalidOption(f"a whole model is written to a file named .keras, found {target.name}")
    check_paths(source, target, overwrite)
    model = convert(source, layout)
    with whole_file(target) as partial:
        named = partial.with_name(f"{partial.name}.keras")  # Keras goes by the name.
        try:
            model.save(named)
            os.replace(named, partial)
        finally:
            named.unlink(missing_ok=True)
    return target


def refuse_whole_model(source: Path, target: Path) -> None:
    """Refuse to write the weights of a registered model as a whole one.

    Raises
    ------
    InvalidOption
        If the output is named ``.keras``.
    """
    if is_graph(source, target):
        raise InvalidOption(
            f"{source.name} holds its own network: kerasneuro.convert makes a Keras model of it, without the "
            "name of a registered one"
        )


def is_graph(source: Path, target: Path) -> bool:
    """Say whether the network of an ONNX file is to become a whole Keras model.

    Raises
    ------
    InvalidOption
        If a whole model is asked for, but the source is no ONNX file.
    """
    if target.suffix.lower() != ".keras":
        return False
    if source.suffix.lower() != ".onnx":
        raise InvalidOption(
            f"{source.name} cannot become {target.name}: only the network of an ONNX file is written as a "
            "whole model; the weights of a registered model become .h5"
        )
    return True


def choose_part(card: ModelCard, part: str | None) -> str:
    """Return the part of the model that the file holds; empty where there is one network.

    Raises
    ------
    InvalidOption
        If it is missing or unknown.
    """
    if part is None and (not card.parts or card.is_bag):
        return ""
    if part is None or part not in card.parts:
        known = f"its parts are {', '.join(card.parts)}" if card.parts else "it has one network and no parts"
        found = "no part was given" if part is None else f"it has no part {part!r}"
        raise InvalidOption(f"{card.name}: {found}; {known}")
    return part


def check_paths(source: Path, target: Path, overwrite: bool) -> None:
    """Refuse a target that cannot be written, or that is the source.

    Raises
    ------
    OutputError
        In these cases.
    """
    from kerasneuro.tasks.result import check_targets

    if target.exists() and source.exists() and os.path.samefile(source, target):
        raise OutputError(f"the output {target} is the file to convert; choose another target")
    check_targets([target], overwrite=overwrite)


def original_format(card: ModelCard) -> str:
    """Name the format of the published files."""
    return card.files[0].format if card.files else "none is published"


def describe_origin(
    card: ModelCard, part: str, path: Path, store: WeightStore, config: Mapping[str, Any]
) -> dict[str, str]:
    """Collect what a converted file says of itself: its network, its source, the licence of the weights."""
    from kerasneuro.fetching import digest_weights, identify, main_file
    from kerasneuro.weights import is_converted

    origin = {name: store.attributes.get(name, "") for name in ORIGIN}
    if not is_converted(store):
        main = main_file(path)
        origin = {
            "source": path.name,
            "source_sha256": digest_weights(path),
            "source_format": store.format,
            "registered": identify(main, registry.cards()) or "",
        }
    return {
        "model": card.name,
        "part": part,
        "config": json.dumps(config),
        **origin,
        "converter": CONVERTER,
        "kerasneuro": __version__,
        "licence": card.licence.name,
        "licence_grant": card.licence.grant,
        "licence_read": card.licence.read,
    }
