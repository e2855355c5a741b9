"""What a quality page says, gathered from a result as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro import registry
from kerasneuro.errors import InvalidImage, InvalidOption, ModelNotFound
from kerasneuro.tasks.result import RESEARCH_USE, Result
from kerasneuro.tasks.sanity import volume_warnings

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

    from kerasneuro.volume import ColourTable

OUTLINES = ("labels", "mask")  # the first of these that a result has is drawn
MASK_COLOUR = "#ff5a36"
LABEL_COLOURS = (
    "#ff5a36", "#35b6ff", "#ffd23f", "#3ddc84", "#d77bff", "#ff8fb8", "#00d5c8", "#ffa600",
    "#9db4ff", "#b8e04a", "#ff7bd5", "#c9a27e", "#7fe3ff", "#e0e0e0", "#8fffb0", "#ffb199",
)  # fmt: skip


@dataclass(frozen=True)
class Region:
    """One outlined region: its label value, name, colour, and volume in cm3."""

    label: int
    name: str
    colour: str
    voxels: int
    volume_cm3: float


@dataclass(frozen=True)
class Scene:
    """What the slices show, on one RAS grid.

    Attributes
    ----------
    scan : ndarray
        Shape ``(X, Y, Z)``, float32, axes to the right, front and top.
    labels : ndarray or None
        Shape ``(X, Y, Z)``, integers; 0 is background.
    zooms : tuple of float
        Voxel size along the axes in mm.
    """

    scan: np.ndarray
    labels: np.ndarray | None
    zooms: tuple[float, float, float]
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class Quality:
    """Everything that the page prints, as text."""

    title: str
    model: str
    warnings: tuple[str, ...]
    regions: tuple[Region, ...]
    table: tuple[Mapping[str, str], ...]
    provenance: tuple[tuple[str, str], ...]
    card: registry.ModelCard | None
    use: str = RESEARCH_USE


def gather(result: Result) -> tuple[Quality, Scene]:
    """Collect the texts and the voxels of a quality page.

    Raises
    ------
    InvalidOption
        If the result holds neither its input nor an image to show.
    """
    model = str(result.provenance.get("model", "unknown model"))
    card = find_card(model)
    scene = make_scene(result, card)
    doubts = list(result.warnings)
    if scene.labels is not None:
        found = volume_warnings(scene.labels, scene.zooms, name=_outline_name(result) or "mask")
        doubts += [doubt for doubt in found if not _said_already(doubt, result.warnings)]
    path = result.input.path if result.input is not None else None
    quality = Quality(
        title=path.name if path else model,
        model=model,
        warnings=tuple(dict.fromkeys(doubts)),
        regions=scene.regions,
        table=tuple({str(key): as_text(value) for key, value in row.items()} for row in result.table),
        provenance=tuple(flatten(result.provenance)),
        card=card,
    )
    return quality, scene


def find_card(model: str) -> registry.ModelCard | None:
    """Return the card of a registered model; None for a model of the user's own."""
    try:
        return registry.get(model)
    except ModelNotFound:
        return None


def make_scene(result: Result, card: registry.ModelCard | None) -> Scene:
    """Bring scan and outlines to one grid whose axes point right, front and top."""
    import nibabel
    from nibabel.processing import resample_from_to

    outline = _outline_name(result)
    overlay = None if outline is None else nibabel.as_closest_canonical(getattr(result, outline))
    background = nibabel.as_closest_canonical(_background(result, outline))
    if overlay is not None and not _same_grid(overlay, background):
        background = resample_from_to(background, (_first_frame(overlay).shape, overlay.affine), order=1)
    shown = background if overlay is None else overlay
    zooms = tuple(float(zoom) for zoom in np.linalg.norm(shown.affine[:3, :3], axis=0))
    labels = None if overlay is None else np.rint(_first_frame(overlay)).astype(np.int64)
    scan = np.nan_to_num(_first_frame(background).astype(np.float32), posinf=0.0, neginf=0.0)
    single = outline == "mask"
    regions = () if labels is None else find_regions(labels, zooms, card, single=single, table=result.colours)
    return Scene(scan, labels, (zooms[0], zooms[1], zooms[2]), regions)


def find_regions(
    labels: np.ndarray,
    zooms: tuple[float, ...],
    card: registry.ModelCard | None,
    *,
    single: bool,
    table: ColourTable | None = None,
) -> tuple[Region, ...]:
    """List the labels that occur, with their volume; names and colours are those of the table, if any."""
    known = card.output.get("labels", ()) if card is not None else ()
    values, counts = np.unique(labels[labels != 0], return_counts=True)
    millilitres = float(np.prod(zooms)) / 1000.0
    regions = []
    for index, (value, count) in enumerate(zip(values.tolist(), counts.tolist(), strict=True)):
        named = isinstance(known, tuple) and 0 <= value < len(known)
        name = str(known[value]) if named else ("mask" if single else f"label {value}")
        colour = MASK_COLOUR if single else LABEL_COLOURS[index % len(LABEL_COLOURS)]
        if table is not None and not single and value in table.entries:
            name, colour = table.entries[value][0], table.hexadecimal(value)
        regions.append(Region(value, name, colour, count, count * millilitres))
    return tuple(regions)


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Turn nested provenance into rows of (name, text)."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += flatten(value, f"{name}: ")
        else:
            rows.append((name, as_text(value)))
    return rows


def as_text(value: Any) -> str:
    """Write a value for a reader."""
    if value is None:
        return "-"
    if isinstance(value, float | np.floating):
        return f"{value:.10g}"
    if isinstance(value, list | tuple):
        return " x ".join(as_text(item) for item in value) if value else "-"
    return str(value)


def _said_already(doubt: str, warnings: tuple[str, ...]) -> bool:
    """Say whether the task has raised the same doubt in its own words."""
    return any(word in doubt and any(word in warning for warning in warnings) for word in ("empty", "border"))


def _outline_name(result: Result) -> str | None:
    return next((name for name in OUTLINES if getattr(result, name) is not None), None)


def _background(result: Result, outline: str | None) -> SpatialImage:
    """Choose the scan to show: the conformed one if the outline lies on its grid, else the input."""
    import nibabel

    conformed = result.conformed
    if conformed is not None and outline is not None and _same_grid(conformed, getattr(result, outline)):
        return conformed
    if result.input is not None:
        array = np.asarray(result.input.array, dtype=np.float32)
        return nibabel.Nifti1Image(array, result.input.affine)
    image = result.brain if result.brain is not None else result.moved
    if image is None:
        raise InvalidOption("a quality page needs a result that holds its input scan; this one has none")
    return image


def _first_frame(image: SpatialImage) -> np.ndarray:
    array = np.asanyarray(image.dataobj)
    while array.ndim > 3:
        array = array[..., 0]
    if array.ndim != 3:
        raise InvalidImage(f"a quality page shows images with three axes, found shape {array.shape}")
    return array


def _same_grid(one: SpatialImage, other: SpatialImage) -> bool:
    return one.shape[:3] == other.shape[:3] and np.allclose(one.affine, other.affine, atol=1e-3)
