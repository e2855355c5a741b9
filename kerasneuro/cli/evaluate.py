"""``kerasneuro evaluate classifier``."""

from __future__ import annotations

from pathlib import Path

import click

from kerasneuro.cli.backend import choose_backend
from kerasneuro.cli.console import say_json


@click.group("evaluate", invoke_without_command=True)
@click.pass_context
def evaluate_command(ctx: click.Context) -> None:
    """Let a trained network judge another cohort."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@evaluate_command.command("classifier")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("cohort", type=click.Path(path_type=Path), metavar="COHORT.csv")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="New CSV file.")
@click.option(
    "--keep-unseen-sites", is_flag=True, help="Do not harmonise sites that the training has not, nor refuse."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as a JSON document, too.")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def evaluate_classifier_command(
    run: Path,
    cohort: Path,
    output: Path,
    keep_unseen_sites: bool,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Write the probabilities that the classifier in the folder RUN gives the samples of COHORT.csv.

    COHORT.csv has the columns of the training; the label may be missing. For research only, and never a
    diagnosis.
    """
    from kerasneuro.tasks.result import check_targets, table_text, write_text

    check_targets([output], overwrite=overwrite)
    chosen = choose_backend()
    if chosen:
        click.echo(chosen, err=True)
    from kerasneuro.classifying import evaluate_classifier

    rows = evaluate_classifier(run, cohort, keep_unseen_sites=keep_unseen_sites)
    write_text(output, table_text(rows))
    if as_json:
        say_json(rows)
    else:
        click.echo(str(output))
