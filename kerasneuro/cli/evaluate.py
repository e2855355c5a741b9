"""``kerasneuro evaluate classifier`` and ``kerasneuro evaluate segmentation``."""

from __future__ import annotations

from pathlib import Path

import click

from kerasneuro.cli.backend import choose_backend
from kerasneuro.cli.console import Steps, say_json


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


@evaluate_command.command("segmentation")
@click.argument("model", metavar="FOLDER")
@click.argument("pairs", type=click.Path(path_type=Path), metavar="PAIRS.csv")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="New CSV file.")
@click.option("--channels", metavar="A,B", help="Columns of the images; default: all but the others.")
@click.option("--labels", default="", metavar="NAME", help="Column of the label maps; default: labels.")
@click.option("--classes", metavar="TABLE", help="Class table (CSV) or binary; default: the model's own.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as a JSON document, too.")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def evaluate_segmentation_command(
    model: str,
    pairs: Path,
    output: Path,
    channels: str | None,
    labels: str,
    classes: str | None,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Compare what the model in FOLDER (or a registered one) finds with the label maps of PAIRS.csv.

    The new CSV has a line for each scan and class: Dice, Jaccard, 95th percentile and mean of the surface
    distances in mm, error of the volume. PAIRS.csv is as for the training, or a BIDS folder. For research
    only.
    """
    from kerasneuro.tasks.result import check_targets, table_text, write_text

    check_targets([output], overwrite=overwrite)
    chosen = choose_backend()
    if chosen:
        click.echo(chosen, err=True)
    from kerasneuro.finetuning.evaluate import evaluate_segmentation, mean_scores

    # A folder in the working directory is meant where there is one of this name.
    name = f"./{model}" if Path(model, "card.json").is_file() and not Path(model).is_absolute() else model
    columns = tuple(item.strip() for item in channels.split(",")) if channels else ()
    rows = evaluate_segmentation(
        name, pairs, classes=classes, channels=columns, labels=labels, say=Steps().say
    )
    write_text(output, table_text(rows))
    if as_json:
        say_json(rows)
        return
    for name, scores in mean_scores(rows).items():
        click.echo(f"{name}: {', '.join(f'{key} {value:.3f}' for key, value in scores.items())}")
    click.echo(str(output))
