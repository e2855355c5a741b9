"""``kerasneuro run NAME``: a command per model, built from its task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kerasneuro import registry
from kerasneuro.cli.folders import expand_folders, folder_options
from kerasneuro.cli.options import free_names, given, prediction_options, task_options
from kerasneuro.cli.subjects import list_subjects, subject_options
from kerasneuro.errors import InvalidOption
from kerasneuro.registry import ModelCard
from kerasneuro.tasks import Task
from kerasneuro.tasks.bids import find_scans

FILE = click.Path(path_type=Path)
RESERVED = {"-o", "--output", "--weights", "--outputs", "--report", "--overwrite", "--json", "--verbose"}
RESERVED |= {"-h", "--help", "--explain", "--pattern", "--skip-existing"}
EXPLANATIONS = ("grad-cam", "integrated-gradients", "occlusion")


class Models(click.Group):
    """Build the command of a model when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the models that can be run."""
        return [card.name for card in registry.cards() if card.status != "planned"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Build the command of one model: of a registered one, or of a saved one by its folder."""
        from kerasneuro.networks import ready_card
        from kerasneuro.saved.folder import CARD, folder_task, is_path, read_folder

        if is_path(cmd_name) or (Path(cmd_name) / CARD).is_file():
            folder = read_folder(cmd_name)
            return model_command(folder.card, folder_task(folder), folder.path)
        return model_command(ready_card(cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the models without importing their tasks."""
        rows = [(name, registry.get(name).summary) for name in self.list_commands(ctx)]
        with formatter.section("Models"):
            formatter.write_dl(rows)


@click.command(
    "run",
    cls=Models,
    invoke_without_command=True,
    subcommand_metavar="NAME [IMAGE...] -o OUT [OPTIONS]",
)
@click.pass_context
def run_command(ctx: click.Context) -> None:
    """Run a model on scans and write the results to OUT.

    `kerasneuro run NAME --help` shows the options of a model. In place of a name, NAME may be the folder of
    a saved model.
    """
    if ctx.invoked_subcommand is None:
        raise click.UsageError("name a model, the scan, and where the result goes", ctx)


class ModelCommand(click.Command):
    """Show the options of the task apart from those that all tasks share."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write two lists of options."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups.setdefault(getattr(parameter, "group", "Common options"), []).append(record)
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def model_command(
    card: ModelCard, task: type[Task] | None = None, folder: Path | None = None
) -> click.Command:
    """Build the command of one model; this imports its task, not Keras."""
    from kerasneuro.hub import task_of

    task = task or task_of(card)
    taken = set(RESERVED)
    own: list[click.Parameter] = [
        *task_options(task, taken),
        *role_options(task, taken),
        *subject_options(task),
        *explain_options(task),
    ]
    for option in own:
        vars(option)["group"] = f"Options of {card.name}"
    roles = " ".join(role.upper() for role in task.roles) if len(task.roles) > 1 else "IMAGE..."
    images = click.Argument(["images"], nargs=-1, type=FILE, metavar=f"[{roles}]")

    def callback(**values: Any) -> None:
        from kerasneuro.cli.job import Request, run_request

        positional = values.pop("images")
        keywords, prediction = given(values, task)
        scans, stems = choose_scans(task, positional, values)
        request = Request(
            card=card,
            task=task,
            scans=scans,
            stems=stems,
            keywords=keywords,
            prediction=prediction,
            weights=parse_weights(values["weights"], card),
            target=values["output"],
            outputs=parse_outputs(values["outputs"]),
            report=values["report"],
            overwrite=values["overwrite"],
            as_json=values["as_json"],
            explain=values.get("explain"),
            skip_existing=values["skip_existing"],
            folder=folder,
        )
        run_request(request)

    summary = f"{card.summary}\n\nFor research only. Cite: {card.citation}"
    common = [*common_options(), *folder_options(task), *prediction_options(task, taken)]
    return ModelCommand(card.name, callback=callback, params=[images, *own, *common], help=summary)


def common_options() -> list[click.Option]:
    """Make the options that are about files and messages."""
    return [
        click.Option(
            ["output", "-o", "--output"], type=str, required=True, metavar="OUT",
            help="Folder for all outputs, or a file (.nii.gz, .nii, .mgz, .mgh) for the main one.",
        ),
        click.Option(
            ["--weights"], multiple=True, metavar="[PART=]PATH",
            help="Your own weight file; repeat it for several.",
        ),
        click.Option(["--outputs"], metavar="A,B", help="Write only these outputs into the folder."),
        click.Option(["--report"], is_flag=True, help="Write a quality page (.html and .png) as well."),
        click.Option(["--overwrite"], is_flag=True, help="Replace existing files."),
        click.Option(
            ["--skip-existing"], is_flag=True, help="Leave out scans whose main output exists already."
        ),
        click.Option(["as_json", "--json"], is_flag=True, help="Print one JSON document instead of paths."),
        click.Option(["--verbose"], is_flag=True, help="Show the traceback of an error."),
    ]  # fmt: skip


def role_options(task: type[Task], taken: set[str]) -> list[click.Option]:
    """Make an option of every image role, such as ``--moving FILE``."""
    options = []
    for role in task.roles:
        aliases = free_names(task.option_names.get(role, ()), f"--{role}", taken)
        if len(task.roles) > 1 or aliases:
            text = f"The {role} image; it may also be given without an option."
            names = [f"role_{role}", f"--{role.replace('_', '-')}", *aliases]
            options.append(click.Option(names, type=FILE, metavar="FILE", help=text))
    return options


def explain_options(task: type[Task]) -> list[click.Option]:
    """Make ``--explain`` for a task that can say what its network looked at."""
    if not task.explainable:
        return []
    text = "Write a heat map of what speaks for the predicted class, on the grid of the scan, as well."
    return [click.Option(["--explain"], type=click.Choice(EXPLANATIONS), help=text)]


def choose_scans(
    task: type[Task], positional: tuple[Path, ...], values: dict[str, Any]
) -> tuple[list[dict[str, Path]], list[str] | None]:
    """Take the scans from the images given, or from a list of subjects, which also names the outputs."""
    listed = values.get("csv_file")
    scans = collect_scans(task, positional, values, required=not listed)
    return list_subjects(task, listed, scans) if listed else (scans, None)


def collect_scans(
    task: type[Task], positional: tuple[Path, ...], values: dict[str, Any], *, required: bool = True
) -> list[dict[str, Path]]:
    """Give every image its role: one set of images per scan."""
    named = {role: values[f"role_{role}"] for role in task.roles if values.get(f"role_{role}") is not None}
    if task.bids_suffixes and positional and all(path.is_dir() for path in positional) and not named:
        return [scan for folder in positional for scan in find_scans(folder, task.bids_suffixes)]
    open_roles = [role for role in task.roles if role not in named]
    if len(task.roles) == 1:
        role = task.roles[0]
        paths = expand_folders(task, (*named.values(), *positional), values.get("pattern"))
        scans = [{role: path} for path in paths]
        if not scans and required:
            raise click.UsageError("give at least one image")
        return scans
    missing = [role for role in open_roles[len(positional) :] if role not in task.optional_roles]
    if len(positional) > len(open_roles) or missing or not (named or positional):
        wanted = ", ".join(f"--{role} FILE" for role in open_roles) or "no further image"
        raise click.UsageError(
            f"this task takes {len(task.roles)} images ({', '.join(task.roles)}); "
            f"still expected: {wanted}; found {len(positional)} without an option"
        )
    rest = dict(zip(open_roles, positional, strict=False))
    return [{role: path for role in task.roles if (path := named.get(role) or rest.get(role))}]


def parse_weights(entries: tuple[str, ...], card: ModelCard) -> Path | list[Path] | dict[str, Path] | None:
    """Read ``--weights [PART=]PATH``: nothing, one path, paths in the order of the parts, or part -> path.

    Raises
    ------
    InvalidOption
        If some entries name their part and others do not, or a part is named twice.
    """
    if not entries:
        return None
    named: dict[str, Path] = {}
    paths: list[Path] = []
    for entry in entries:
        part, equals, path = entry.partition("=")
        if equals and part in card.parts:
            if part in named:
                raise InvalidOption(f"--weights names the part {part!r} twice")
            named[part] = Path(path)
        else:
            paths.append(Path(entry))
    if named and paths:
        raise InvalidOption(
            f"--weights: give every file its part ({', '.join(card.parts)}) as PART=PATH, or none of them"
        )
    return named or (paths[0] if len(paths) == 1 else paths)


def parse_outputs(text: str | None) -> tuple[str, ...] | None:
    """Read ``--outputs a,b``."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise InvalidOption("--outputs names no output; separate several by commas, such as mask,table")
    return names
