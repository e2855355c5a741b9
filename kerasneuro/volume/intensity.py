"""Bring intensities to the scale that a network was trained on."""

from __future__ import annotations

import numpy as np

from kerasneuro.errors import InvalidImage

DEEPBET_STD = np.float32(0.226)
DEEPBET_MEAN = np.float32(0.449)


def zscore(array: np.ndarray) -> np.ndarray:
    """Subtract the mean and divide by the population standard deviation, all voxels counted.

    Parameters
    ----------
    array
        Any shape; float32 is computed in float32, integers in float64.

    Returns
    -------
    ndarray
        Mean 0, standard deviation 1.

    Raises
    ------
    InvalidImage
        If all voxels are the same, or some are not finite.
    """
    mean, deviation = array.mean(), array.std()
    if not np.isfinite(deviation) or deviation == 0:
        raise InvalidImage(
            f"expected voxels with a positive standard deviation to standardise, found mean {mean:g} and "
            f"deviation {deviation:g}; the image is constant or not finite"
        )
    result = array - mean
    result /= deviation
    return result


def finite_float32(array: np.ndarray) -> np.ndarray:
    """Return float32 voxels with NaN as 0 and infinity as the largest float32 of its sign."""
    with np.errstate(over="ignore"):
        values = array.astype(np.float32, copy=False)
    if np.isfinite(values.min()) and np.isfinite(values.max()):
        return values
    return np.nan_to_num(values)


def quantile_limits(array: np.ndarray, low: float = 0.005, high: float = 0.995) -> tuple[float, float]:
    """Return two quantiles of a volume, interpolated linearly, as deepbet 1.0.2 (``torch.quantile``) does.

    The rank ``q * (N - 1)`` is computed in float32.

    Parameters
    ----------
    array
        Any shape, finite.
    low, high
        Fractions between 0 and 1.

    Returns
    -------
    tuple of float
        The lower and the upper quantile; both are float32 values.

    Raises
    ------
    InvalidImage
        If both are the same, so that nothing can be scaled between them.
    """
    values = np.ravel(array, order="K").astype(np.float32, copy=False)
    ranks = [np.float32(q) * np.float32(values.size - 1) for q in (low, high)]
    lower = [int(rank) for rank in ranks]
    upper = [min(index + 1, values.size - 1) for index in lower]
    ordered = np.partition(values, sorted({*lower, *upper}))
    limits = []
    for rank, below, above in zip(ranks, lower, upper, strict=True):
        fraction, span = rank - np.float32(below), ordered[above] - ordered[below]
        near = ordered[below] + fraction * span
        far = ordered[above] - (np.float32(1) - fraction) * span
        limits.append(float(near if fraction < 0.5 else far))
    if not limits[1] > limits[0]:
        raise InvalidImage(
            f"expected an image with contrast, found {limits[0]:g} for both the {low:.1%} "
            f"and the {high:.1%} quantile"
        )
    return limits[0], limits[1]


def normalise_between(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale `low` .. `high` to 0 .. 1, clip, and bring to mean 0.449 and deviation 0.226 (deepbet 1.0.2).

    Parameters
    ----------
    array
        Shape ``(X, Y, Z)``, finite.
    low, high
        As from `quantile_limits`.

    Returns
    -------
    ndarray
        Shape ``(X, Y, Z)``, float32, C order; the deviation is the unbiased one.

    Raises
    ------
    InvalidImage
        If the clipped volume is constant.

    References
    ----------
    https://doi.org/10.1016/j.compbiomed.2024.108845
    """
    result = np.empty(array.shape, np.float32)
    total = squares = 0.0
    low32, span = np.float32(low), np.float32(high) - np.float32(low)
    # One plane at a time stays in the processor's cache; sums over planes are kept in float64.
    with np.errstate(over="ignore"):
        for plane, source in zip(result, array, strict=True):
            np.subtract(source, low32, out=plane)
            plane /= span
            np.clip(plane, 0, 1, out=plane)
            total += float(plane.sum())
            flat = plane.reshape(-1)
            squares += float(flat @ flat)
    mean = total / result.size
    variance = (squares - result.size * mean**2) / max(result.size - 1, 1)
    if variance <= 1e-12:
        raise InvalidImage(f"expected contrast between {low:g} and {high:g}, found a constant image")
    factor = np.float32(DEEPBET_STD / np.sqrt(variance))
    for plane in result:
        plane -= np.float32(mean)
        plane *= factor
        plane += DEEPBET_MEAN
    return result
