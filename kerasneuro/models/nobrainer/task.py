"""From a scan to a mask or to labels: the pipeline of ``nobrainer predict`` (neuronets/nobrainer@976691d)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.inference.settings import Settings
from kerasneuro.tasks import Result, Task
from kerasneuro.tasks.sanity import volume_warnings
from kerasneuro.tasks.segmentation import volume_rows

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

    from kerasneuro.volume import Volume

    Image = str | os.PathLike[str] | SpatialImage

MULTIPLE = 8  # three poolings by two
THRESHOLD = 0.3
PLAUSIBLE_BRAIN_CM3 = (500.0, 2500.0)
SECOND_LOOK = (math.pi / 4, math.pi / 4, 0.0)  # radians about the axes of the grid
CONFORMED_SHAPE, CONFORMED_AXCODES = (
    (256, 256, 256),
    "LIA",
)  # as FreeSurfer, on whose scans brainy was trained
BINARY_OUTPUTS = {"mask": ".nii.gz", "probability": ".nii.gz", "table": ".csv", "provenance": ".json"}
LABEL_OUTPUTS = {"labels": ".nii.gz", "table": ".csv", "provenance": ".json"}


class NobrainerTask(Task):
    """Segment a scan block by block: one class gives a mask and its probability, more give labels."""

    outputs: ClassVar[Mapping[str, str]] = MappingProxyType({**BINARY_OUTPUTS, **LABEL_OUTPUTS})
    option_names: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {
            "resize": ("-r", "--resize-features-to"),
            "threshold": ("-t",),
            "largest_label": ("-l", "--largest-label"),
            "block_shape": ("-b", "--block-shape"),
        }
    )
    defaults: ClassVar[Settings] = Settings(block_shape=(128, 128, 128))
    training_grid: ClassVar[tuple[int, int, int] | None] = (256, 256, 256)

    def __call__(
        self,
        image: Image | Volume,
        *,
        threshold: float = THRESHOLD,
        resize: tuple[int, int, int] | None = (256, 256, 256),
        largest_label: bool = False,
        rotate_and_predict: bool = False,
        conform: bool = False,
        **prediction: Any,
    ) -> Result:
        """Segment one scan.

        The defaults compute what ``nobrainer predict`` computes: the scan is stretched to `resize` voxels
        (whatever its voxel sizes and orientation), standardised, and predicted block by block.

        Parameters
        ----------
        image : path or nibabel image
            A 3-D scan.
        threshold : float
            Voxels with a probability above it belong to the mask, 0 < threshold < 1 (networks of one class).
        resize : tuple of int, optional
            Grid that the network sees; None keeps the grid of the scan.
        largest_label : bool
            Keep the largest connected piece of the mask (networks of one class).
        rotate_and_predict : bool
            Average with the prediction of a turned copy of the scan; where the turn leaves the field of view,
            the copy counts as probability 0 (networks of one class).
        conform : bool
            First resample to 256 x 256 x 256 voxels of 1 mm (LIA, linear), as the scans these networks were
            trained on; the result comes back to the grid of the scan.
        **prediction
            Options of `kerasneuro.inference.Settings`; `block_shape` (default 128 x 128 x 128) must be a
            multiple of 8, and need not divide the grid.

        Returns
        -------
        Result
            One class: `mask` (uint8) and `probability` (float32; before `largest_label` the mask is exactly
            ``probability > threshold``). More classes: `labels` (class index). All on the grid of the scan,
            brought back by nearest neighbour; `table` counts voxels and mm3.

        Raises
        ------
        InvalidOption
            If an option is out of range, or only defined for networks of one class.
        InvalidImage
            If the scan cannot be read or used.
        """
        from kerasneuro import volume

        settings = self.check(threshold, resize, largest_label, rotate_and_predict, prediction)

        scan = volume.load(image)
        grid, restore, notes = bring_to_grid(scan, resize, conform)
        predicted = self.predict_grid(volume.zscore(grid), settings, second_look=rotate_and_predict)
        del grid
        predicted = restore(predicted)
        options = {
            "threshold": threshold,
            "resize": resize,
            "largest_label": largest_label,
            "rotate_and_predict": rotate_and_predict,
            "conform": conform,
            "block_shape": settings.block_shape,
            **prediction,
        }
        provenance = self.record({"image": scan}, options)
        if self.n_classes > 1:
            return self.label_result(scan, predicted, provenance, notes)
        mask = predicted > threshold
        if largest_label:
            mask = volume.largest_component(mask, connectivity=26, tie="last")
        return self.mask_result(scan, mask, predicted, provenance, notes)

    @property
    def n_classes(self) -> int:
        """Number of classes of the network; 1 means a mask."""
        return int(self.model.output_shape[-1])

    def predict(
        self,
        image: Image | Volume | np.ndarray,
        *,
        block_shape: tuple[int, int, int] | None = None,
        normalizer: Callable[[np.ndarray], np.ndarray] | None = None,
        **prediction: Any,
    ) -> Any:
        """Predict an array or an image as it is: no stretching, and no standardising unless asked for.

        The call of ``nobrainer.prediction.predict``: the threshold is 0.3.

        Parameters
        ----------
        image : ndarray (X, Y, Z), path or nibabel image
            What the network sees.
        block_shape : tuple of int, optional
            Voxels per block; None takes the whole volume at once.
        normalizer : callable, optional
            Applied to the array first, such as `kerasneuro.volume.zscore`.
        **prediction
            Options of `kerasneuro.inference.Settings`.

        Returns
        -------
        ndarray or nibabel image
            As the input: mask (uint8, 0 or 1) or class indices (smallest unsigned integer), shape (X, Y, Z).
        """
        from kerasneuro import volume

        scan = None if isinstance(image, np.ndarray) else volume.load(image)
        array = np.asarray(image if scan is None else scan.array, dtype=np.float32)
        whole = tuple(-(-size // MULTIPLE) * MULTIPLE for size in array.shape)
        settings = self.settings({"block_shape": block_shape or whole, **prediction})
        check_blocks(settings)
        predicted = self.predict_grid(array if normalizer is None else normalizer(array), settings)
        if self.n_classes == 1:
            predicted = (predicted > THRESHOLD).astype(np.uint8)
        return predicted if scan is None else volume.to_image(predicted, scan)

    def check(
        self,
        threshold: float,
        resize: Sequence[int] | None,
        largest_label: bool,
        rotate_and_predict: bool,
        prediction: Mapping[str, Any],
    ) -> Settings:
        """Refuse options out of range, before anything is read or computed."""
        if not 0 < threshold < 1:
            raise InvalidOption(f"threshold must lie between 0 and 1 (both excluded), found {threshold}")
        if resize is not None and (len(resize) != 3 or min(resize) < 1):
            raise InvalidOption(f"resize must be three positive numbers of voxels, found {tuple(resize)}")
        for name, wanted in (("largest_label", largest_label), ("rotate_and_predict", rotate_and_predict)):
            if wanted and self.n_classes > 1:
                raise InvalidOption(
                    f"{name} needs a network of one class, this one has {self.n_classes}; leave it out"
                )
        settings = self.settings(prediction)
        check_blocks(settings)
        return settings

    def predict_grid(self, array: np.ndarray, settings: Settings, *, second_look: bool = False) -> np.ndarray:
        """Predict a standardised volume (X, Y, Z): float32 probability of one class, or class indices."""
        from kerasneuro import volume

        if not second_look:
            return self.predict_blocks(array, settings)
        matrix = volume.rotation_matrix(array.shape, SECOND_LOOK)
        turned = volume.zscore(volume.warp_affine(array, matrix, "linear"))
        probability = self.predict_blocks(array, settings)
        del array
        turned = self.predict_blocks(turned, settings)
        probability += volume.warp_affine(turned, np.linalg.inv(matrix), "nearest")
        probability /= 2
        return probability

    def predict_blocks(self, array: np.ndarray, settings: Settings) -> np.ndarray:
        """Run the network over a volume (X, Y, Z)."""
        from kerasneuro.inference import predict_blocks

        output = "probability" if self.n_classes == 1 else "label"
        predicted = predict_blocks(self.model, array, output=output, **settings.options())
        return np.asarray(predicted).reshape(array.shape)

    def mask_result(
        self,
        scan: Volume,
        mask: np.ndarray,
        probability: np.ndarray,
        provenance: Mapping[str, Any],
        notes: tuple[str, ...],
    ) -> Result:
        """Put a mask and its probability on the grid of the scan."""
        from kerasneuro.volume import to_image

        plausible = PLAUSIBLE_BRAIN_CM3 if self.card.name == "nobrainer-brainy" else None
        return Result(
            mask=to_image(mask, scan, dtype=np.uint8),
            probability=to_image(probability, scan, dtype=np.float32),
            table=volume_rows(mask.view(np.uint8), 2, scan),
            provenance=provenance,
            warnings=notes + volume_warnings(mask, scan.zooms, plausible),
            input=scan,
            outputs=BINARY_OUTPUTS,
            main_output="mask",
        )

    def label_result(
        self, scan: Volume, labels: np.ndarray, provenance: Mapping[str, Any], notes: tuple[str, ...]
    ) -> Result:
        """Put class indices on the grid of the scan."""
        from kerasneuro.volume import to_image

        return Result(
            labels=to_image(labels, scan, dtype=np.min_scalar_type(self.n_classes - 1)),
            table=volume_rows(labels, self.n_classes, scan),
            provenance=provenance,
            warnings=notes + volume_warnings(labels, scan.zooms, name="label map"),
            input=scan,
            outputs=LABEL_OUTPUTS,
            main_output="labels",
        )


def check_blocks(settings: Settings) -> None:
    """Refuse blocks that the poolings of the network cannot halve three times."""
    block = settings.block_shape
    if block is None or len(block) != 3 or any(size < MULTIPLE or size % MULTIPLE for size in block):
        raise InvalidOption(f"block_shape must be three multiples of {MULTIPLE}, found {block}")


def bring_to_grid(
    scan: Volume, resize: tuple[int, int, int] | None, conform: bool
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray], tuple[str, ...]]:
    """Put a scan on the grid that the network sees.

    Returns
    -------
    array : ndarray (X, Y, Z)
        float32.
    restore : callable
        Brings a prediction back to the grid of the scan by nearest neighbour.
    warnings : tuple of str
        Doubts about the scan.
    """
    from kerasneuro import volume

    moved, back = scan, None
    if conform:
        moved, back = volume.conform(scan, CONFORMED_SHAPE, axcodes=CONFORMED_AXCODES)
    shape = moved.shape
    array = moved.array if resize in (None, shape) else volume.stretch_linear(moved.array, resize)

    def restore(predicted: np.ndarray) -> np.ndarray:
        if predicted.shape != shape:
            predicted = volume.stretch_nearest(predicted, shape)
        return predicted if back is None else back(predicted, order="nearest")

    return array, restore, moved.warnings


TASK = NobrainerTask
PARTS = ("",)
