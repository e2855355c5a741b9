"""``kerasneuro register``: the transform between two scans, with the options of ``mri_synthmorph``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kerasneuro.cli.abbreviated import Abbreviated
from kerasneuro.cli.options import PREDICTION

FILE = click.Path(path_type=Path)
MODELS = {
    "joint": "synthmorph-joint",
    "deform": "synthmorph-deform",
    "affine": "synthmorph-affine",
    "rigid": "synthmorph-rigid",
    "brains": "synthmorph-brains",
    "shapes": "synthmorph-shapes",
    "voxelmorph-t1": "voxelmorph-t1",
}
# Field of the result -> its option names and help.
OUTPUTS = {
    "moved": (("-o", "--moved"), "Moving image on the grid of the fixed one."),
    "fixed_moved": (("-O", "--fixed-moved"), "Fixed image on the grid of the moving one."),
    "transform": (
        ("-t", "--transform"),
        "From moving to fixed: .lta or ITK's .txt, .h5; a warp .nii.gz, .mgz.",
    ),
    "inverse": (("-T", "--inverse"), "From fixed to moving."),
    "jacobian": (("--jacobian",), "Local change of volume by a warp; 0 or less where it folds."),
}
# Keyword of a task's call -> its option names and what click needs to know.
KEYWORDS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "initial": (
        ("-i", "--initial"),
        {"type": FILE, "metavar": "LTA", "help": "Matrix between both images to start from."},
    ),
    "mid_space": (
        ("-M", "--mid-space"),
        {"is_flag": True, "default": None, "help": "Apply half of it to each image."},
    ),
    "header_only": (
        ("-H", "--header-only"),
        {"is_flag": True, "default": None, "help": "Keep the voxels, update the header; affine, rigid only."},
    ),
    "regularisation": (
        ("-r", "--regularisation"),
        {"type": float, "metavar": "F", "help": "Smoothness of the warp, 0 < F < 1 [default: 0.5]."},
    ),
    "steps": (
        ("-n", "--steps"),
        {"type": int, "metavar": "N", "help": "Steps of the integration, at least 5 [default: 7]."},
    ),
    "extent": (
        ("-e", "--extent"),
        {"type": int, "metavar": "N", "help": "Field of view in mm, 192 or 256 [default: 256]."},
    ),
    "debug": (("-d", "--debug"), {"type": FILE, "metavar": "DIR", "help": "Write what the network sees."}),
}
COMPUTING = ("engine", "precision", "device", "max_memory")


def parameters() -> list[click.Parameter]:
    """Make arguments and options in the order of the help."""
    options: list[click.Parameter] = [
        click.Argument(["moving"], type=FILE),
        click.Argument(["fixed"], type=FILE),
        click.Option(
            ["-m", "--model"], type=Abbreviated(tuple(MODELS)), default="joint", show_default=True,
            help="Kind of registration; the last three take images on one grid. May be abbreviated.",
        ),
    ]  # fmt: skip
    for name, (names, text) in OUTPUTS.items():
        options.append(click.Option([name, *names], type=FILE, metavar="FILE", help=text))
    options.append(
        click.Option(
            ["transform_format", "--transform-format"], type=click.Choice(["freesurfer", "itk", "fsl"]),
            help="Of -t and -T, where the suffix leaves a choice [default: freesurfer].",
        )
    )  # fmt: skip
    for name, (names, facts) in KEYWORDS.items():
        options.append(click.Option([name, *names], **facts))
    return [*options, *computing_options(), *message_options()]


def computing_options() -> list[click.Option]:
    """Make the options that are about weights and the machine."""
    return [
        click.Option(
            ["-w", "--weights"], multiple=True, type=FILE, metavar="FILE",
            help="Your own weight file; repeat it for joint. Its content tells affine from deformable.",
        ),
        click.Option(
            ["-j", "--threads"], type=click.IntRange(min=1), metavar="N", help="Processors to use."
        ),
        click.Option(["-g", "--gpu"], is_flag=True, help="Insist on a GPU."),
        *(click.Option([name, *PREDICTION[name][0]], **PREDICTION[name][1]) for name in COMPUTING),
    ]  # fmt: skip


def message_options() -> list[click.Option]:
    """Make the options that are about files and messages."""
    return [
        click.Option(
            ["--report"], is_flag=False, flag_value=Path(), type=FILE, metavar="[HTML]",
            help="Write a quality page (.html and .png), beside the first output if not named.",
        ),
        click.Option(["--overwrite"], is_flag=True, help="Replace existing files."),
        click.Option(["as_json", "--json"], is_flag=True, help="Print one JSON document instead of paths."),
        click.Option(["-v", "--verbose"], is_flag=True, help="Show progress, and the traceback of an error."),
    ]  # fmt: skip


def register(**values: Any) -> None:
    """Register the MOVING image to the FIXED one.

    Options and their letters are those of mri_synthmorph. The affine and rigid models find a matrix, the
    others a warp. Give at least one output.

    For research only; not a medical device, and never a diagnosis.
    """
    from kerasneuro.cli.registering import Request, run_request

    outputs = {name: values.pop(name) for name in OUTPUTS}
    keywords = {name: values.pop(name) for name in KEYWORDS}
    run_request(
        Request(
            model=values["model"],
            name=MODELS[values["model"]],
            images={"moving": values["moving"], "fixed": values["fixed"]},
            outputs={name: path for name, path in outputs.items() if path is not None},
            keywords={name: value for name, value in keywords.items() if value is not None},
            prediction={name: values[name] for name in COMPUTING if values[name] is not None},
            values=values,
        )
    )


register_command = click.Command("register", callback=register, params=parameters(), help=register.__doc__)
