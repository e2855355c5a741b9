"""``kerasneuro convert``."""

from __future__ import annotations

from pathlib import Path

import click

from kerasneuro.cli.backend import choose_backend
from kerasneuro.cli.console import say_json
from kerasneuro.errors import InvalidOption


@click.command("convert")
@click.argument("files", nargs=-1, required=True, metavar="[PART=]FILE...")
@click.option("--to", "name", metavar="NAME", help="The registered model that the file belongs to.")
@click.option("--part", metavar="PART", help="Which network of the model the file holds.")
@click.option(
    "-o", "--output", required=True, metavar="OUT", help="The new file; with PART=FILE, a folder for them."
)
@click.option(
    "--to-original", is_flag=True, help="Write what the original package reads: Keras 2 .h5 or state dict."
)
@click.option(
    "--layout",
    type=click.Choice(["channels_last", "onnx"]),
    help="Axis order of the inputs and outputs of an ONNX model (default: channels_last).",
)
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def convert_command(
    files: tuple[str, ...],
    name: str | None,
    part: str | None,
    output: str,
    to_original: bool,
    layout: str | None,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Convert a weight file of a registered model to kerasneuro's .h5, or back to the original format.

    FILE is a Keras .h5 file, a PyTorch state dict or checkpoint (.pth, .pkl, .pt, .ckpt), a TorchScript
    archive, the folder of a TensorFlow SavedModel, or a converted .h5. Nothing in it is run.

    An ONNX model, registered or not, becomes a whole Keras model: convert model.onnx -o model.keras.
    """
    from kerasneuro.converting import convert_weights, is_graph

    if is_graph(Path(files[0]), Path(output)):
        refuse_options(files, {"--to": name, "--part": part, "--to-original": to_original})
        whole_model(files[0], output, layout or "channels_last", overwrite=overwrite, as_json=as_json)
        return
    refuse_options((), {"--layout": layout})
    if name is None:
        raise click.UsageError("say with --to NAME which model the file belongs to")
    planned = plan(files, name, part, Path(output), to_original=to_original, overwrite=overwrite)
    chosen = choose_backend()
    if chosen:
        click.echo(chosen, err=True)
    written = []
    for label, source, target in planned:
        convert_weights(source, name, target, part=label, to_original=to_original, overwrite=overwrite)
        written.append({"model": name, "part": label, "source": str(source), "output": str(target)})
        if not as_json:
            click.echo(str(target))
    if as_json:
        say_json({"converted": written})


def refuse_options(files: tuple[str, ...], options: dict[str, object]) -> None:
    """Refuse what does not belong to the kind of conversion.

    Raises
    ------
    click.UsageError
        If there are several files, or one of the options is given.
    """
    if len(files) > 1:
        raise click.UsageError("an ONNX model is converted alone: give one file")
    wrong = [option for option, value in options.items() if value]
    if wrong:
        whole = "an ONNX model to a whole one (.keras)"
        kind = whole if files else f"weights; it belongs to the conversion of {whole}"
        raise click.UsageError(f"{wrong[0]} has no meaning for the conversion of {kind}")


def whole_model(source: str, output: str, layout: str, *, overwrite: bool, as_json: bool) -> None:
    """Convert an ONNX model to a Keras model, and say where it is."""
    from kerasneuro.converting import convert_graph

    chosen = choose_backend()
    if chosen:
        click.echo(chosen, err=True)
    written = convert_graph(source, output, layout=layout, overwrite=overwrite)
    if as_json:
        say_json({"converted": [{"source": source, "output": str(written), "layout": layout}]})
    else:
        click.echo(str(written))


def plan(
    files: tuple[str, ...], name: str, part: str | None, output: Path, *, to_original: bool, overwrite: bool
) -> list[tuple[str | None, Path, Path]]:
    """Give every file its part and its target, before the first one is read.

    Raises
    ------
    InvalidOption
        If several files do not say which part each one holds.
    OutputError
        If one of several targets cannot be written.
    """
    from kerasneuro.networks import ready_card
    from kerasneuro.tasks.result import check_targets

    card = ready_card(name)
    pairs = [entry.partition("=") for entry in files]
    named = {label: Path(file) for label, _, file in pairs if label in card.parts and file}
    if not named and len(files) == 1:
        return [(part, Path(files[0]), output)]
    if len(named) != len(files) or part is not None:
        parts = f" ({', '.join(card.parts)})" if card.parts else ""
        raise InvalidOption(
            f"{name}: give one file with --part, or every file its own part{parts} as PART=FILE"
        )
    keras = not to_original or (card.files and card.files[0].format == "keras-h5")
    suffix = ".h5" if keras else ".pth"
    planned = [(label, source, output / f"{name}-{label}{suffix}") for label, source in named.items()]
    check_targets((target for _, _, target in planned), overwrite=overwrite)
    return [*planned]
