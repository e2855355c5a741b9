"""Do what ``kerasneuro register`` was asked for: plan, load, compute, write all or nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import click

from kerasneuro.cli.backend import choose_backend
from kerasneuro.cli.console import Steps, on_terminal, say_json, say_warning
from kerasneuro.cli.plan import Job, refuse_clashes, refuse_inputs
from kerasneuro.errors import InvalidOption
from kerasneuro.registry import ModelCard
from kerasneuro.tasks import Result

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes
    ----------
    model, name : str
        As ``-m`` says, and as the registry does.
    images : mapping of str to Path
        Role -> image.
    outputs : mapping of str to Path
        Field of the result -> file.
    keywords, prediction : mapping
        Options of the task's call, as far as they were given.
    values : mapping
        All other options of the command.
    """

    model: str
    name: str
    images: Mapping[str, Path]
    outputs: Mapping[str, Path]
    keywords: Mapping[str, Any]
    prediction: Mapping[str, Any]
    values: Mapping[str, Any]


def run_request(request: Request) -> None:
    """Register two images; a new folder goes again if nothing was written into it."""
    from kerasneuro.networks import ready_card

    card = ready_card(request.name)
    check_options(request, card)
    fresh = {path.parent for path in request.outputs.values() if not path.parent.exists()}
    try:
        files = plan(request)
        document = compute(request, card, files)
    except BaseException:
        for folder in fresh:
            with suppress(OSError):
                folder.rmdir()
        raise
    if request.values["as_json"]:
        say_json(document)
    else:
        click.echo("\n".join(document["files"].values()))


def check_options(request: Request, card: ModelCard) -> None:
    """Refuse options that the model does not have, before anything is read.

    Raises
    ------
    InvalidOption
        With the reason.
    """
    from kerasneuro.networks import task_class
    from kerasneuro.tasks.registration import RegistrationTask
    from kerasneuro.volume import IMAGE_SUFFIXES
    from kerasneuro.volume.transform_io import AFFINE_SUFFIXES, WARP_SUFFIXES

    task = task_class(card)
    assert issubclass(task, RegistrationTask)
    task.check_keywords({**request.keywords, **request.prediction})
    known = signature(task.__call__).parameters
    for name in request.keywords:
        if name not in known:
            raise InvalidOption(f"-m {request.model} has no option --{name.replace('_', '-')}; leave it out")
    is_matrix = card.output["kind"] == "matrix"
    if is_matrix and "jacobian" in request.outputs:
        raise InvalidOption(
            f"-m {request.model} finds a matrix, whose determinant is the same everywhere; --jacobian is for "
            "warps"
        )
    suffixes = AFFINE_SUFFIXES if is_matrix else WARP_SUFFIXES
    for name, path in request.outputs.items():
        allowed = suffixes if name in ("transform", "inverse") else IMAGE_SUFFIXES
        if not path.name.endswith(allowed):
            kind = "a matrix" if is_matrix else "a warp"
            found = kind if allowed is suffixes else "an image"
            raise InvalidOption(
                f"{path.name!r}: -m {request.model} writes {found} here; end the name with "
                f"{', '.join(allowed)}"
            )
    if not request.outputs and request.values["report"] is None and not request.values["as_json"]:
        raise InvalidOption(
            "nothing would be written; give one of -o, -O, -t, -T, --jacobian, --report, --json"
        )


def plan(request: Request) -> dict[str, Path]:
    """Name all files and refuse what cannot be read or written; the page is "report"."""
    from kerasneuro.tasks.result import check_targets
    from kerasneuro.volume import strip_suffix
    from kerasneuro.volume.header_check import check_file

    for path in request.images.values():
        check_file(path)
    files, page = dict(request.outputs), request.values["report"]
    if page is not None:
        from kerasneuro.report import require_report

        require_report()
        if page == Path():
            first = next(iter(files.values()), Path(f"{strip_suffix(request.images['moving'])}.nii.gz"))
            page = first.with_name(f"{strip_suffix(first)}_report.html")
        elif page.suffix != ".html":
            raise InvalidOption(f"{page.name!r}: end the name of the quality page with .html")
        files |= {"report": page, "report_picture": page.with_suffix(".png")}
    jobs = [Job({name: path}, "", {name: path}, None) for name, path in files.items()]
    refuse_clashes(jobs)
    read = [*request.images.values(), *request.values["weights"]]
    refuse_inputs(jobs, [*read, *filter(None, [request.keywords.get("initial")])])
    check_targets(files.values(), overwrite=request.values["overwrite"])
    return files


