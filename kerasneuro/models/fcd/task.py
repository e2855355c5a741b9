"""From T1w and FLAIR of one person to the probability of FCD: the pipeline of the model card's script."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption
from kerasneuro.inference.settings import Settings, check_choice
from kerasneuro.models.fcd import steps
from kerasneuro.tasks.base import Task, refuse
from kerasneuro.tasks.classification import (
    ClassificationResult,
    class_labels,
    class_probabilities,
    class_row,
)
from kerasneuro.tasks.result import RESEARCH_USE

if TYPE_CHECKING:
    import keras
    from nibabel.spatialimages import SpatialImage

    from kerasneuro.inference.engine import Engine
    from kerasneuro.registry import ModelCard
    from kerasneuro.volume import Volume

    Image = str | os.PathLike[str] | SpatialImage | Volume

ROLES = ("t1", "flair")
EMBEDDINGS = MappingProxyType({"pooled": "pool", "penultimate": "penultimate"})
"""Name -> layer: 576 values after pooling, and 256 values before the last layer."""
COMPUTING = ("engine", "precision", "device", "progress")
"""Prediction options that a network without blocks can follow."""
LARGEST_SHIFT = 1e-3  # mm, between the voxels of two scans on one grid


class FcdTask(Task):
    """Tell focal cortical dysplasia from control on T1w and FLAIR of one person; research only."""

    roles: ClassVar[tuple[str, ...]] = ROLES
    optional_roles: ClassVar[tuple[str, ...]] = ROLES
    bids_suffixes: ClassVar[Mapping[str, str]] = MappingProxyType({"t1": "T1w", "flair": "FLAIR"})
    explainable: ClassVar[bool] = True
    outputs: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "prediction": ".json",
            "table": ".csv",
            "embedding": ".json",
            "heatmap": ".nii.gz",
            "heatmap_slices": ".png",
            "heatmap_head": ".png",
            "provenance": ".json",
        }
    )
    main_output: ClassVar[str] = "heatmap"

    def __init__(
        self,
        card: ModelCard,
        models: Mapping[str, keras.Model],
        provenance: Mapping[str, Any] | None = None,
        needs: Mapping[str, Callable[[], Task]] | None = None,
    ) -> None:
        super().__init__(card, models, provenance, needs)
        self._embedders: dict[tuple[str, Settings], Engine] = {}

    @property
    def channels(self) -> int:
        """Number of images that the network takes."""
        return int(self.model.input_shape[-1])

    def __call__(
        self,
        t1: Image | None = None,
        flair: Image | None = None,
        *,
        brain_extraction: bool = False,
        register: bool = False,
        bias_correction: bool = False,
        check_grid: bool = True,
        shape: tuple[int, int, int] = steps.SHAPE,
        edge: str = "constant",
        embedding: str = "none",
        **prediction: Any,
    ) -> ClassificationResult:
        """Classify one person.

        Parameters
        ----------
        t1 : path or nibabel image
            T1w; or a BIDS folder of one person, which holds both images.
        flair : path or nibabel image
            FLAIR on the same grid. A network of one channel takes one of the two images.
        brain_extraction : bool
            Set everything outside of the brain (found by deepbet on T1w) to 0 first.
        register : bool
            Move FLAIR onto T1w by a rigid registration first; needs SimpleITK.
        bias_correction : bool
            Correct the bias field of each image (N4) first; needs SimpleITK.
        check_grid : bool
            Refuse images on different grids; the original does not look.
        shape : tuple of int
            Voxels that each image is squeezed to; the network was trained with 128 128 128.
        edge : {"constant", "nearest"}
            How the resizing treats the border; constant is the original.
        embedding : {"none", "pooled", "penultimate"}
            Return 576 values after pooling, or 256 before the last layer, besides.
        **prediction
            Prediction options; of these `engine`, `precision`, `device` and `progress` apply.

        Returns
        -------
        ClassificationResult
            `probabilities`, `predicted`, `label`, `logits`; `table` and `summaries` hold them for writing.

        Raises
        ------
        InvalidImage
            If an image is missing or cannot be used, or the two are on different grids.
        InvalidOption
            If an option has a value outside of its range.

        Examples
        --------
        >>> import kerasneuro
        >>> task = kerasneuro.load("fcd-mobilenet", weights="model.pth")  # doctest: +SKIP
        >>> result = task("sub-01_T1w.nii.gz", "sub-01_FLAIR.nii.gz")  # doctest: +SKIP
        >>> result.label, result.probabilities  # doctest: +SKIP
        ('control', array([0.73, 0.27]))
        """
        settings = self.check(prediction)
        check_choice("embedding", embedding, ("none", *EMBEDDINGS))
        options = {
            "brain_extraction": brain_extraction,
            "register": register,
            "bias_correction": bias_correction,
            "check_grid": check_grid,
            "shape": shape,
            "edge": edge,
            "embedding": embedding,
        }
        scans, facts = self.read(t1, flair, options)
        batch = steps.prepare([scan.array for scan in scans.values()], shape, edge)
        logits = self.engine("", settings)(batch)[0]
        if embedding != "none":
            facts["embedding"] = self.embed_batch(batch, embedding, **prediction)[0]
        return self.describe_result(scans, batch, logits, {**options, **prediction}, facts)

    def check(self, prediction: Mapping[str, Any]) -> Settings:
        """Check the prediction options before anything is read."""
        settings = self.settings(prediction)
        refuse(settings, self.card.name, *(f.name for f in fields(Settings) if f.name not in COMPUTING))
        return settings

    def embed(
        self, t1: Image | None = None, flair: Image | None = None, *, layer: str = "pooled", **options: Any
    ) -> np.ndarray:
        """Return the values by which the network tells persons apart, such as for UMAP or ComBat.

        Parameters
        ----------
        t1, flair : path or nibabel image
            As for the call of the task.
        layer : {"pooled", "penultimate"}
            576 values after pooling, or 256 values before the last layer.
        **options
            As for the call of the task.

        Returns
        -------
        ndarray (576,) or (256,)
            Float32.
        """
        check_choice("layer", layer, tuple(EMBEDDINGS))
        result = self(t1, flair, embedding=layer, **options)
        return np.asarray(result.summaries["embedding"]["values"], np.float32)

    def embed_batch(self, batch: np.ndarray, layer: str = "pooled", **prediction: Any) -> np.ndarray:
        """Return the embeddings (B, 576) or (B, 256) of prepared images (B, X, Y, Z, C), float32."""
        import keras

        from kerasneuro.inference.engine import Engine

        check_choice("layer", layer, tuple(EMBEDDINGS))
        settings = self.check(prediction).updated(progress=False)
        key = (layer, settings)
        if key not in self._embedders:
            output = self.model.get_layer(EMBEDDINGS[layer]).output
            self._embedders[key] = Engine(
                keras.Model(self.model.input, output),
                engine=settings.engine,
                precision=settings.precision,
                device=settings.device,
            )
        return self._embedders[key](np.asarray(batch, np.float32))

    def read(
        self, t1: Image | None, flair: Image | None, options: Mapping[str, Any]
    ) -> tuple[dict[str, Volume], dict[str, Any]]:
        """Read the images that the network takes, and do the optional steps that were asked for.

        Returns
        -------
        scans : dict of str to Volume
            Role -> scan, float32, in the order of the channels.
        facts : dict
            What the optional steps found.
        """
        from kerasneuro.models.fcd import optional
        from kerasneuro.models.fcd.inputs import check_grids, choose_images, load_scan

        images = choose_images(t1, flair, self.channels, self.bids_suffixes)
        scans = {role: load_scan(image) for role, image in images.items()}
        facts: dict[str, Any] = {}
        if options["register"] and len(scans) < 2:
            raise InvalidOption(
                "register moves FLAIR onto T1w, and this network takes one image; leave it out"
            )
        if options["check_grid"] and not options["register"]:
            check_grids(scans, LARGEST_SHIFT)
        if options["bias_correction"]:
            scans = {role: optional.correct_bias(scan) for role, scan in scans.items()}
        if options["register"]:
            scans["flair"], matrix = optional.register_rigidly(scans["flair"], scans["t1"])
            facts["t1_to_flair_ras_mm"] = matrix
        if options["brain_extraction"]:
            scans = self.extract_brain(scans)
        return scans, facts

    def extract_brain(self, scans: Mapping[str, Volume]) -> dict[str, Volume]:
        """Set the voxels outside of the brain to 0, as found on T1w."""
        if "brain_extraction" not in self.needs:
            raise InvalidOption("this task was made without a brain extraction; load it by kerasneuro.load")
        if "t1" not in scans:
            raise InvalidOption("brain extraction looks at T1w, which was not given; leave it out")
        first = scans["t1"]
        others = [scan.shape for scan in scans.values() if scan.shape != first.shape]
        if others:
            raise InvalidImage("brain extraction needs both images on one grid; ask for register, too")
        found: Any = self.needs["brain_extraction"]()(first).mask
        mask = np.asarray(found.dataobj).reshape(first.shape) != 0
        return {role: scan.replace(array=np.where(mask, scan.array, 0)) for role, scan in scans.items()}

    def describe_result(
        self,
        scans: Mapping[str, Volume],
        batch: np.ndarray,
        logits: np.ndarray,
        options: Mapping[str, Any],
        facts: dict[str, Any],
    ) -> ClassificationResult:
        """Put the numbers into a result, with the provenance and what is doubtful."""
        first = next(iter(scans.values()))
        probabilities = class_probabilities(logits)
        labels = class_labels(self.card.output["labels"], len(probabilities))
        row = class_row(str(first.path or "image"), labels, probabilities)
        prediction = {**row, "logits": [float(value) for value in logits], "model": self.card.name}
        summaries: dict[str, dict[str, Any]] = {"prediction": prediction}
        values = facts.pop("embedding", None)
        if values is not None:
            summaries["embedding"] = {
                "layer": options["embedding"],
                "values": [float(value) for value in values],
                "use": RESEARCH_USE,
            }
        explained = {"heatmap", "heatmap_slices", "heatmap_head"}  # by `kerasneuro.explain` alone
        left_out = explained | ({"embedding"} if values is None else set())
        return ClassificationResult(
            logits=logits,
            probabilities=probabilities,
            class_names=labels,
            predicted=row["predicted_class"],
            batch=batch,
            summaries=summaries,
            table=(row,),
            provenance=self.record(scans, options, **facts),
            warnings=tuple(warning for scan in scans.values() for warning in scan.warnings),
            input=first,
            outputs={name: suffix for name, suffix in self.outputs.items() if name not in left_out},
            main_output=self.main_output,
        )


TASK = FcdTask
