"""``kerasneuro report evaluation``."""

from __future__ import annotations

from pathlib import Path

import click

from kerasneuro.cli.backend import choose_backend
from kerasneuro.cli.console import Steps, say_warning

MAPS = ("umap", "tsne")


@click.group("report", invoke_without_command=True)
@click.pass_context
def report_command(ctx: click.Context) -> None:
    """Write a page about a training run."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@report_command.command("evaluation")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="New .html file.")
@click.option(
    "--map", "maps", multiple=True, type=click.Choice(MAPS), help="Map of the embeddings; default: both."
)
@click.option("--subjects", default=10, show_default=True, help="Most subjects whose scans are shown.")
@click.option("--no-grad-cam", is_flag=True, help="Leave the heat maps out.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def report_evaluation_command(
    run: Path,
    output: Path,
    maps: tuple[str, ...],
    subjects: int,
    no_grad_cam: bool,
    overwrite: bool,
    verbose: bool,
) -> None:
    """Write one HTML page about the classifier in the folder RUN.

    Scores with intervals, calibration, confusion matrix, ROC and precision-recall curves, a table of the
    sites, training curves, the cohort, scans, heat maps, and maps of the embeddings before and after
    harmonisation. The page asks nothing of the network. For research only.
    """
    from kerasneuro.report.evaluation import write_evaluation_page

    chosen = None if no_grad_cam else choose_backend()
    if chosen:
        click.echo(chosen, err=True)
    path, warnings = write_evaluation_page(
        run,
        output,
        maps=maps or MAPS,
        subjects=subjects,
        grad_cam=not no_grad_cam,
        overwrite=overwrite,
        say=Steps().say,
    )
    for warning in warnings:
        say_warning(warning)
    click.echo(str(path))
