"""``kerasneuro train classifier`` and ``kerasneuro train segmentation``."""

from __future__ import annotations

from pathlib import Path

import click

from kerasneuro.cli.backend import choose_backend
from kerasneuro.cli.console import Steps, say_json


@click.group("train", invoke_without_command=True)
@click.pass_context
def train_command(ctx: click.Context) -> None:
    """Train a network on a cohort of your own."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@train_command.command("classifier")
@click.argument("config", required=False, type=click.Path(path_type=Path), metavar="[CONFIG.yaml]")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="OUT", help="Folder of the run.")
@click.option("--write-config", is_flag=True, help="Print the default configuration, with explanations.")
@click.option("--resume", is_flag=True, help="Go on after the last whole epoch of the run in OUT.")
@click.option("--overwrite", is_flag=True, help="Forget a run in OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print the card of the network as a JSON document.")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def train_classifier_command(
    config: Path | None,
    output: Path | None,
    write_config: bool,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Train a classifier of whole volumes, as the settings in CONFIG.yaml say.

    OUT receives best.h5 (`kerasneuro run NAME --weights OUT/best.h5`), card.json, config.yaml, split.csv,
    history.csv, predictions.csv, embeddings.h5 and checkpoint.h5. Relative paths in CONFIG.yaml begin in its
    folder. For research only.
    """
    from kerasneuro.training.classifier.config import ClassifierConfig
    from kerasneuro.training.config import read_config, to_yaml

    if write_config:
        click.echo(to_yaml(ClassifierConfig()), nl=False)
        return
    if config is None or output is None:
        raise click.UsageError("give CONFIG.yaml and -o OUT, or --write-config")
    if resume and overwrite:
        raise click.UsageError("--resume goes on with the run in OUT, --overwrite forgets it: give one")
    settings = read_config(config, ClassifierConfig)
    chosen = choose_backend()
    if chosen:
        click.echo(chosen, err=True)
    from kerasneuro.classifying import train_classifier

    card = train_classifier(
        settings, output, resume=resume, overwrite=overwrite, base=config.parent, say=Steps().say
    )
    if as_json:
        say_json(card)
    else:
        for subset, scores in card["scores"].items():
            click.echo(f"{subset}: {', '.join(score_text(*item) for item in scores.items())}")


def score_text(name: str, value: object) -> str:
    """Write a score of the card for a reader."""
    number = value.get("value") if isinstance(value, dict) else value
    return f"{name} {number:.3f}" if isinstance(number, float) else f"{name} -"


@train_command.command("segmentation")
@click.argument("config", required=False, type=click.Path(path_type=Path), metavar="[CONFIG.yaml]")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="OUT", help="Folder of the run.")
@click.option("--write-config", is_flag=True, help="Print the default configuration, with explanations.")
@click.option("--resume", is_flag=True, help="Go on after the last whole epoch of the run in OUT.")
@click.option("--overwrite", is_flag=True, help="Forget a run in OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print the card of the model as a JSON document.")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def train_segmentation_command(
    config: Path | None,
    output: Path | None,
    write_config: bool,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Fine-tune a network that segments, as the settings in CONFIG.yaml say.

    OUT receives model/ (for `kerasneuro run OUT/model`), history.csv, split.csv, config.yaml and
    checkpoint.h5. Relative paths in CONFIG.yaml begin in its folder. For research only.
    """
    from kerasneuro.training.config import read_config, to_yaml
    from kerasneuro.training.segmentation.config import SegmentationConfig, with_absolute_paths

    if write_config:
        click.echo(to_yaml(SegmentationConfig()), nl=False)
        return
    if config is None or output is None:
        raise click.UsageError("give CONFIG.yaml and -o OUT, or --write-config")
    if resume and overwrite:
        raise click.UsageError("--resume goes on with the run in OUT, --overwrite forgets it: give one")
    settings = with_absolute_paths(read_config(config, SegmentationConfig), config.parent)
    chosen = choose_backend()
    if chosen:
        click.echo(chosen, err=True)
    from kerasneuro.finetuning.finetune import finetune

    task = finetune(
        settings.model.parent,
        settings.data.train,
        settings.data.validation,
        settings=settings,
        output=output,
        resume=resume,
        overwrite=overwrite,
        say=Steps().say,
    )
    card = dict(task.saved or {})
    if as_json:
        say_json(card)
    else:
        scores = {name: card["metrics"].get(name) for name in ("dice", "val_dice")}
        click.echo(", ".join(score_text(*item) for item in scores.items()))
        click.echo(str(output / "model"))
