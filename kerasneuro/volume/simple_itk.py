"""Volumes as SimpleITK images, and affine registration with it; SimpleITK is an extra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from kerasneuro.errors import InvalidImage, MissingDependency
from kerasneuro.volume.geometry import Geometry
from kerasneuro.volume.image import Volume
from kerasneuro.volume.transform import Affine

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
BINS = 32
SEED = 1
COARSE = (6, 4, 2)
FINE = (4, 2, 1)
SAMPLED = {6: 1.0, 4: 0.5, 2: 0.2, 1: 0.02}
"""Part of the voxels that the metric looks at, for each of these resolutions in mm."""
FIRST_STEP, LAST_STEP, RELAXATION, STEPS = 4.0, 0.01, 0.6, 300
"""The optimiser's steps: longest and shortest in mm, factor at each turn, and the most of a resolution."""
BRIGHTEST = 99.8
"""Percentile above which voxels are cut: single bright ones would leave few bins to the rest."""
LARGEST_SCALE = 2.0
"""A head is not stretched by more than this, along any direction, to become another one."""


def require_simpleitk() -> Any:
    """Import SimpleITK, or say which extra brings it."""
    try:
        import SimpleITK
    except ImportError as error:
        raise MissingDependency(
            "registration and bias correction need SimpleITK: pip install 'kerasneuro[itk]'"
        ) from error
    return SimpleITK


def to_itk(scan: Volume) -> Any:
    """Make a float32 SimpleITK image; its axes are those of the array, its world is LPS."""
    itk = require_simpleitk()
    image = itk.GetImageFromArray(np.ascontiguousarray(scan.array.T, np.float32))
    affine = LPS @ scan.affine
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(zoom) for zoom in zooms])
    image.SetOrigin([float(value) for value in affine[:3, 3]])
    image.SetDirection([float(value) for value in (affine[:3, :3] / zooms).ravel()])
    return image


def as_matrix(transform: Any) -> np.ndarray:
    """Return a linear ITK transform (LPS) as a matrix between RAS+ coordinates."""
    points = np.vstack([np.zeros(3), np.eye(3)])
    images = np.array([transform.TransformPoint([float(value) for value in point]) for point in points])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = (images[1:] - images[0]).T, images[0]
    return LPS @ matrix @ LPS


def register_affine(
    moving: Volume,
    fixed: Volume,
    *,
    mask: np.ndarray | None = None,
    spacings: Sequence[int] = COARSE,
    trust_headers: bool = False,
) -> Affine:
    """Register a head to another one by an affine matrix: the same result on every run.

    Mattes mutual information of 32 bins, from coarse to fine, by a regular-step gradient descent.

    Parameters
    ----------
    moving, fixed : Volume
        Scans of any contrast, voxel size and orientation.
    mask : ndarray (X, Y, Z), optional
        Voxels of the fixed scan to look at, where not 0.
    spacings : sequence of int
        Voxel sizes in mm of the resolutions: some of 6, 4, 2 and 1, each a multiple of the last.
    trust_headers : bool
        Also try to start where the headers place the scans, and take the better start; else the centres of
        mass are aligned.

    Returns
    -------
    Affine
        From the moving to the fixed scan, world coordinates.

    Raises
    ------
    MissingDependency
        If SimpleITK is not installed.
    InvalidImage
        If the scans do not overlap, or the matrix found is none between two heads.

    Source: D. Mattes et al. (2003), doi:10.1109/TMI.2003.809072
    """
    itk = require_simpleitk()
    try:
        with _one_thread(itk):
            found = _find(itk, moving, fixed, mask, spacings, trust_headers)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InvalidImage(_failure(moving, fixed, reason)) from error
    scales = np.linalg.svd(found[:3, :3], compute_uv=False)
    if scales.max() > LARGEST_SCALE or scales.min() < 1 / LARGEST_SCALE:
        stretch = ", ".join(f"{scale:.2f}" for scale in scales)
        raise InvalidImage(_failure(moving, fixed, f"it stretches the head by {stretch}"))
    return Affine(np.linalg.inv(found), Geometry.of(moving), Geometry.of(fixed), "world")


