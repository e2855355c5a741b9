"""What the quality page of a registration shows: slices, similarity before and after, and the warp."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.report.page import place_files, prepare_page, render
from kerasneuro.report.quality import Quality, as_text, find_card, flatten
from kerasneuro.report.registration_figure import Slices, draw_registration, draw_toggle

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

    from kerasneuro.tasks.result import Result
    from kerasneuro.volume import Volume
    from kerasneuro.volume.transform import Transform

BINS = 64
TEMPLATE = "registration.html.j2"
FACTS = {
    "folding_percent": ("Folded voxels", "%"),
    "jacobian_min": ("Smallest Jacobian determinant", ""),
    "jacobian_max": ("Largest Jacobian determinant", ""),
    "inverse_consistency_mean_mm": ("Disagreement of both directions, mean", "mm"),
    "inverse_consistency_max_mm": ("Disagreement of both directions, largest", "mm"),
    "overlap_percent": ("Fixed voxels with a value from inside the moving scan", "%"),
}
"""Entry of the task's summary -> its name on the page and its unit."""


@dataclass(frozen=True)
class Pair:
    """Images on the grid of the fixed scan, axes to the right, front and top.

    Attributes
    ----------
    fixed, before, moved : ndarray
        Shape ``(X, Y, Z)``, float32; `before` is the moving scan placed by its header alone.
    jacobian : ndarray or None
        Shape ``(X, Y, Z)``.
    places : ndarray or None
        Shape ``(X, Y, Z, 3)``, float32: world coordinates in mm that each voxel takes its value from.
    zooms : tuple of float
        Voxel size in mm.
    """

    fixed: np.ndarray
    before: np.ndarray
    moved: np.ndarray
    jacobian: np.ndarray | None
    places: np.ndarray | None
    zooms: tuple[float, float, float]


def write_registration_page(
    result: Result, path_html: str | os.PathLike[str], *, overwrite: bool = False
) -> tuple[Path, Path]:
    """Write a page that shows whether a registration can be trusted.

    The page holds fixed, moving and moved scan in three planes, their difference, a checkerboard of both,
    the grid of the warp, the Jacobian determinant, an animation that goes back and forth between fixed and
    moved scan, similarity before and after, the doubts, and the provenance. It loads nothing from elsewhere.

    Parameters
    ----------
    result : Result
        With `input` (the moving scan), `fixed` and `moved`; `transform` and `jacobian` are shown if there.
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
    InvalidOption
        If the result holds no registration.
    MissingDependency
        If matplotlib or jinja2 is not installed (extra ``report``).
    OutputError
        If a target exists or cannot be written.
    """
    page, picture = prepare_page(path_html, overwrite=overwrite)
    pair = gather_pair(result)
    slices = Slices.through(pair.fixed, pair.zooms)
    png = draw_registration(pair, slices)
    frames = {
        "fixed": draw_toggle(pair.fixed, slices),
        "before": draw_toggle(pair.before, slices),
        "after": draw_toggle(pair.moved, slices),
    }
    html = render(
        describe(result),
        png,
        template=TEMPLATE,
        frames=frames,
        similarity=compare(pair),
        facts=facts(result),
        has_grid=pair.places is not None,
        has_jacobian=pair.jacobian is not None,
    )
    place_files({picture: png, page: html.encode("utf-8")})
    return page, picture


def describe(result: Result) -> Quality:
    """Collect the texts of the page."""
    model = str(result.provenance.get("model", "unknown model"))
    names = [
        scan.path.name if scan is not None and scan.path else role
        for role, scan in (("moving", result.input), ("fixed", result.fixed))
    ]
    return Quality(
        title=" to ".join(names),
        model=model,
        warnings=tuple(dict.fromkeys(result.warnings)),
        regions=(),
        table=tuple({str(key): as_text(value) for key, value in row.items()} for row in result.table),
        provenance=tuple(flatten(result.provenance)),
        card=find_card(model),
    )


def gather_pair(result: Result) -> Pair:
    """Bring all images to the grid of the fixed scan in RAS order.

    Raises
    ------
    InvalidOption
        If the result holds no registration.
    """
    if result.input is None or result.fixed is None or result.moved is None:
        missing = [name for name in ("input", "fixed", "moved") if getattr(result, name) is None]
        raise InvalidOption(
            f"a registration page needs the moving, the fixed and the moved scan; this result has no "
            f"{', '.join(missing)}"
        )
    fixed = canonical(as_image(result.fixed))
    before, moved = (on_grid(image, fixed) for image in (as_image(result.input), result.moved))
    jacobian = None if result.jacobian is None else on_grid(result.jacobian, fixed)
    places = None
    if result.transform is not None:
        places = voxels(canonical(source_places(result.transform, result.fixed)))
    x, y, z = (float(zoom) for zoom in np.linalg.norm(fixed.affine[:3, :3], axis=0))
    return Pair(voxels(fixed), before, moved, jacobian, places, (x, y, z))


