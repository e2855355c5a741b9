"""Settings of a training job: frozen dataclasses, read from YAML with every mistake named in one sentence.

A schema is a frozen dataclass whose fields are made by `option` (with a default, a help text and, where only
some values are allowed, the choices) or are schemas themselves.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from kerasneuro.errors import InvalidOption, MissingDependency

T = TypeVar("T")
WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def option(default: Any, help_text: str, *, least: float | None = None, most: float | None = None) -> Any:
    """Make a field of a schema.

    Parameters
    ----------
    default : object
        Value where the file says nothing.
    help_text : str
        Stands beside the key in the documented YAML.
    least, most : float, optional
        Bounds of a number, both included; of every number of a list.
    """
    metadata = {"help": help_text, "least": least, "most": most}
    return field(default=default, metadata=metadata)


def require_yaml() -> Any:
    """Import PyYAML.

    Raises
    ------
    MissingDependency
        If it is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingDependency(
            "a training configuration needs PyYAML; install it with: pip install 'kerasneuro[train]'"
        ) from error
    return yaml


def read_config(path: str | Path, schema: type[T]) -> T:
    """Read a YAML file; no code in it is run.

    Parameters
    ----------
    path : path
        Keys that are left out keep their default.
    schema : type
        A frozen dataclass.

    Returns
    -------
    schema
        Checked settings.

    Raises
    ------
    InvalidOption
        If the file cannot be read, a key is unknown, or a value is not allowed.
    MissingDependency
        If PyYAML is not installed.
    """
    yaml = require_yaml()
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"the configuration {path} cannot be read as text: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InvalidOption(f"{path} is no YAML file: {reason}; `--write-config` prints one") from error
    return from_mapping(schema, {} if values is None else values, name=str(path))


def from_mapping(schema: type[T], values: Any, *, name: str = "the configuration", prefix: str = "") -> T:
    """Fill a schema from plain values.

    Raises
    ------
    InvalidOption
        If a key is unknown (the nearest is named), or a value has another type or lies outside its bounds.
    """
    if not isinstance(values, Mapping):
        place = f" for {prefix[:-1]}" if prefix else ""
        raise InvalidOption(f"{name}: expected keys with values{place}, found {_show(values)}")
    hints = get_type_hints(schema)
    known = [item.name for item in fields(schema)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise InvalidOption(
                f"{name}: unknown key {prefix}{key}; the nearest known key is {prefix}{near[0]}"
            )
    filled = {}
    for item in fields(schema):  # type: ignore[arg-type]
        if item.name not in values:
            continue
        kind, value, key = hints[item.name], values[item.name], f"{prefix}{item.name}"
        if is_dataclass(kind) and isinstance(kind, type):
            filled[item.name] = from_mapping(
                kind, {} if value is None else value, name=name, prefix=f"{key}."
            )
        else:
            filled[item.name] = _checked(value, kind, item.metadata, f"{name}: {key}")
    return schema(**filled)


def _checked(value: Any, kind: Any, metadata: Mapping[str, Any], place: str) -> Any:
    """Return a value in the type of its field, or say what was expected."""
    found = _cast(value, kind)
    if found is _NO:
        raise InvalidOption(f"{place}: expected {_words(kind)}, found {_show(value)}")
    least, most = metadata.get("least"), metadata.get("most")
    for number in found if isinstance(found, tuple) else (found,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if (least is not None and not number >= least) or (most is not None and not number <= most):
            limits = (("at least", least), ("at most", most))
            bounds = [f"{word} {limit:g}" for word, limit in limits if limit is not None]
            raise InvalidOption(f"{place}: expected {' and '.join(bounds)}, found {_show(value)}")
    return found


_NO: Any = object()


def _cast(value: Any, kind: Any) -> Any:
    """Return `value` as `kind`; `_NO` where it is something else."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        results = (_cast(value, part) for part in inner)
        return next((result for result in results if result is not _NO), _NO)
    if kind is type(None):
        return None if value is None else _NO
    if origin is Literal:
        return value if any(value == choice and type(value) is type(choice) for choice in inner) else _NO
    if origin is tuple:
        return _cast_tuple(value, inner)
    if kind is Any:
        return value
    if origin in (dict, Mapping) or kind is dict:
        return (
            dict(value) if isinstance(value, Mapping) and all(isinstance(key, str) for key in value) else _NO
        )
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        return _as_float(value)
    return value if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) else _NO


def _cast_tuple(value: Any, inner: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _NO
    kinds = [inner[0]] * len(value) if len(inner) == 2 and inner[1] is Ellipsis else list(inner)
    if len(kinds) != len(value):
        return _NO
    items = tuple(_cast(item, kind) for item, kind in zip(value, kinds, strict=True))
    return _NO if any(item is _NO for item in items) else items


def _as_float(value: int | float | str) -> Any:
    """Read a number; YAML takes 2e-4 (without a point) for a text."""
    try:
        number = float(value)
    except ValueError:
        return _NO
    return number if number - number == 0 else _NO


def _words(kind: Any) -> str:
    """Name a type for a reader."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(part) for part in inner)
    if kind is type(None):
        return "null"
    if origin is Literal:
        return " or ".join(_show(choice) for choice in inner)
    if origin is tuple:
        if len(inner) == 2 and inner[1] is Ellipsis:
            return f"a list, each {_words(inner[0])}"
        return f"a list of {len(inner)}, each {_words(inner[0])}"
    return WORDS.get(kind, "keys with values")


def _show(value: Any) -> str:
    """Write a value as a YAML file would hold it, cut where it is long."""
    text = (
        {True: "true", False: "false", None: "null"}[value]
        if value is None or isinstance(value, bool)
        else repr(value)
    )
    return text if len(text) <= 60 else f"{text[:60]}..."


def as_mapping(config: Any) -> dict[str, Any]:
    """Turn settings into plain values that YAML and JSON can hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result


def to_yaml(config: Any) -> str:
    """Write settings as YAML, every key with its help text as a comment."""
    require_yaml()
    return "\n".join(_lines(config, "")) + "\n"


def _lines(config: Any, indent: str) -> Iterator[str]:
    import yaml

    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield f"{indent}{item.name}:"
            yield from _lines(value, f"{indent}  ")
            continue
        plain = as_mapping(_Holder(value))["value"]
        text = yaml.safe_dump(plain, default_flow_style=True, width=1000, sort_keys=False)
        first = text.removesuffix("...\n").strip()
        yield f"{indent}{item.name}: {first}  # {item.metadata['help']}"


@dataclasses.dataclass(frozen=True)
class _Holder:
    value: Any


def differences(one: Any, other: Any, *, ignore: tuple[str, ...] = (), prefix: str = "") -> list[str]:
    """List the keys in which two settings of one schema differ, those of `ignore` left out."""
    found: list[str] = []
    for item in fields(one):
        left, right, key = getattr(one, item.name), getattr(other, item.name), f"{prefix}{item.name}"
        if is_dataclass(left):
            found += differences(left, right, ignore=ignore, prefix=f"{key}.")
        elif left != right and key not in ignore:
            found.append(key)
    return found
