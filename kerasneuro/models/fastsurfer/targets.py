"""What FastSurferCNN is trained on: classes from FreeSurfer labels, weights of pixels, slices worth keeping.

Source: Deep-MI/FastSurfer@070647d, ``FastSurferCNN/data_loader/load_neuroimaging_data.py`` and
``FastSurferCNN/generate_hdf5.py``; L. Henschel et al., NeuroImage 219 (2020) 117012,
doi:10.1016/j.neuroimage.2020.117012.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.models.fastsurfer import labels as tables
from kerasneuro.volume.crop import bounding_box, slices

MERGED = ((80, 77), (85, 0), (62, 41), (30, 2), (72, 24))
"""Labels that the network does not tell apart, in the order in which they are replaced."""
CALLOSUM = (251, 255)
CORTEX = (3, 42)
UNKNOWN = ((1000, 2000), (2000, 3000))
"""Unknown cortex of either hemisphere, and the number that its parcels stay below."""
RIGHT_OF_LEFT = (
    *((2, 41), (4, 43), (5, 44), (7, 46), (8, 47), (10, 49), (11, 50), (12, 51), (13, 52)),
    *((17, 53), (18, 54), (26, 58), (28, 60), (31, 63)),
)
"""Both sides are one class in sagittal slices, by the label of the right one."""
BLUR = 5.0
"""Standard deviation in voxels by which parcels spread into unknown cortex."""
RADIUS = int(4 * BLUR)
LARGEST_CLASS_WEIGHT = 5.0
EDGE_WEIGHT = 5.0
LEAST_SUM = 50


def class_volume(
    aparc: np.ndarray, plane: str = "axial", without_callosum: np.ndarray | None = None
) -> np.ndarray:
    """Turn a FreeSurfer parcellation into the classes of one plane's network.

    Parameters
    ----------
    aparc : numpy.ndarray
        aparc.DKTatlas+aseg on the conformed grid, shape ``(X, Y, Z)``, whole numbers.
    plane : {"axial", "coronal", "sagittal"}
        Sagittal slices do not tell the sides apart.
    without_callosum : numpy.ndarray, optional
        An aseg without corpus callosum, same shape: its values stand in for the labels 251 ... 255, which
        are background otherwise.

    Returns
    -------
    numpy.ndarray
        Shape ``(X, Y, Z)``, uint8: 0 ... 78, or 0 ... 50 for the sagittal plane; 0 for other labels.

    Raises
    ------
    InvalidImage
        If a volume holds other numbers than whole ones, or the shapes differ.
    InvalidOption
        If the plane is none of these.
    """
    if plane not in ("axial", "coronal", "sagittal"):
        raise InvalidOption(f"plane is 'axial', 'coronal' or 'sagittal', found {plane!r}")
    original = whole_numbers(aparc, "the parcellation")
    result = merge(original, without_callosum)
    for unknown, stop in UNKNOWN:
        fill_unknown(result, unknown, stop)
    result[(result >= 2000) & (result <= 2999)] -= 1000
    kept = np.isin(original, [label for label in tables.class_labels() if label >= 2000])
    result[kept] = original[kept]
    if plane != "sagittal":
        return classes_of(result, tables.class_labels())
    for left, right in RIGHT_OF_LEFT:
        result[result == left] = right
    result[(result >= 2000) & (result <= 2099)] -= 1000
    return classes_of(result, sagittal_labels())


@functools.cache
def sagittal_labels() -> np.ndarray:
    """Return the label of each sagittal class: int64, shape ``(51,)``.

    Of two sides it is the right one below the cortex, and the left one in it.
    """
    labels = np.zeros(tables.N_SAGITTAL_CLASSES, np.int64)
    below_cortex = dict(RIGHT_OF_LEFT)
    pairs = list(zip(tables.class_labels().tolist(), tables.sagittal_classes(), strict=True))
    for label, index in reversed(pairs):  # A left parcel comes before its right one and stays.
        labels[index] = below_cortex.get(label, label)
    return labels


def whole_numbers(volume: np.ndarray, what: str) -> np.ndarray:
    """Return labels as int64, or refuse what are none."""
    volume = np.asarray(volume)
    result = volume.astype(np.int64) if volume.dtype.kind in "buif" and np.isfinite(volume).all() else None
    if result is None or volume.ndim != 3 or (volume.dtype.kind == "f" and (result != volume).any()):
        raise InvalidImage(
            f"{what} has {volume.ndim} dimensions of {volume.dtype}, expected three and whole numbers; "
            "give a label map"
        )
    return result


def merge(labels: np.ndarray, without_callosum: np.ndarray | None = None) -> np.ndarray:
    """Return a copy with labels united that the network does not tell apart, and unnamed cortex removed."""
    result = labels.copy()
    for old, new in MERGED:
        result[result == old] = new
    if without_callosum is not None:
        aseg = whole_numbers(without_callosum, "the aseg without corpus callosum")
        if aseg.shape != result.shape:
            raise InvalidImage(
                f"the aseg has shape {aseg.shape}, the parcellation {result.shape}; conform both alike"
            )
        callosum = (result >= CALLOSUM[0]) & (result <= CALLOSUM[1])
        result[callosum] = aseg[callosum]
    result[np.isin(result, CORTEX)] = 0
    return result


def fill_unknown(labels: np.ndarray, unknown: int, stop: int) -> None:
    """Give voxels of unknown cortex, in place, the parcel around them that spreads most into each.

    Parameters
    ----------
    labels : numpy.ndarray
        Shape ``(X, Y, Z)``, int.
    unknown, stop : int
        The label to replace; candidates lie between the two and touch it across faces or edges.
    """
    mask = labels == unknown
    if not mask.any():
        return
    # A Gaussian of limited radius: what lies further from the unknown voxels than this changes nothing there.
    box = slices(bounding_box(mask))
    near = tuple(
        slice(max(side.start - RADIUS, 0), min(side.stop + RADIUS, size))
        for side, size in zip(box, labels.shape, strict=True)
    )
    inside, part = labels[near], mask[near]
    shell = ndimage.binary_dilation(part, ndimage.generate_binary_structure(3, 2)) ^ part
    candidates = np.unique(inside[shell])
    best = np.full(int(part.sum()), -1.0)
    filled = np.full(best.shape, unknown)
    for candidate in candidates[(candidates > unknown) & (candidates < stop)]:
        spread = ndimage.gaussian_filter(1000.0 * (inside == candidate), sigma=BLUR)[part]
        filled[spread > best] = candidate
        best = np.maximum(best, spread)
    inside[part] = filled


def classes_of(labels: np.ndarray, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """Replace each label by its place in a list of labels.

    Parameters
    ----------
    labels : numpy.ndarray
        Any shape, whole numbers.
    ids : sequence of int
        Label of each class; the first is the background.

    Returns
    -------
    numpy.ndarray
        Same shape, uint8; labels that are not listed become 0.

    Raises
    ------
    InvalidOption
        If a label is listed twice, or there are more than 256.
    """
    ids = np.asarray(ids, np.int64)
    if len(np.unique(ids)) != len(ids) or not 0 < len(ids) <= 256:
        raise InvalidOption(f"expected 1 to 256 different labels as classes, found {ids.tolist()}")
    order = np.argsort(ids)
    place = np.minimum(np.searchsorted(ids, labels, sorter=order), len(ids) - 1)
    classes = order[place]
    return np.where(ids[classes] == labels, classes, 0).astype(np.uint8)


def class_weights(classes: np.ndarray, n_classes: int) -> np.ndarray:
    """Weigh each class by how rare it is in a volume: median count by count, at most 5.

    Classes that are absent have weight 0 and no part in the median. (The original numbers the weights by the
    classes that are present, so a volume that lacks one is weighed wrongly there.)

    Parameters
    ----------
    classes : numpy.ndarray
        Class indices, shape ``(X, Y, Z)``, uint8.
    n_classes : int
        Number of classes, background included.

    Returns
    -------
    numpy.ndarray
        Shape ``(n_classes,)``, float64.
    """
    counts = np.bincount(classes.reshape(-1), minlength=n_classes)
    if len(counts) > n_classes:
        raise InvalidImage(f"expected classes below {n_classes}, found {len(counts) - 1}")
    present = counts > 0
    weights = np.zeros(n_classes)
    weights[present] = np.minimum(np.median(counts[present]) / counts[present], LARGEST_CLASS_WEIGHT)
    return weights


def edges(classes: np.ndarray) -> np.ndarray:
    """Mark voxels where the gradient of the class indices is not zero.

    Parameters
    ----------
    classes : numpy.ndarray
        Class indices, shape ``(X, Y, Z)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(X, Y, Z)``, bool: the neighbours before and behind differ along an axis (at the border of
        the volume: the voxel and its only neighbour).
    """
    result = np.zeros(classes.shape, bool)
    for axis in range(classes.ndim):
        along, marked = np.moveaxis(classes, axis, 0), np.moveaxis(result, axis, 0)
        if len(along) < 2:
            continue
        marked[1:-1] |= along[2:] != along[:-2]
        marked[0] |= along[1] != along[0]
        marked[-1] |= along[-1] != along[-2]
    return result


def pixel_weights(classes: np.ndarray, n_classes: int) -> np.ndarray:
    """Weigh voxels by the rarity of their class, and more by 5 at borders between classes.

    Parameters
    ----------
    classes : numpy.ndarray
        Class indices, shape ``(X, Y, Z)``, uint8.
    n_classes : int
        Number of classes, background included.

    Returns
    -------
    numpy.ndarray
        Shape ``(X, Y, Z)``, float32.
    """
    return weigh(classes, edges(classes), class_weights(classes, n_classes))


def weigh(classes: np.ndarray, edge: np.ndarray, by_class: np.ndarray) -> np.ndarray:
    """Return the weights of voxels, float32, from their class, `edges` and `class_weights`."""
    table = np.stack([by_class, by_class + EDGE_WEIGHT]).astype(np.float32)
    return table[edge.astype(np.uint8), classes]


def worthwhile_slices(classes: np.ndarray, axis: int) -> np.ndarray:
    """Find the slices that show enough to train on: the sum of their class indices is more than 50.

    Parameters
    ----------
    classes : numpy.ndarray
        Class indices, shape ``(X, Y, Z)``.
    axis : int
        Axis that counts the slices.

    Returns
    -------
    numpy.ndarray
        Their numbers, ascending, int64.
    """
    others = tuple(other for other in range(classes.ndim) if other != axis)
    return np.flatnonzero(classes.sum(axis=others, dtype=np.int64) > LEAST_SUM)
