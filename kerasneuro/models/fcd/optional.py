"""Steps before the FCD pipeline that the original does not have: all off unless asked for."""

from __future__ import annotations

import numpy as np

from kerasneuro.errors import InvalidImage
from kerasneuro.volume import Volume
from kerasneuro.volume.simple_itk import as_matrix, require_simpleitk, to_itk

SHRINK = 4
"""The bias field is fitted to every fourth voxel along each axis."""
BINS = 50
SAMPLED = 0.2
SEED = 1


def correct_bias(scan: Volume) -> Volume:
    """Divide a scan by its smooth bias field (N4), fitted to the voxels above Otsu's threshold.

    Source: N. Tustison et al. (2010), doi:10.1109/TMI.2010.2046908.

    Parameters
    ----------
    scan : Volume
        Any contrast; negative voxels are taken as 0 for the fit.

    Returns
    -------
    Volume
        On the same grid, float32.

    Raises
    ------
    MissingDependency
        If SimpleITK is not installed.
    InvalidImage
        If no field can be fitted.
    """
    itk = require_simpleitk()
    image = to_itk(scan)
    fitted = itk.Clamp(image, itk.sitkFloat32, 0.0)
    factors = [min(SHRINK, max(1, length // 16)) for length in scan.shape]
    small = itk.Shrink(fitted, factors)
    corrector = itk.N4BiasFieldCorrectionImageFilter()
    try:
        corrector.Execute(small, itk.OtsuThreshold(small, 0, 1))
        field = itk.Exp(corrector.GetLogBiasFieldAsImage(fitted))
    except RuntimeError as error:
        raise _failed("bias correction", scan, error) from error
    return scan.replace(array=scan.array / itk.GetArrayFromImage(field).T)


def register_rigidly(moving: Volume, fixed: Volume) -> tuple[Volume, np.ndarray]:
    """Move a scan onto the grid of another one of the same head, by a rotation and a shift.

    Mattes mutual information, three resolutions, linear interpolation; 0 outside.

    Parameters
    ----------
    moving, fixed : Volume
        Such as FLAIR and T1w.

    Returns
    -------
    moved : Volume
        The moving scan on the grid of the fixed one, float32.
    transform : ndarray (4, 4)
        From the fixed to the moving scan, world coordinates (RAS+, mm).

    Raises
    ------
    MissingDependency
        If SimpleITK is not installed.
    InvalidImage
        If the optimiser finds no overlap.
    """
    itk = require_simpleitk()
    target, source = to_itk(fixed), to_itk(moving)
    method = itk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SAMPLED, SEED)
    method.SetInterpolator(itk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetNumberOfThreads(1)  # else the sums, and so the last digits, depend on the machine
    start = itk.CenteredTransformInitializer(
        target, source, itk.Euler3DTransform(), itk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method.SetInitialTransform(start, inPlace=False)
    try:
        found = method.Execute(target, source)
    except RuntimeError as error:
        raise _failed("registration", moving, error) from error
    moved = itk.GetArrayFromImage(itk.Resample(source, target, found, itk.sitkLinear, 0.0)).T
    return fixed.replace(array=moved, path=moving.path, warnings=moving.warnings), as_matrix(found)


def _failed(step: str, scan: Volume, error: RuntimeError) -> InvalidImage:
    reason = str(error).strip().splitlines()[-1].strip()
    return InvalidImage(
        f"{scan.path or 'image'}: the {step} failed ({reason}); do without it, or check the scan"
    )
