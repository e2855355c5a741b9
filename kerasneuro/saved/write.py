"""Write a task and its networks as a folder that `kerasneuro.load` and plain Keras can read."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasneuro import registry
from kerasneuro.__about__ import __version__
from kerasneuro.errors import InvalidOption, OutputError
from kerasneuro.networks import CONVERTER, built_with, weights_of
from kerasneuro.saved.folder import CARD, KIND, NAME, PLAIN, VERSION, WEIGHTS

if TYPE_CHECKING:
    import keras
    import numpy as np

    from kerasneuro.tasks import Task


def save_model(
    task: Task,
    folder: str | os.PathLike[str],
    *,
    details: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a task as a folder: its weights, a card, and a copy for plain Keras.

    ``card.json`` says what the model is, where it comes from and under which licence; ``weights.h5`` (one
    file for each part where there are several) holds the arrays by name, for `kerasneuro.load`;
    ``model.keras`` is for `keras.models.load_model`, after ``import
    kerasneuro.nn.registered``, and kerasneuro never opens it.

    Parameters
    ----------
    task : Task
        From `kerasneuro.finetune` or `kerasneuro.load`.
    folder : path
        New; it is complete or absent.
    details : mapping, optional
        Further content of the card: ``data``, ``metrics``, ``history``.
    overwrite : bool
        Replace a folder of an earlier model.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InvalidOption
        If a network was not built by kerasneuro.
    OutputError
        If the folder exists or cannot be written.

    Examples
    --------
    >>> import kerasneuro
    >>> kerasneuro.save_model(task, "tumour-model")  # doctest: +SKIP
    >>> task = kerasneuro.load("./tumour-model")  # doctest: +SKIP
    """
    content = describe_task(task) | dict(details or {})
    with new_folder(Path(folder), overwrite=overwrite) as partial:
        for part, model in task.models.items():
            name = f"{part}.h5" if part else WEIGHTS
            write_weights(model, partial / name, texts_of(task, content, part))
            content["parts"][part] = {"file": name, "sha256": _digest(partial / name)}
            model.save(partial / (f"{part}.keras" if part else PLAIN))
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        (partial / CARD).write_text(text + "\n", encoding="utf-8")
    return Path(folder)


@contextmanager
def new_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Lend a hidden folder beside `path`, which takes its place at the end.

    Raises
    ------
    OutputError
        If `path` exists and is not to be replaced, or is no saved model, or cannot be written.
    """
    path = path.absolute()
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already; allow overwriting or choose another folder")
    if path.exists() and not (path / CARD).is_file():
        raise OutputError(f"{path} holds no saved model and is not replaced; choose another folder")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist; create it first")
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".part", dir=path.parent))
    except OSError as error:
        raise OutputError(
            f"the folder {path.parent} is not writable: {error.strerror}; choose another"
        ) from error
    former = partial.with_suffix(".old")
    try:
        yield partial
        partial.chmod(0o755)
        if path.exists():
            path.rename(former)
        partial.rename(path)
    except OSError as error:
        if former.exists() and not path.exists():
            former.rename(path)
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        for left in (partial, former):
            with suppress(OSError):
                shutil.rmtree(left)


def describe_task(task: Task) -> dict[str, Any]:
    """Return the content of a card for a task: of a fine-tuned one, or of a registered model.

    Raises
    ------
    InvalidOption
        If the task does not belong to a registered model.
    """
    if (content := task.saved) is not None:
        return {**content, "parts": {}}
    base = registry.published().get(task.card.name)
    if base is None or not NAME.fullmatch(task.card.name):
        raise InvalidOption(
            f"{task.card.name} is no model of the registry and was not fine-tuned by kerasneuro; save its "
            "networks with model.save"
        )
    card = registry.as_dict(base)
    return {
        "kind": KIND,
        "version": VERSION,
        "name": base.name,
        "family": base.family,
        "base": base.name,
        "task": base.task,
        "pipeline": "own",
        "summary": base.summary,
        "parent": parent_of(task),
        "config": {},
        "parts": {},
        "classes": [],
        "input": card["input"],
        "output": card["output"],
        "data": {},
        "licence": card["licence"],
        "metrics": {},
        "history": [],
        "citation": base.citation,
        "use": base.intended_use,
        "kerasneuro": __version__,
    }


def parent_of(task: Task) -> dict[str, Any]:
    """Name the model whose weights a task has, with the digests of its files."""
    keys = ("sha256", "registered")
    files = {
        part: {key: str(entry[key]) for key in keys if key in entry}
        for part, entry in task.provenance.items()
    }
    return {"name": task.card.name, "files": files}


def config_of(task: Task, part: str) -> dict[str, Any]:
    """Return how a network of a task was built, in plain values.

    Raises
    ------
    InvalidOption
        If it was not built by kerasneuro.
    """
    found = built_with(task.models[part])
    if found is None:
        raise InvalidOption(
            f"the network {part} of {task.card.name} was not built by kerasneuro, so its configuration "
            "is not known; start from kerasneuro.load or kerasneuro.build"
        )
    return {key: value for key, value in found.items() if key != "name"}


def texts_of(task: Task, content: Mapping[str, Any], part: str) -> dict[str, str]:
    """Collect what a weight file says of itself."""
    config = config_of(task, part)
    content["config"][part] = config
    licence = content["licence"]
    return {
        "model": content["base"],
        "part": part,
        "config": json.dumps(config),
        "source": content["name"],
        "source_sha256": "",
        "source_format": "kerasneuro",
        "registered": "",
        "parent": json.dumps(content["parent"]),
        "converter": CONVERTER,
        "kerasneuro": __version__,
        "licence": str(licence.get("name", "")),
        "licence_grant": str(licence.get("grant", "")),
        "licence_read": str(licence.get("read", "")),
    }


def write_weights(model: keras.Model, path: Path, texts: Mapping[str, str]) -> None:
    """Write the arrays of a network under the names of its variables."""
    from kerasneuro.weights import write_flat

    write_flat(path, _arrays(model), texts)


def _arrays(model: keras.Model) -> Iterator[tuple[str, np.ndarray]]:
    import keras

    for variable in weights_of(model):
        yield variable.path, keras.ops.convert_to_numpy(variable)


def _digest(path: Path) -> str:
    from kerasneuro.fetching import digest_file

    return digest_file(path, "sha256")
