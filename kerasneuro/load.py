"""From a name to a working task: find the card, the weights, the graph, and put them together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasneuro import registry
from kerasneuro.errors import InvalidOption, WeightsNotFound
from kerasneuro.hub import folder_of
from kerasneuro.networks import (
    build_graph,
    family_module,
    load_part,
    open_own_way,
    ready_card,
    task_class,
)
from kerasneuro.saved.folder import is_path, load_folder
from kerasneuro.weight_files import describe_weights, locate_weights

if TYPE_CHECKING:
    import keras

    from kerasneuro.registry import ModelCard
    from kerasneuro.tasks import Task
    from kerasneuro.weight_files import Weights

    Progress = Callable[[int, int | None], None]


def list_models(pattern: str = "*") -> list[str]:
    """List the names of the registry that match a wildcard pattern.

    Examples
    --------
    >>> import kerasneuro
    >>> kerasneuro.list_models("nobrainer-*")
    ['nobrainer-ams', 'nobrainer-brainy', 'nobrainer-unet']
    """
    return registry.names(pattern)


def info(name: str) -> ModelCard:
    """Return the model card: what the model does, its files, licence, citation, limits.

    Raises
    ------
    ModelNotFound
        If the name is not in the registry.

    Examples
    --------
    >>> import kerasneuro
    >>> kerasneuro.info("deepbet").doi
    '10.1016/j.compbiomed.2024.108845'
    """
    return registry.get(name)


def fetch(name: str, *, source: str | None = None, progress: Progress | None = None) -> dict[str, Path]:
    """Bring the files of a model (or of a sample scan) onto this machine and verify them.

    Parameters
    ----------
    name : str
        A registry name, or the name of a sample.
    source : {"auto", "datalad", "https", "folder"}, optional
        Where to look (default: ``KERASNEURO_SOURCE``, else "auto").
    progress : callable, optional
        Called with the bytes done and the total (None where unknown).

    Returns
    -------
    dict of str to Path
        File name -> verified local path.

    Raises
    ------
    ModelNotFound
        If neither a model nor a sample has this name.
    FetchFailed
        If no source delivered the registered bytes.

    Examples
    --------
    >>> import kerasneuro
    >>> kerasneuro.fetch("deepbet")  # doctest: +SKIP
    {'bbox_model.pt': PosixPath(...), 'model.pt': PosixPath(...)}
    """
    from kerasneuro.fetching import ensure

    samples = registry.samples()
    files = (samples[name].file,) if name in samples else registry.get(name).files
    if not files:
        raise WeightsNotFound(f"{name} has no published file; bring your own with weights=PATH")
    return {file.name: ensure(file, source=source, progress=progress) for file in files}


def build(name: str, **config: Any) -> keras.Model | dict[str, keras.Model]:
    """Build the graph of a model with random weights.

    Parameters
    ----------
    name : str
        A registry name.
    **config
        Overrides of the card's configuration (widths, classes, input shape).

    Returns
    -------
    keras.Model or dict of str to keras.Model
        The network, or part -> network where the task has several.

    Examples
    --------
    >>> import kerasneuro
    >>> model = kerasneuro.build("nobrainer-unet", n_classes=3, input_shape=(64, 64, 64, 1))
    """
    card = ready_card(name)
    graph = family_module(card, "graph")
    models = {part: build_graph(card, graph, config, part) for part in card.parts or ("",)}
    return models if card.parts else models[""]


def load(
    name: str | os.PathLike[str],
    *,
    weights: Weights | None = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> Task:
    """Load a model with its trained weights, ready to be called on a scan.

    Parameters
    ----------
    name : str or path
        A registry name such as ``"deepbet"``; `list_models` gives them all. Or the folder of a saved model
        (`save_model`, `finetune`): a path, or a text with a slash such as ``"./tumour"``.
    weights : path, list of paths, or mapping of part to path, optional
        Your own weight files in the original format; they are opened by the safe readers and reported by
        their digest. Default: the registered files, found locally or fetched and verified.
    config : mapping, optional
        Overrides of the configuration that is otherwise inferred from the weight file.
    **options
        Passed to the task's constructor.

    Returns
    -------
    Task
        Call it on a path or a nibabel image.

    Raises
    ------
    ModelNotFound
        If the name is not in the registry, or the folder holds no saved model.
    ModelNotReady
        If the model is registered but not available in this version.
    WeightsNotFound, FetchFailed
        If the weight files cannot be found or fetched.
    WeightsCorrupt, WeightsMismatch
        If a file is damaged or does not fit the graph.

    Examples
    --------
    >>> import kerasneuro
    >>> task = kerasneuro.load("deepbet")  # doctest: +SKIP
    >>> result = task("head.nii.gz")  # doctest: +SKIP
    >>> result.save("out/")  # doctest: +SKIP
    """
    folder = os.fspath(name) if is_path(name) else folder_of(ready_card(str(name)))
    if folder is not None:
        if weights is not None or config:
            raise InvalidOption(f"{os.fspath(name)} brings its own weights; leave weights and config out")
        return load_folder(folder, needs=load, **options)
    name = str(name)
    card = ready_card(name)
    paths = locate_weights(card, weights)
    graph, table = family_module(card, "graph"), family_module(card, "weights")
    models, provenance = {}, {}
    for part, path in paths.items():
        opened = open_own_way(card, table, part, path, config or {}, given=weights is not None)
        provenance[part] = describe_weights(card, part, path, given=weights is not None)
        sha256 = provenance[part]["sha256"]
        models[part] = load_part(card, graph, table, part, path, config or {}, sha256, opened)
    # Another model that a task needs is loaded when the task first asks for it, or never.
    needed = (
        {"needs": {role: partial(load, other) for role, other in card.needs.items()}} if card.needs else {}
    )
    task: Task = task_class(card)(card, models, provenance, **needed, **options)
    return task