def compute(request: Request, card: ModelCard, files: Mapping[str, Path]) -> dict[str, Any]:
    """Load the model, register, and write the files; returns what ``--json`` prints."""
    import kerasneuro

    steps = Steps()
    limit_threads(request.values["threads"])
    chosen = choose_backend()
    if chosen:
        steps.say(chosen)
    prediction = dict(request.prediction)
    if request.values["gpu"]:
        prediction.setdefault("device", gpu())
    steps.say(f"loading {request.name}")
    task = kerasneuro.load(request.name, weights=sort_weights(request.values["weights"], card))
    moving, fixed = request.images.values()
    steps.say(f"registering {moving} to {fixed}")
    if (request.values["verbose"] or on_terminal()) and "progress" not in prediction:
        prediction["progress"] = bool(request.values["verbose"])
    result = task(moving, fixed, **request.keywords, **prediction)
    write(result, files, request.values["transform_format"])
    steps.say(f"wrote {len(files)} file{'s' if len(files) != 1 else ''}")
    for warning in result.warnings:
        say_warning(warning)
    return {
        "images": {role: str(path) for role, path in request.images.items()},
        "files": {name: str(path) for name, path in files.items()},
        "summary": dict(result.summaries.get("summary", {})),
        "warnings": list(result.warnings),
        "provenance": dict(result.provenance),
        "model": result.provenance.get("model"),
    }


def limit_threads(count: int | None) -> None:
    """Keep the backend, which is not imported yet, to so many processors."""
    if count is None:
        return
    for name in THREAD_VARIABLES:
        os.environ[name] = str(count)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def gpu() -> str:
    """Return the name of the GPU.

    Raises
    ------
    InvalidOption
        If the backend has none.
    """
    import keras

    from kerasneuro.inference.engine import accelerated

    backend = keras.backend.backend()
    if not accelerated(backend, None):
        raise InvalidOption(f"the {backend} backend finds no GPU; leave out -g, or install its GPU version")
    return "gpu:0"


def sort_weights(paths: tuple[Path, ...], card: ModelCard) -> Path | dict[str, Path] | None:
    """Give every weight file the part of the model that its content belongs to.

    A part without a file of the user's gets the registered one.

    Raises
    ------
    WeightsNotFound
        If a file does not exist.
    InvalidOption
        If there are two files for one part.
    WeightsMismatch
        If a file is none of SynthMorph's.
    """
    from kerasneuro.errors import WeightsNotFound
    from kerasneuro.fetching import ensure

    for path in paths:
        if not path.is_file():
            raise WeightsNotFound(f"the weight file {path} does not exist; check -w")
    if not paths:
        return None
    if card.family != "synthmorph":
        if len(paths) > 1:
            raise InvalidOption(f"{card.name} takes one weight file, found {len(paths)}")
        return paths[0]
    found: dict[str, Path] = {}
    for path in paths:
        for kind in kinds_of(path):
            if kind in found:
                raise InvalidOption(
                    f"{found[kind]} and {path} are both files of the {kind} network; give one"
                )
            found[kind] = path
    if not card.parts:
        kind = "deform" if card.output["kind"] == "displacement" else "affine"
        return found.get(kind, paths[0])
    return {file.part: found[file.part] if file.part in found else ensure(file) for file in card.files}


def kinds_of(path: Path) -> list[str]:
    """Tell which networks of SynthMorph a file holds: "affine", "deform", or both."""
    from kerasneuro.errors import WeightsMismatch
    from kerasneuro.models.synthmorph.arrays import describe, file_layers
    from kerasneuro.weights import read

    with read(path) as store:
        layers = file_layers(store)
        kinds = {"affine": ("convolution",), "deform": ("hyper", "fixed")}
        found = [kind for kind, names in kinds.items() if any(layers[name] for name in names)]
    if not found:
        raise WeightsMismatch(f"{path} holds {describe(layers)}; give a file of SynthMorph")
    return found


def write(result: Result, files: Mapping[str, Path], transform_format: Any) -> None:
    """Write every file under a temporary name, then put them in place together."""
    from kerasneuro.report import write_quality_page
    from kerasneuro.volume import save_image
    from kerasneuro.volume.transform_io import save_transform

    with temporary_names(files) as names:
        for field, path in names.items():
            if field in ("transform", "inverse"):
                save_transform(getattr(result, field), path, format=transform_format)
            elif field == "report":
                write_quality_page(result, path)
            elif field != "report_picture":
                save_image(getattr(result, field), path)


@contextmanager
def temporary_names(files: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Lend a hidden name beside each file; all are renamed at the end, or removed after an error."""
    names = {field: path.with_name(f".{os.getpid()}-{path.name}") for field, path in files.items()}
    try:
        yield names
        for field, path in names.items():
            os.replace(path, files[field])
    finally:
        for path in names.values():
            path.unlink(missing_ok=True)