@contextmanager
def _one_thread(itk: Any) -> Iterator[None]:
    """Compute on one thread: else the sums, and so the last digits, change from run to run."""
    before = itk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    itk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        itk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _find(
    itk: Any,
    moving: Volume,
    fixed: Volume,
    mask: np.ndarray | None,
    spacings: Sequence[int],
    trust_headers: bool,
) -> np.ndarray:
    """Return the matrix from the fixed to the moving scan, RAS+."""
    target, source = (_evenly_spaced(itk, to_itk(_clipped(scan)), spacings[-1]) for scan in (fixed, moving))
    method = _method(itk, spacings)
    masked = target
    if mask is not None:
        inside = _on_grid(itk, fixed.replace(array=np.asarray(mask) != 0), target)
        method.SetMetricFixedMask(inside)
        masked = itk.Mask(target, inside)
    start = _centres(itk, masked, source)
    if trust_headers:
        start = _better(itk, [start, itk.AffineTransform(3)], target, source, spacings[0])
    method.SetInitialTransform(start, inPlace=False)
    return as_matrix(method.Execute(target, source))


def _failure(moving: Volume, fixed: Volume, reason: str) -> str:
    return (
        f"{fixed.path or 'image'}: the registration of {moving.path or 'the other image'} failed ({reason}); "
        "check that both show a head"
    )


def _method(itk: Any, spacings: Sequence[int]) -> Any:
    method = itk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentagePerLevel([SAMPLED[spacing] for spacing in spacings], SEED)
    method.SetInterpolator(itk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(FIRST_STEP, LAST_STEP, STEPS, RELAXATION)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([round(spacing / spacings[-1]) for spacing in spacings])
    method.SetSmoothingSigmasPerLevel([spacing / 2 for spacing in spacings[:-1]] + [0.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    return method


def _clipped(scan: Volume) -> Volume:
    array = scan.array.astype(np.float32, copy=False)
    return scan.replace(array=np.minimum(array, np.percentile(array[::2, ::2, ::2], BRIGHTEST)))


def _evenly_spaced(itk: Any, image: Any, spacing: float) -> Any:
    """Resample to cubes of `spacing` mm; axes that become coarser are smoothed before."""
    old, shape = np.array(image.GetSpacing()), np.array(image.GetSize())
    sigmas = np.sqrt(np.maximum(spacing**2 - old**2, 0.0)) / 2
    smooth = itk.SmoothingRecursiveGaussian(image, [max(float(sigma), 1e-3) for sigma in sigmas])
    size = np.maximum(np.ceil(shape * old / spacing), 1)
    first = (shape - 1) / 2 - (size - 1) / 2 * spacing / old
    origin = image.TransformContinuousIndexToPhysicalPoint([float(value) for value in first])
    grid = [[int(length) for length in size], itk.Transform(), itk.sitkLinear, origin, [float(spacing)] * 3]
    return itk.Resample(smooth, *grid, image.GetDirection(), 0.0)


def _on_grid(itk: Any, mask: Volume, target: Any) -> Any:
    moved = itk.Resample(to_itk(mask), target, itk.Transform(), itk.sitkNearestNeighbor, 0.0)
    return itk.Cast(moved, itk.sitkUInt8)


def _centres(itk: Any, target: Any, source: Any) -> Any:
    kind = itk.CenteredTransformInitializerFilter.MOMENTS
    return itk.AffineTransform(itk.CenteredTransformInitializer(target, source, itk.AffineTransform(3), kind))


def _better(itk: Any, starts: Sequence[Any], target: Any, source: Any, spacing: int) -> Any:
    """Take the start with the better metric at `spacing` mm; where the scans do not overlap there is none."""
    target, source = (_evenly_spaced(itk, image, spacing) for image in (target, source))
    values = []
    for start in starts:
        method = _method(itk, (spacing,))
        method.SetInitialTransform(start, inPlace=False)
        try:
            values.append(method.MetricEvaluate(target, source))
        except RuntimeError:
            values.append(np.inf)
    return starts[int(np.argmin(values))]
