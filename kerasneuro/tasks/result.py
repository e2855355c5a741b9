"""What a task returns, and how it is written to disk."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kerasneuro.errors import InvalidOption, OutputError

if TYPE_CHECKING:
    import numpy as np
    from nibabel.spatialimages import SpatialImage

    from kerasneuro.volume import ColourTable, Volume
    from kerasneuro.volume.transform import Transform

TRANSFORMS = ("transform", "inverse")  # fields that hold no image
RESEARCH_USE = "For research only; not a medical device, and never a diagnosis."


@dataclass(frozen=True, eq=False)
class Closeup:
    """A part of the scan with what was found there, on one grid in RAS+ orientation.

    Attributes
    ----------
    name : str
        What it shows.
    scan : Volume
        ``(X, Y, Z)``.
    labels : ndarray (X, Y, Z)
        Integers; 0 is background.
    uncertainty : ndarray (X, Y, Z) or None
        In nats.
    """

    name: str
    scan: Volume
    labels: np.ndarray
    uncertainty: np.ndarray | None = None


@dataclass(frozen=True)
class Result:
    """The named outputs of one run; fields that a task does not make are None.

    Attributes
    ----------
    mask, labels, probability, brain, uncertainty, variance, entropy, moved, fixed_moved : nibabel image or
    None
        Images on the input grid (header of the input kept), unless the model card says otherwise.
        `uncertainty` is the map that the model card names, such as the entropy.
    conformed, aseg : nibabel image or None
        The scan on the grid that the network saw, and the labels with each cortex as one.
    colours : ColourTable or None
        Names and colours of the labels; `save` writes them as text.
    transform, inverse : Affine, Warp or None
        Spatial transforms of registration tasks: from the moving to the fixed scan, and back.
    jacobian : nibabel image or None
        Local change of volume by a warp, on the grid of the fixed scan.
    warp : nibabel image or None
        Displacement in voxels ``(X, Y, Z, 3)`` as an array, where the original writes it so.
    summaries : mapping of str to mapping
        Numbers that `save` writes as JSON: output name -> content.
    pictures : mapping of str to bytes
        PNG files that `save` writes: output name -> content.
    images : mapping of str to nibabel image
        Further images that `save` writes: output name -> image.
    closeups : tuple of Closeup
        Parts of the scan that a quality page shows enlarged.
    table : tuple of dict
        Rows of the result table (volumes in mm3 or cm3, named in the column).
    provenance : mapping
        Model, weights and their digests, options, versions.
    warnings : tuple of str
        Doubts about the input or the result, in plain words.
    input, fixed : Volume or None
        The scan as it was read, and the one it was registered to, for reports.
    outputs : mapping of str to str
        Fields that `save` writes into a folder, with their suffix.
    main_output : str
        The field that `save` writes when a file name is given.
    """

    mask: SpatialImage | None = None
    labels: SpatialImage | None = None
    probability: SpatialImage | None = None
    uncertainty: SpatialImage | None = None
    variance: SpatialImage | None = None
    entropy: SpatialImage | None = None
    brain: SpatialImage | None = None
    conformed: SpatialImage | None = None
    aseg: SpatialImage | None = None
    colours: ColourTable | None = None
    moved: SpatialImage | None = None
    fixed_moved: SpatialImage | None = None
    transform: Transform | None = None
    inverse: Transform | None = None
    jacobian: SpatialImage | None = None
    warp: SpatialImage | None = None
    summaries: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    pictures: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    images: Mapping[str, SpatialImage] = field(default_factory=lambda: MappingProxyType({}))
    closeups: tuple[Closeup, ...] = ()
    table: tuple[dict[str, Any], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    input: Volume | None = None
    fixed: Volume | None = None
    outputs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    main_output: str = "mask"

    def save(
        self,
        target: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        outputs: Iterable[str] | None = None,
        stem: str | None = None,
    ) -> dict[str, Path]:
        """Write the result.

        Parameters
        ----------
        target : path
            A folder (every output goes into it, named ``<stem>_<field><suffix>``), or an image file name (the
            main output alone goes there).
        overwrite : bool
            Replace existing files; otherwise an existing target is an error and nothing is written.
        outputs : iterable of str, optional
            The fields to write into a folder (default: all that the task makes).
        stem : str, optional
            Start of the file names in a folder (default: the input's name without its image suffix).

        Returns
        -------
        dict of str to Path
            Field name -> file written.

        Raises
        ------
        OutputError
            If a target exists, or the folder cannot be written.
        """
        plan = plan_outputs(
            target,
            stem or self._stem(),
            outputs=self.outputs,
            main_output=self.main_output,
            wanted=outputs,
        )
        check_targets(plan.values(), overwrite=overwrite)
        for name, path in plan.items():
            self._write(name, path, overwrite=overwrite)
        return plan

    def _stem(self) -> str:
        from kerasneuro.volume import strip_suffix

        path = self.input.path if self.input is not None else None
        return strip_suffix(path) if path else str(self.provenance.get("model", "result"))

    def _write(self, name: str, path: Path, *, overwrite: bool) -> None:
        if name == "provenance" or name in self.summaries:
            content = self.provenance if name == "provenance" else self.summaries[name]
            write_text(path, json.dumps(dict(content), indent=2) + "\n")
            return
        if name == "table":
            write_text(path, table_text(self.table))
            return
        if name == "colours" and self.colours is not None:
            write_text(path, self.colours.text())
            return
        if name in self.pictures:
            write_bytes(path, self.pictures[name])
            return
        from kerasneuro.volume import save_image

        image: Any = self.images.get(name, getattr(self, name, None))
        if image is None:
            raise InvalidOption(f"this run made no {name!r}; leave it out of the outputs")
        if name in TRANSFORMS:
            from kerasneuro.volume.transform_io import save_transform

            save_transform(image, path, overwrite=overwrite)
            return
        save_image(image, path, overwrite=overwrite)


def plan_outputs(
    target: str | os.PathLike[str],
    stem: str,
    *,
    outputs: Mapping[str, str],
    main_output: str,
    wanted: Iterable[str] | None = None,
) -> dict[str, Path]:
    """Name the files that a result will occupy, before anything is computed.

    Raises
    ------
    InvalidOption
        If an output is asked for that the task does not make.
    """
    from kerasneuro.volume import IMAGE_SUFFIXES

    path = Path(target)
    if path.name.endswith(IMAGE_SUFFIXES) and not path.is_dir():
        return {main_output: path}
    names = tuple(outputs) if wanted is None else tuple(wanted)
    unknown = [name for name in names if name not in outputs]
    if unknown:
        raise InvalidOption(f"no output named {', '.join(unknown)}: this task makes {', '.join(outputs)}")
    if path.suffix and not path.is_dir() and not str(target).endswith(("/", os.sep)):
        raise InvalidOption(
            f"{path.name!r} is neither a folder nor an image file name; "
            f"end a folder with '/', or an image with {', '.join(IMAGE_SUFFIXES)}"
        )
    return {name: path / f"{stem}_{name}{outputs[name]}" for name in names}


def check_targets(targets: Iterable[Path], *, overwrite: bool) -> None:
    """Make sure that every target can be written, and make the last folder of a new one.

    Raises
    ------
    OutputError
        If a target exists and `overwrite` is False, or its folder is missing, a file, or not writable.
    """
    paths = list(targets)
    for path in paths:
        if path.is_dir():
            raise OutputError(f"{path} is a folder, expected a file name for the output")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already; allow overwriting or choose another target")
    for folder in dict.fromkeys(path.parent for path in paths):
        prepare_folder(folder)


def prepare_folder(folder: Path) -> None:
    """Create an output folder (one level) and prove by a temporary file that it can be written."""
    if not folder.exists():
        if not folder.parent.is_dir():
            raise OutputError(f"the folder {folder} does not exist, nor does its parent; create it first")
        try:
            folder.mkdir()
        except OSError as error:
            raise OutputError(f"the folder {folder} cannot be created: {error.strerror}") from error
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file, expected a folder for the outputs")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"the folder {folder} is not writable: {error.strerror}; choose another") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def table_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows as CSV with a header line."""
    rows = list(rows)
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
