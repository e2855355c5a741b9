"""Give every variable of a graph its array of a weight file, after proving that they fit one to one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from kerasneuro.errors import WeightsCorrupt, WeightsMismatch
from kerasneuro.weights.store import WeightStore

MOST_ROWS = 20
SEED_STATE = "seed_generator_state"
NOTHING = "-"


@dataclass(frozen=True)
class Entry:
    """Where the values of one variable come from.

    Attributes
    ----------
    keys : tuple of str
        Arrays of the file.
    convert : callable, optional
        Pure function from these arrays (in order) to the values of the variable; without it there must be one
        array, taken as it is.
    shape : tuple of int, optional
        Shape that `convert` returns, where it is known; otherwise the shape is checked while assigning.
    invert : callable, optional
        Pure function from the values of the variable back to the arrays of the file: one array, or a tuple of
        them in the order of `keys`. Without it an entry with `convert` can not be written as the original.
    """

    keys: tuple[str, ...]
    convert: Callable[..., np.ndarray] | None = None
    shape: tuple[int, ...] | None = None
    invert: Callable[[np.ndarray], np.ndarray | tuple[np.ndarray, ...]] | None = None

    def __post_init__(self) -> None:
        if not self.keys or (self.convert is None and len(self.keys) != 1):
            raise ValueError(f"an entry without a function takes exactly one array, found {self.keys}")


@dataclass(frozen=True)
class _Row:
    """One difference: what the file has, and what the model wants."""

    file: str
    model: str


def assign(
    model: Any, store: WeightStore, table: Mapping[str, Entry | str], *, ignore: Collection[str] = ()
) -> None:
    """Assign the arrays of a file to the variables of a model, one array at a time.

    Parameters
    ----------
    model : keras.Model
        Or any object whose ``variables`` have ``path``, ``shape`` and ``assign``. States of seed generators
        are left as they are.
    store : WeightStore
        The open file (or part of it, from `WeightStore.sub`).
    table : mapping of str to Entry or str
        Path of the variable -> key of the file, or an `Entry`.
    ignore : collection of str
        Keys that need not be used; ``*`` stands for any text, as in ``*.num_batches_tracked``.

    Raises
    ------
    WeightsMismatch
        If a variable has no array, an array is not used exactly once, or a shape differs. Nothing has been
        assigned then, unless only a converted array showed it.
    WeightsCorrupt
        If an array holds NaN or infinity, or can not be read.
    """
    for variable, entry in match(model, store, table, ignore=ignore):
        variable.assign(values_for(model, store, variable, entry))


def match(
    model: Any, store: WeightStore, table: Mapping[str, Entry | str], *, ignore: Collection[str] = ()
) -> list[tuple[Any, Entry]]:
    """Prove that the arrays of a file fit the variables of a model one to one, without reading an array.

    Parameters
    ----------
    model, store, table, ignore
        As for `assign`; the variables need no values.

    Returns
    -------
    list of (variable, Entry)
        In the order of the model.

    Raises
    ------
    WeightsMismatch
        If they do not fit.
    """
    variables = _variables(model)
    entries = as_entries(table)
    rows = list(_differences(variables, store, entries, ignore))
    if rows:
        raise WeightsMismatch(_message(model, store, rows))
    return [(variable, entries[path]) for path, variable in variables.items()]


def as_entries(table: Mapping[str, Entry | str]) -> dict[str, Entry]:
    """Write every line of a table as an `Entry`."""
    return {path: Entry((entry,)) if isinstance(entry, str) else entry for path, entry in table.items()}


def _variables(model: Any) -> dict[str, Any]:
    """Return path -> variable; Keras's `weights` leaves out metrics, which `variables` holds too."""
    found = model.weights if hasattr(model, "weights") else model.variables
    kept = [variable for variable in found if variable.path.rpartition("/")[2] != SEED_STATE]
    paths = Counter(variable.path for variable in kept)
    repeated = [path for path, count in paths.items() if count > 1]
    if repeated:
        raise WeightsMismatch(
            f"the model has several variables named {repeated[0]!r}; give its layers own names"
        )
    return {variable.path: variable for variable in kept}