def as_image(volume: Volume) -> SpatialImage:
    """Make a nibabel image of a scan."""
    import nibabel

    return nibabel.Nifti1Image(np.asarray(volume.array, np.float32), volume.affine)


def canonical(image: SpatialImage) -> SpatialImage:
    """Turn the axes to the right, front and top."""
    import nibabel

    return nibabel.as_closest_canonical(image)


def on_grid(image: SpatialImage, fixed: SpatialImage) -> np.ndarray:
    """Return the voxels of an image on the grid of the fixed scan, placed by the headers."""
    from nibabel.processing import resample_from_to

    array = np.asanyarray(image.dataobj)
    while array.ndim > 3:
        array = array[..., 0]
    if array.ndim != 3:
        raise InvalidImage(f"a registration page shows images with three axes, found shape {array.shape}")
    turned = canonical(type(image)(array.astype(np.float32), image.affine))
    if turned.shape == fixed.shape and np.allclose(turned.affine, fixed.affine, atol=1e-3):
        return voxels(turned)
    return voxels(resample_from_to(turned, (fixed.shape, fixed.affine), order=1))


def voxels(image: SpatialImage) -> np.ndarray:
    """Return the voxels of an image as finite float32 numbers."""
    return np.nan_to_num(np.asarray(image.dataobj, np.float32), posinf=0.0, neginf=0.0)


def source_places(transform: Transform, fixed: Volume) -> SpatialImage:
    """Return the world coordinates ``(X, Y, Z, 3)`` that a fixed voxel gets its value from, as an image."""
    import nibabel

    from kerasneuro.volume.transform import Affine

    x, y, z = (np.arange(size, dtype=np.float32) for size in fixed.shape)
    grid = np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1)
    world = (grid @ fixed.affine[:3, :3].T + fixed.affine[:3, 3]).astype(np.float32)
    if isinstance(transform, Affine):
        inverse = np.linalg.inv(transform.to_world().matrix)
        world = (world @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.float32)
    else:
        world += transform.to("disp_ras").displacement
    return nibabel.Nifti1Image(world, fixed.affine)


def compare(pair: Pair) -> tuple[tuple[str, float, float], ...]:
    """Return rows of a similarity measure, its value before the registration, and after it."""
    measures = (("Correlation (NCC)", correlation), ("Mutual information (nats)", mutual_information))
    return tuple(
        (name, measure(pair.fixed, pair.before), measure(pair.fixed, pair.moved))
        for name, measure in measures
    )


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return the normalised cross-correlation of all voxels, 0 where an image is constant."""
    first, second = (array.astype(np.float64).reshape(-1) for array in (one, other))
    first -= first.mean()
    second -= second.mean()
    size = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size if size > 0 else 0.0


def mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mutual information of all voxels in nats, from a histogram of 64 x 64 bins.

    See P. Viola and W. M. Wells (1997), doi:10.1023/A:1007958904918.
    """
    counts = np.bincount(bin_of(one) * BINS + bin_of(other), minlength=BINS * BINS).reshape(BINS, BINS)
    joint = counts / counts.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    found = joint > 0
    return float((joint[found] * np.log(joint[found] / independent[found])).sum())


def bin_of(array: np.ndarray) -> np.ndarray:
    """Return the bin, 0 to 63, of each voxel between the smallest and the largest value."""
    low, high = float(array.min()), float(array.max())
    if not high > low:
        return np.zeros(array.size, np.int64)
    scaled = (array.reshape(-1) - low) * (BINS / (high - low))
    return np.minimum(scaled.astype(np.int64), BINS - 1)


def facts(result: Result) -> tuple[tuple[str, str], ...]:
    """Return what the task says of its transforms: name and value with unit."""
    from kerasneuro.volume.jacobian import percent_folding

    summary: dict[str, Any] = {}
    for content in result.summaries.values():
        summary |= dict(content)
    if result.jacobian is not None and "folding_percent" not in summary:
        summary["folding_percent"] = percent_folding(np.asarray(result.jacobian.dataobj))
    return tuple(
        (name, f"{summary[key]:.4g} {unit}".strip()) for key, (name, unit) in FACTS.items() if key in summary
    )
