"""Explain the result of a classification: heat map on the grid of the scan, pictures, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.explain.figures import draw_montage
from kerasneuro.explain.grad_cam import grad_cam_parts
from kerasneuro.explain.gradients import require_gradients
from kerasneuro.explain.grids import to_native
from kerasneuro.explain.head_view import draw_head
from kerasneuro.explain.integrated import integrated_gradients
from kerasneuro.explain.occlusion import occlusion_sensitivity
from kerasneuro.inference.settings import Progress
from kerasneuro.tasks.classification import ClassificationResult, mark_research_use
from kerasneuro.tasks.result import RESEARCH_USE, Result

if TYPE_CHECKING:
    from kerasneuro.tasks import Task
    from kerasneuro.volume import Volume

PICTURES: dict[str, Callable[..., bytes]] = {"heatmap_slices": draw_montage, "heatmap_head": draw_head}
WINDOWS_PER_AXIS = 4  # hidden cubes side by side; neighbours overlap by half


@dataclass(frozen=True)
class Explanation:
    """A heat map on the grid of the network, and what to say about it."""

    heat: np.ndarray
    meaning: str
    facts: dict[str, Any]
    warnings: tuple[str, ...] = ()


def explain_result(
    task: Task,
    result: Result,
    method: str = "grad-cam",
    *,
    class_index: int | None = None,
    layer: str | None = None,
    progress: Progress = False,
) -> ClassificationResult:
    """Add the heat map of what the network looked at to the result of a classification.

    Parameters
    ----------
    task : Task
        The task that made the result.
    result : ClassificationResult
        With `batch` (one person) and `input`.
    method : {"grad-cam", "integrated-gradients", "occlusion"}
        `grad_cam`, `integrated_gradients` summed over the images, or `occlusion_sensitivity` with cubes of a
        quarter of the input.
    class_index : int, optional
        The class to explain; None: the predicted one. Of a network with a single score, this score.
    layer : str, optional
        Layer of the feature map of Grad-CAM; None: the last one.
    progress : bool or callable
        Progress of integrated gradients and of the occlusion, which take long.

    Returns
    -------
    ClassificationResult
        With `heatmap` (float32, on the grid and with the header of the scan), `pictures` if matplotlib is
        installed, ``provenance["explanation"]``, and outputs to write them.

    Raises
    ------
    InvalidOption
        If there is no such method or class, or the backend has no gradients (occlusion needs none).

    Examples
    --------
    >>> result = explain_result(task, task("T1.nii.gz", "FLAIR.nii.gz"))  # doctest: +SKIP
    >>> result.save("out/")  # doctest: +SKIP
    """
    check_method(method)
    if not isinstance(result, ClassificationResult) or result.batch is None or result.input is None:
        raise InvalidOption("an explanation needs a classification that holds its batch and its input")
    chosen = result.predicted if class_index is None else class_index
    single = task.model.output_shape[-1] == 1
    found = METHODS[method](task.model, result.batch, 0 if single else chosen, layer, progress)
    label = result.class_names[1 if single else chosen]
    image = mark_research_use(to_native(found.heat, result.input))
    pictures, doubts = draw_pictures(result.input, image, f"{method}, class {label}")
    provenance = {
        "method": method,
        "class": label,
        "meaning": found.meaning,
        **found.facts,
        "grid": "mapped back from the network's input to the scan, corner to corner",
        "use": RESEARCH_USE,
    }
    suffixes = {"heatmap": ".nii.gz", **dict.fromkeys(pictures, ".png")}
    return replace(
        result,
        heatmap=image,
        pictures=pictures,
        outputs={**result.outputs, **suffixes},
        provenance={**result.provenance, "explanation": provenance},
        warnings=(*result.warnings, *found.warnings, *doubts),
    )


def check_method(method: str) -> None:
    """Refuse a method that there is not, or that this backend cannot do, before anything is computed.

    Raises
    ------
    InvalidOption
        If the method is unknown, or needs gradients and the backend has none.
    """
    if method not in METHODS:
        raise InvalidOption(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if method != "occlusion":
        require_gradients()


def draw_pictures(scan: Volume, image: Any, title: str) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Draw the heat map over the first scan; without matplotlib, say what is missing."""
    if find_spec("matplotlib") is None:
        return {}, ("no pictures of the heat map: install matplotlib with pip install 'kerasneuro[report]'",)
    return {name: draw(scan, image, title=title) for name, draw in PICTURES.items()}, ()


def _by_grad_cam(model: Any, batch: np.ndarray, chosen: int, layer: str | None, _: Progress) -> Explanation:
    found = grad_cam_parts(model, batch, chosen, layer)
    cells = " x ".join(map(str, found.raw.shape[1:]))
    facts = {"layer": found.layer, "feature_map": list(found.raw.shape[1:])}
    meaning = f"0 to 1, where the feature map of {cells} cells speaks for the class"
    flat = (
        ()
        if found.heat.any()
        else (f"the heat map is 0: nothing in layer {found.layer} speaks for the class",)
    )
    return Explanation(found.heat[0], meaning, facts, flat)


def _by_gradients(
    model: Any, batch: np.ndarray, chosen: int, _: str | None, progress: Progress
) -> Explanation:
    found = integrated_gradients(model, batch, chosen, progress=progress)
    facts = {"score_change": float(found.change[0]), "completeness_gap": float(found.gap[0]), "baseline": 0.0}
    meaning = "what a voxel of the network's input adds to the score of the class, summed over the images"
    return Explanation(found.values[0].sum(axis=-1), meaning, facts, found.warnings)


def _by_occlusion(
    model: Any, batch: np.ndarray, chosen: int, _: str | None, progress: Progress
) -> Explanation:
    window = tuple(max(1, size // WINDOWS_PER_AXIS) for size in batch.shape[1:4])
    stride = tuple(max(1, size // 2) for size in window)
    heat = occlusion_sensitivity(model, batch, chosen, window, stride, progress=progress)
    facts = {"window": list(window), "stride": list(stride), "value": 0.0}
    meaning = (
        "how much the score of the class falls when the place is hidden, mean of the cubes that cover it"
    )
    return Explanation(heat[0], meaning, facts)


METHODS: dict[str, Callable[[Any, np.ndarray, int, str | None, Progress], Explanation]] = {
    "grad-cam": _by_grad_cam,
    "integrated-gradients": _by_gradients,
    "occlusion": _by_occlusion,
}