def _differences(
    variables: Mapping[str, Any], store: WeightStore, entries: Mapping[str, Entry], ignore: Collection[str]
) -> Iterator[_Row]:
    uses = Counter(key for entry in entries.values() for key in entry.keys)
    for path, variable in variables.items():
        wanted = f"{path} {tuple(variable.shape)}"
        entry = entries.get(path)
        if entry is None:
            yield _Row(NOTHING, wanted)
            continue
        for key in entry.keys:
            if key not in store:
                yield _Row(f"{NOTHING} ({key} is missing)", wanted)
            elif uses[key] > 1:
                yield _Row(f"{key} {store[key].shape} (used {uses[key]} times)", wanted)
        shape = _known_shape(store, entry)
        if shape is not None and shape != tuple(variable.shape):
            yield _Row(f"{', '.join(entry.keys)} {shape}", wanted)
    for key, array in store.items():
        if key not in uses and not any(fnmatchcase(key, pattern) for pattern in ignore):
            yield _Row(f"{key} {array.shape}", NOTHING)
    for path, entry in entries.items():
        if path not in variables:
            yield _Row(", ".join(entry.keys), f"{NOTHING} (no variable {path})")


def _known_shape(store: WeightStore, entry: Entry) -> tuple[int, ...] | None:
    """Return the shape that an entry will give, where it is known without reading."""
    if entry.convert is not None:
        return entry.shape
    return store[entry.keys[0]].shape if entry.keys[0] in store else None


def _message(model: Any, store: WeightStore, rows: list[_Row]) -> str:
    name = getattr(model, "name", type(model).__name__)
    shown = [_Row("file has", "model wants"), *rows[:MOST_ROWS]]
    width = max(len(row.file) for row in shown)
    lines = [f"  {row.file:<{width}} | {row.model}" for row in shown]
    if len(rows) > MOST_ROWS:
        lines.append(f"  ... and {len(rows) - MOST_ROWS} more")
    return (
        f"{store.path} does not fit the model {name!r}: {len(rows)} differences, expected none; check that "
        "the file belongs to this model and its configuration\n" + "\n".join(lines)
    )


def values_for(model: Any, store: WeightStore, variable: Any, entry: Entry) -> np.ndarray:
    """Read the values of one variable from a file.

    Parameters
    ----------
    model, store : keras.Model, WeightStore
        As for `assign`.
    variable, entry : keras.Variable, Entry
        One pair from `match`.

    Returns
    -------
    numpy.ndarray
        Contiguous, in the shape of the variable and the type of the file.

    Raises
    ------
    WeightsMismatch
        If the converted array has another shape.
    WeightsCorrupt
        If an array holds NaN or infinity, or can not be read.
    """
    arrays = [_finite(store, key, store[key].read()) for key in entry.keys]
    values = arrays[0]
    if entry.convert is not None:
        values = _finite(store, ", ".join(entry.keys), np.asarray(entry.convert(*arrays)))
    if values.shape != tuple(variable.shape):
        row = _Row(f"{', '.join(entry.keys)} {values.shape}", f"{variable.path} {tuple(variable.shape)}")
        raise WeightsMismatch(_message(model, store, [row]))
    return np.ascontiguousarray(values).reshape(values.shape)


def _finite(store: WeightStore, key: str, values: np.ndarray) -> np.ndarray:
    """Return `values`; their extremes tell of every NaN and infinity without an array of flags."""
    if values.dtype.kind == "c":
        raise WeightsMismatch(f"{store.path}: the array {key!r} holds complex numbers, expected real ones")
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise WeightsCorrupt(f"{store.path}: the array {key!r} holds NaN or infinity; fetch the file again")
    return values
