"""Turn the keywords of a task's call into options, with their help from its docstring."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kerasneuro.tasks import Task

TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "Path": click.Path(path_type=Path),
}
MERGES, ENGINES = ("constant", "gaussian", "hann"), ("auto", "eager", "compiled", "xla")
PRECISIONS = ("float32", "bfloat16", "float16")
# Field of Settings -> its option names and what click needs to know.
PREDICTION: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "block_shape": (
        ("--block",),
        {"type": int, "nargs": 3, "metavar": "X Y Z", "help": "Voxels per block and axis."},
    ),
    "overlap": (("--overlap",), {"type": float, "help": "Part that neighbouring blocks share, 0 <= F < 1."}),
    "merge": (("--merge",), {"type": click.Choice(MERGES), "help": "Weight of voxels where blocks overlap."}),
    "batch_size": (("--batch-size",), {"type": int, "help": "Blocks computed at once."}),
    "engine": (("--engine",), {"type": click.Choice(ENGINES), "help": "What computes."}),
    "precision": (("--precision",), {"type": click.Choice(PRECISIONS), "help": "Number format."}),
    "max_memory": (
        ("--max-memory",),
        {"metavar": "SIZE", "help": "Such as 8GB; block and batch shrink until the estimate fits."},
    ),
    "device": (
        ("--device",),
        {"metavar": "D", "help": "Such as cpu or gpu:0; default: the backend's choice."},
    ),
    "flips": (
        ("--flips",),
        {"is_flag": True, "default": None, "help": "Average over mirrored copies; 8 times the work."},
    ),
}


@dataclass(frozen=True)
class Kind:
    """What an annotation says: the type of one value, how many, and whether None is allowed."""

    name: str
    count: int
    optional: bool


def keywords(task: type[Task]) -> dict[str, inspect.Parameter]:
    """List the keyword-only parameters of a task's call."""
    parameters = inspect.signature(task.__call__).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def read_annotation(annotation: Any) -> Kind:
    """Read an annotation such as ``tuple[int, int, int] | None`` without importing what it names."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    alternatives = [part.strip() for part in text.replace("pathlib.", "").split("|")]
    chosen = next(part for part in alternatives if part != "None")
    items = re.fullmatch(r"tuple\[(.+)\]", chosen)
    names = [item.strip() for item in items[1].split(",")] if items else [chosen]
    return Kind(names[0], len(names), optional="None" in alternatives)


def parameter_texts(task: type[Task]) -> dict[str, str]:
    """Read the descriptions in the Parameters section of a NumPy-style docstring."""
    lines = inspect.cleandoc(task.__call__.__doc__ or "").splitlines()
    heads = [i for i, line in enumerate(lines) if i and re.fullmatch(r"-{3,}", line.strip())]
    start = next((i + 1 for i in heads if lines[i - 1].strip() == "Parameters"), len(lines))
    end = next((i - 1 for i in heads if i > start), len(lines))
    texts: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines[start:end]:
        if line and not line[0].isspace():
            current = []
            for name in line.partition(":")[0].split(","):
                texts[name.strip().lstrip("*")] = current
        elif line.strip():
            current.append(line.strip())
    return {name: textwrap.dedent(" ".join(text)).replace("`", "") for name, text in texts.items()}


def task_options(task: type[Task], taken: set[str]) -> list[click.Option]:
    """Make an option of every keyword of a task's call; names that are `taken` are left out and added to."""
    texts = parameter_texts(task)
    options = []
    for name, parameter in keywords(task).items():
        common = PREDICTION.get(name, ((), {}))[0]
        aliases = free_names([*common, *task.option_names.get(name, ())], f"--{dashed(name)}", taken)
        options += keyword_options(name, parameter, aliases, texts.get(name, ""))
    return options


def keyword_options(
    name: str, parameter: inspect.Parameter, aliases: list[str], text: str
) -> list[click.Option]:
    """Make the option of one keyword, and ``--no-NAME`` where None switches it off."""
    kind, main = read_annotation(parameter.annotation), f"--{dashed(name)}"
    has_default = parameter.default is not inspect.Parameter.empty
    default = f" [default: {default_text(parameter.default)}]" if has_default else " [required]"
    shared: dict[str, Any] = {"default": None, "help": (text + default).strip(), "required": not has_default}
    if kind.name == "bool":
        return [click.Option([name, f"{main}/--no-{dashed(name)}", *aliases], **shared)]
    option = click.Option(
        [name, main, *aliases],
        type=TYPES.get(kind.name, str),
        nargs=kind.count,
        metavar=" ".join([{"int": "N", "float": "F"}.get(kind.name, "TEXT")] * kind.count),
        **shared,
    )
    if not (kind.optional and parameter.default is not None):
        return [option]
    off = click.Option([f"no_{name}", f"--no-{dashed(name)}"], is_flag=True, help=f"Without {main}.")
    return [option, off]


def prediction_options(task: type[Task], taken: set[str]) -> list[click.Option]:
    """Make the options that all tasks share, with the original tool's names besides."""
    options = []
    for field, (names, facts) in PREDICTION.items():
        if field not in keywords(task):
            aliases = free_names(task.option_names.get(field, ()), names[0], taken)
            default = getattr(task.defaults, field)
            shown = f" [default: {default_text(default)}]" if default not in (None, False) else ""
            facts = {**facts, "help": facts["help"] + shown}
            options.append(click.Option([field, *names, *aliases], **facts))
    return options


def free_names(names: Iterable[str], main: str, taken: set[str]) -> list[str]:
    """Keep the names that no other option has, and take them."""
    taken.add(main)
    free = [name for name in dict.fromkeys(names) if name not in taken and name.startswith("-")]
    taken.update(free)
    return free


def given(values: Mapping[str, Any], task: type[Task]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide what the user gave into keywords of the task's call and prediction settings."""
    own = {name: values[name] for name in keywords(task) if values.get(name) is not None}
    own |= {name: None for name in keywords(task) if values.get(f"no_{name}")}
    shared = {
        field: values[field] for field in PREDICTION if field not in own and values.get(field) is not None
    }
    return own, shared


def dashed(name: str) -> str:
    """Write a keyword as the command line does."""
    return name.replace("_", "-")


def default_text(value: Any) -> str:
    """Write a default value for a reader."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)
