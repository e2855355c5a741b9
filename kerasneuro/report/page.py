"""Write a quality page: one HTML file without outside requests, and its picture."""

from __future__ import annotations

import base64
import os
import tempfile
from contextlib import suppress
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kerasneuro.errors import InvalidOption, MissingDependency, OutputError
from kerasneuro.report.figure import draw
from kerasneuro.report.quality import Quality, gather
from kerasneuro.tasks.result import Result, check_targets

TEMPLATE = "page.html.j2"
NEEDED = ("matplotlib", "jinja2")


def require_report() -> None:
    """Make sure that quality pages can be written, without importing anything large.

    Raises
    ------
    MissingDependency
        If matplotlib or jinja2 is not installed.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f"a quality page needs {' and '.join(missing)}; install it with: pip install 'kerasneuro[report]'"
        )


def report_paths(path_html: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return the page and the picture that belongs to it."""
    page = Path(path_html)
    if page.suffix.lower() not in (".html", ".htm"):
        raise InvalidOption(f"{page.name!r}: expected a name that ends with .html for the quality page")
    return page, page.with_suffix(".png")


def write_quality_page(
    result: Result, path_html: str | os.PathLike[str], *, overwrite: bool = False
) -> tuple[Path, Path]:
    """Write a page that shows whether a result can be trusted.

    The page holds slices in three planes with the outline of the mask or of every label, the volumes, the
    doubts, the provenance, and the model's citation and licence. It loads nothing from elsewhere. Where a
    result has close-ups, these are shown, with the uncertainty. A registration gets a page of its own, see
    `kerasneuro.report.registration`.

    Parameters
    ----------
    result : Result
        A result that holds its input, as every task returns it.
    path_html : path
        Target, ending with ``.html``; the picture goes beside it as ``.png``.
    overwrite : bool
        Replace existing files.

    Returns
    -------
    tuple of Path
        The HTML file and the PNG file.

    Raises
    ------
    MissingDependency
        If matplotlib or jinja2 is not installed (extra ``report``).
    OutputError
        If a target exists or cannot be written.

    Examples
    --------
    >>> from kerasneuro.report import write_quality_page
    >>> write_quality_page(result, "out/sub-01_report.html")  # doctest: +SKIP
    (PosixPath('out/sub-01_report.html'), PosixPath('out/sub-01_report.png'))
    """
    if result.moved is not None and result.fixed is not None:
        from kerasneuro.report.registration import write_registration_page

        return write_registration_page(result, path_html, overwrite=overwrite)
    page, picture = prepare_page(path_html, overwrite=overwrite)
    quality, scene = gather(result)
    if result.closeups:
        from kerasneuro.report.closeup import TEMPLATE as CLOSEUP
        from kerasneuro.report.closeup import draw_closeups

        png, brightest = draw_closeups(result.closeups, result.colours)
        html = render(quality, png, template=CLOSEUP, brightest=brightest)
    else:
        png = draw(scene)
        html = render(quality, png)
    place_files({picture: png, page: html.encode("utf-8")})
    return page, picture


def prepare_page(path_html: str | os.PathLike[str], *, overwrite: bool) -> tuple[Path, Path]:
    """Make sure, before anything is drawn, that a page and its picture can be made and written."""
    require_report()
    paths = report_paths(path_html)
    check_targets(paths, overwrite=overwrite)
    return paths


def render(quality: Quality, png: bytes, *, template: str = TEMPLATE, **more: Any) -> str:
    """Fill a template of this folder; every value is escaped."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependency(
            "a quality page needs jinja2; install it with: pip install 'kerasneuro[report]'"
        ) from error
    folder = resources.files(__package__)
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
    )
    picture = base64.b64encode(png).decode("ascii")
    return environment.get_template(template).render(
        quality=quality, card=quality.card, picture=picture, **more
    )


def place_files(contents: dict[Path, bytes]) -> None:
    """Write all files under temporary names first, then put them in place."""
    waiting: dict[Path, str] = {}
    try:
        for path, content in contents.items():
            handle, waiting[path] = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(waiting[path]).chmod(0o666 & ~_umask())
        for path, temporary in waiting.items():
            os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{page_name(contents)} cannot be written: {error.strerror or error}") from error
    finally:
        for temporary in waiting.values():
            with suppress(OSError):
                os.unlink(temporary)


def page_name(contents: dict[Path, bytes]) -> str:
    """Name the page in an error."""
    return str(next(path for path in contents if path.suffix != ".png"))


def _umask() -> int:
    """Read the mask for new files; the system offers no other way than to set it."""
    current = os.umask(0o022)
    os.umask(current)
    return current
