"""``kerasneuro apply``: move images by transforms that are already known."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kerasneuro.cli.abbreviated import Abbreviated
from kerasneuro.cli.console import Steps, say_json

if TYPE_CHECKING:
    from kerasneuro.volume import Geometry, Transform

FILE = click.Path(path_type=Path)
DTYPES = ("uint8", "uint16", "int16", "int32", "float32")


@click.command("apply")
@click.argument("transform", type=FILE, metavar="TRANS")
@click.argument("paths", nargs=-1, required=True, type=FILE, metavar="IMAGE OUT [IMAGE OUT ...]")
@click.option("--also", multiple=True, type=FILE, metavar="TRANS", help="Move on by this one; repeatable.")
@click.option("--like", type=FILE, metavar="IMAGE", help="Grid of OUT, instead of the one TRANS holds.")
@click.option("-H", "--header-only", is_flag=True, help="Keep the voxels, update the header; matrices only.")
@click.option(
    "-m",
    "--method",
    type=Abbreviated(("linear", "nearest")),
    default="linear",
    show_default=True,
    help="Interpolation; nearest for labels.",
)
@click.option(
    "-t",
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
    show_default=True,
    help="Type of the voxels; reals are cut off to integers.",
)
@click.option(
    "-f", "--fill", type=float, default=0.0, show_default=True, help="Value from outside the image."
)
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def apply_command(transform: Path, paths: tuple[Path, ...], **options: Any) -> None:
    """Move every IMAGE by the transform TRANS and write OUT, with one interpolation.

    TRANS is an LTA, a FreeSurfer warp (.nii, .mgz), a matrix or displacement field of ITK and ANTs (.txt,
    .h5, .mat, .nii), or an FSL matrix (.mat, with --like). Several are joined in the order in which they move
    the image: TRANS first, then each --also. IMAGE may be a scan, a label map (-m nearest), or a 4-D series.
    A matrix moves images of any grid; a warp moves images of the grid it was made for.
    """
    if len(paths) % 2:
        raise click.UsageError(f"give every IMAGE its OUT; found {len(paths)} files after TRANS")
    if options["header_only"] and options["like"]:
        raise click.UsageError("--header-only keeps the grid of IMAGE; leave out --like")
    request = Request([transform, *options["also"]], list(zip(paths[::2], paths[1::2], strict=True)), options)
    fresh = {out.parent for _, out in request.pairs if not out.parent.exists()}
    try:
        run(request)
    except BaseException:
        for folder in fresh:
            with suppress(OSError):  # It stays if an image was written into it, or if it was never made.
                folder.rmdir()
        raise


@dataclass(frozen=True)
class Request:
    """What the user asked for: transforms, pairs of image and output, and the other options."""

    transforms: list[Path]
    pairs: list[tuple[Path, Path]]
    options: dict[str, Any]


def run(request: Request) -> None:
    """Plan all outputs, read the transforms, and write one image after the other."""
    from kerasneuro.volume import apply_transform, save_image

    options, steps = request.options, Steps()
    plan(request)
    joined, target = read(request)
    written = []
    for image, out in request.pairs:
        steps.say(f"moving {image}")
        moved = apply_transform(
            joined,
            image,
            method=options["method"],
            fill=options["fill"],
            header_only=options["header_only"],
            dtype=options["dtype"],
            target=target,
        )
        save_image(moved, out, overwrite=options["overwrite"])
        written.append({"image": image, "output": out, "shape": list(moved.shape)})
        if not options["as_json"]:
            click.echo(str(out))
    if options["as_json"]:
        say_json({"transforms": request.transforms, "outputs": written})


def plan(request: Request) -> None:
    """Refuse what cannot be read, and outputs that cannot be written, before any image is opened.

    Raises
    ------
    InvalidImage, InvalidOption, OutputError
        As `kerasneuro run`.
    """
    from kerasneuro.cli.plan import Job, refuse_clashes, refuse_inputs
    from kerasneuro.errors import InvalidOption
    from kerasneuro.tasks.result import check_targets
    from kerasneuro.volume import IMAGE_SUFFIXES
    from kerasneuro.volume.header_check import check_file

    like = [request.options["like"]] if request.options["like"] else []
    images = [image for image, _ in request.pairs]
    outputs = [out for _, out in request.pairs]
    for path in [*images, *like]:
        check_file(path)
    for out in outputs:
        if not out.name.endswith(IMAGE_SUFFIXES):
            raise InvalidOption(f"{out.name!r}: expected a name that ends with {', '.join(IMAGE_SUFFIXES)}")
    jobs = [Job({"image": image}, "", {"moved": out}, None) for image, out in request.pairs]
    refuse_clashes(jobs)
    refuse_inputs(jobs, [*images, *like, *request.transforms])
    check_targets(outputs, overwrite=request.options["overwrite"])


def read(request: Request) -> tuple[Transform, Geometry | None]:
    """Read and join the transforms, and refuse images that they were not made for.

    Returns
    -------
    tuple
        The joined transform, and the grid of the outputs if it was named.

    Raises
    ------
    InvalidImage, InvalidTransform, InvalidOption
        If a file cannot be used, or a transform does not fit an image.
    """
    from kerasneuro.errors import InvalidTransform
    from kerasneuro.volume import compose_transforms
    from kerasneuro.volume.apply import check_fits, moved_geometry
    from kerasneuro.volume.series import read_geometry
    from kerasneuro.volume.transform_io import load_transform

    geometries = [read_geometry(image) for image, _ in request.pairs]
    like = request.options["like"]
    target = read_geometry(like) if like else None
    if len(request.transforms) == 1:
        joined = load_transform(request.transforms[0], source=geometries[0], target=target)
    else:
        joined = compose_transforms([load_transform(path) for path in request.transforms], target=target)
    if joined.target is None and not request.options["header_only"]:
        raise InvalidTransform(
            f"{request.transforms[-1]}: the file does not say the grid of the outputs; "
            "name an image that has it with --like"
        )
    for (image, _), geometry in zip(request.pairs, geometries, strict=True):
        if request.options["header_only"]:
            moved_geometry(joined, geometry)
        else:
            check_fits(joined, geometry, str(image))
    return joined, target
