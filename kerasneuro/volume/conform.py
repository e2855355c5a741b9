"""Resample a scan to a standard grid, and results back to the grid of the scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import numpy as np
from nibabel.affines import apply_affine, rescale_affine

from kerasneuro.errors import InvalidOption
from kerasneuro.volume.image import Volume
from kerasneuro.volume.orient import to_axcodes
from kerasneuro.volume.resample import LinearTable, interpolate_axes, linear_table, take_axes

GridInverse = Callable[..., np.ndarray]
EDGE = 1e-6  # voxels; a sample this close to the border lies on it


def conform(
    volume: Volume,
    shape: Sequence[int] = (256, 256, 256),
    zooms: Sequence[float] = (1.0, 1.0, 1.0),
    axcodes: str = "RAS",
    order: int = 1,
) -> tuple[Volume, GridInverse]:
    """Reorient, then resample to `shape` voxels of `zooms` mm about the centre of the scan.

    The steps of ``nibabel.processing.conform``:

    1. axes are reordered and flipped to the closest `axcodes`, without resampling;
    2. the new grid keeps the directions of the axes (an oblique scan stays oblique), has voxels of
       `zooms`, and its voxel ``(shape - 1) // 2`` lies where voxel ``(n - 1) // 2`` of the scan is;
    3. the scan is sampled there by splines of `order`; outside its outermost voxel centres it is 0.

    FreeSurfer's ``mri_convert --conform`` besides scales to 0..255, uses LIA, and straightens oblique scans.

    Parameters
    ----------
    volume
        Shape ``(X, Y, Z)``, any orientation and voxel size.
    shape, zooms
        Voxels, and mm per voxel, along each axis of the result.
    axcodes
        Orientation of the result, such as "RAS" or "LIA".
    order
        0 (nearest), 1 (linear) to 5.

    Returns
    -------
    Volume
        The conformed scan; warns if a part of the field of view was cut off.
    inverse
        ``inverse(array, order="nearest" | "linear")`` samples ``(*shape)`` on the grid of `volume`: labels by
        nearest neighbour, probabilities linearly; 0 outside the conformed grid.

    Raises
    ------
    InvalidOption
        If an option is out of range.
    """
    if order not in range(6) or len(shape) != 3 or min(shape) < 1 or len(zooms) != 3 or min(zooms) <= 0:
        raise InvalidOption(
            "conform needs three positive lengths, three positive voxel sizes and an order from 0 to 5, "
            f"found shape {tuple(shape)}, zooms {tuple(zooms)}, order {order}"
        )
    turned, turn_back = to_axcodes(volume, axcodes)
    affine = rescale_affine(turned.affine, turned.shape, zooms, shape)
    # The axes keep their directions, so each is resampled alone: source = step * target + start.
    steps = np.asarray(zooms, dtype=np.float64) / turned.zooms
    starts = apply_affine(np.linalg.inv(turned.affine), affine[:3, 3])
    lines = [start + step * np.arange(m) for start, step, m in zip(starts, steps, shape, strict=True)]
    back = [(np.arange(n) - start) / step for start, step, n in zip(starts, steps, turned.shape, strict=True)]
    array = _sample(turned.array, lines, steps, starts, order)

    def inverse(array: np.ndarray, order: Literal["nearest", "linear"] = "nearest") -> np.ndarray:
        return turn_back(_sample_back(array, back, order))

    warnings = volume.warnings + _cut_off(lines, turned)
    return turned.replace(array=array, affine=affine, warnings=warnings), inverse


def _sample(
    array: np.ndarray, lines: Sequence[np.ndarray], steps: np.ndarray, starts: np.ndarray, order: int
) -> np.ndarray:
    if order > 1:
        from scipy import ndimage

        shape = tuple(len(line) for line in lines)
        spline = cast("Literal[2, 3, 4, 5]", order)
        return np.asarray(ndimage.affine_transform(array, np.diag(steps), starts, shape, order=spline))
    if order == 0:
        return _nearest(array, lines, margin=EDGE)
    tables = [_border_table(line, n) for line, n in zip(lines, array.shape, strict=True)]
    return interpolate_axes(array, tables)


def _border_table(line: np.ndarray, n: int, margin: float = EDGE) -> LinearTable:
    """Interpolate between the outermost voxels, repeat these for `margin` voxels, and give 0 beyond."""
    lower, upper, low_weight, high_weight = linear_table(np.clip(line, 0, n - 1), n)
    inside = (line >= -margin) & (line <= n - 1 + margin)
    return lower, upper, low_weight * inside, high_weight * inside


def _nearest(array: np.ndarray, lines: Sequence[np.ndarray], margin: float) -> np.ndarray:
    indices = [np.floor(line + 0.5).astype(np.int64) for line in lines]
    lengths = array.shape[:3]
    result = take_axes(array, [np.clip(i, 0, n - 1) for i, n in zip(indices, lengths, strict=True)])
    for axis, (line, n) in enumerate(zip(lines, lengths, strict=True)):
        outside = (line < -margin) | (line > n - 1 + margin)
        result[(slice(None),) * axis + (outside,)] = 0
    return result


def _sample_back(array: np.ndarray, back: Sequence[np.ndarray], order: str) -> np.ndarray:
    """Sample on the scan's grid; here a voxel reaches half its size beyond its centre."""
    if order == "nearest":
        return _nearest(array, back, margin=0.5)
    if order == "linear":
        tables = [_border_table(line, n, 0.5) for line, n in zip(back, array.shape[:3], strict=True)]
        return interpolate_axes(array, tables)
    raise InvalidOption(f"order is 'nearest' or 'linear', found {order!r}")


def _cut_off(lines: Sequence[np.ndarray], scan: Volume) -> tuple[str, ...]:
    """Warn when voxels of the scan lie outside the new grid."""
    lost = []
    for line, n, zoom in zip(lines, scan.shape, scan.zooms, strict=True):
        half = abs(line[-1] - line[0]) / max(len(line) - 1, 1) / 2
        voxels = max(line[0] - half + 0.5, 0) + max(n - 0.5 - line[-1] - half, 0)
        lost.append(voxels * zoom)
    if max(lost) < 1:
        return ()
    listed = ", ".join(f"{millimetres:.0f}" for millimetres in lost)
    return (f"the scan is larger than the conformed grid: {listed} mm are cut off along its three axes",)
