"""Do what ``kerasneuro run`` was asked for: plan, load, compute, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kerasneuro.cli.backend import choose_backend
from kerasneuro.cli.console import Steps, on_terminal, say_json, say_warning
from kerasneuro.cli.plan import Job, plan_jobs, put_in_place, staging
from kerasneuro.registry import ModelCard
from kerasneuro.tasks import Result, Task


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    card: ModelCard
    task: type[Task]
    scans: list[dict[str, Path]]
    stems: list[str] | None
    keywords: Mapping[str, Any]
    prediction: Mapping[str, Any]
    weights: Path | list[Path] | dict[str, Path] | None
    target: str
    outputs: tuple[str, ...] | None
    report: bool
    overwrite: bool
    as_json: bool
    explain: str | None = None
    skip_existing: bool = False
    folder: Path | None = None


def run_request(request: Request) -> None:
    """Run a model on every scan and print where the results are."""
    steps = Steps()
    steps.say(f"loading {request.card.name} ...")
    folder = output_folder(request.target)
    is_new = not folder.exists()
    try:
        documents = compute_all(request, steps)
    except BaseException:
        if is_new:
            with suppress(OSError):  # It stays if an earlier scan was written into it.
                folder.rmdir()
        raise
    if request.as_json:
        say_json(documents[0] if len(documents) == 1 else {"results": documents})


def output_folder(target: str) -> Path:
    """Return the folder that the files go to."""
    from kerasneuro.volume import IMAGE_SUFFIXES

    path = Path(target)
    return path.parent if path.name.endswith(IMAGE_SUFFIXES) and not path.is_dir() else path


def compute_all(request: Request, steps: Steps) -> list[dict[str, Any]]:
    """Plan all scans, load the model once, and finish one scan after the other; the first failure ends it."""
    import kerasneuro

    request.task.defaults.updated(**request.prediction)  # A wrong value is told before anything is loaded.
    if request.report:
        from kerasneuro.report import require_report

        require_report()
    jobs = plan_jobs(
        request.task,
        request.scans,
        request.target,
        outputs=request.outputs,
        report=request.report,
        overwrite=request.overwrite,
        read=weight_paths(request.weights),
        stems=request.stems,
        skip_existing=request.skip_existing,
    )
    if len(jobs) < len(request.scans):
        steps.say(
            f"left out {len(request.scans) - len(jobs)} of {len(request.scans)} scans: they have results"
        )
    if not jobs:
        return []
    chosen = choose_backend()
    if chosen:
        steps.say(chosen)
    if request.explain is not None:
        from kerasneuro.explain.result import check_method

        check_method(request.explain)
    task = kerasneuro.load(request.folder or request.card.name, weights=request.weights)
    documents = []
    for job in jobs:
        steps.say(f"running {request.card.name} on {', '.join(map(str, job.images.values()))}")
        bar = {"progress": True} if on_terminal() else {}
        options = {**bar, **request.prediction, **request.keywords}
        result = call(task, job, options)
        if request.explain is not None:
            steps.say(f"explaining the result by {request.explain}")
            result = explained(task, result, request.explain)
        files = write(job, result, request)
        steps.say(f"wrote {len(files)} file{'s' if len(files) > 1 else ''} to {job.folder}")
        for warning in result.warnings:
            say_warning(warning)
        if not request.as_json:
            click.echo("\n".join(str(path) for path in files.values()))
        documents.append(describe(job, result, files))
    return documents


def call(task: Callable[..., Result], job: Job, options: Mapping[str, Any]) -> Result:
    """Run a task on the images of one scan, in the order of their roles; by name where some are left out."""
    if len(job.images) < len(getattr(task, "roles", ())):
        return task(**job.images, **options)
    return task(*job.images.values(), **options)


def explained(task: Any, result: Result, method: str) -> Result:
    """Add the heat map of what the network looked at."""
    from kerasneuro.explain.result import explain_result

    return explain_result(task, result, method, progress=on_terminal())


def weight_paths(weights: Path | list[Path] | dict[str, Path] | None) -> list[Path]:
    """List the weight files that the user gave."""
    if weights is None:
        return []
    if isinstance(weights, dict):
        return list(weights.values())
    return weights if isinstance(weights, list) else [weights]


def write(job: Job, result: Result, request: Request) -> dict[str, Path]:
    """Write all files of one scan to a hidden folder first, then put them in place together."""
    first = next(iter(job.files.values()))
    is_file = first == Path(request.target)
    with staging(job.folder) as folder:
        target = folder / first.name if is_file else folder
        files = result.save(target, outputs=None if is_file else request.outputs, stem=job.stem)
        if job.page is not None:
            from kerasneuro.report import write_quality_page

            page, picture = write_quality_page(result, folder / job.page.name)
            files |= {"report": page, "report_picture": picture}
        return put_in_place(files, job.folder)


def describe(job: Job, result: Result, files: Mapping[str, Path]) -> dict[str, Any]:
    """Collect what ``--json`` prints about one scan."""
    return {
        "images": {role: str(path) for role, path in job.images.items()},
        "files": {name: str(path) for name, path in files.items()},
        "table": list(result.table),
        "warnings": list(result.warnings),
        "provenance": dict(result.provenance),
        "model": result.provenance.get("model"),
    }
