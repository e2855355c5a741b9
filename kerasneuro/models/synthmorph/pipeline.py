"""From two scans to what the networks see, and from what they find to a result: what all models share.

Source: freesurfer/freesurfer@2015394, ``mri_synthmorph/synthmorph/registration.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from kerasneuro.inference.progress import reporting
from kerasneuro.inference.settings import Settings, parse_memory
from kerasneuro.models.synthmorph.options import Options, check_extent, initial_matrix, refuse_foreign
from kerasneuro.tasks.base import refuse
from kerasneuro.tasks.registration import RegistrationTask, load_pair

if TYPE_CHECKING:
    import keras
    import numpy as np

    from kerasneuro.inference.slabs import SlabNetwork
    from kerasneuro.models.synthmorph.spaces import Spaces
    from kerasneuro.tasks import Result
    from kerasneuro.tasks.registration import Image
    from kerasneuro.volume import Volume
    from kerasneuro.volume.transform import Transform

UNUSED = ("block_shape", "overlap", "merge", "edge", "batch_size", "scratch", "flips")
"""Prediction options that networks of whole scans cannot follow."""
BUDGET = 5 * 10**9
"""Bytes for the maps of a network on a CPU where the caller says nothing; with all else 6 GB."""
OPTION_NAMES = {"initial": ("-i",), "mid_space": ("-M",), "extent": ("-e",), "debug": ("-d",)}


class SynthMorphTask(RegistrationTask):
    """What both kinds of SynthMorph share; a subclass finds the transforms between two network inputs."""

    option_names: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(OPTION_NAMES)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._computing: dict[tuple[Any, ...], SlabNetwork] = {}

    @classmethod
    def check_keywords(cls, given: Mapping[str, Any]) -> None:
        """Refuse values out of range, and options of the other kind of network."""
        own = keywords(cls)
        refuse_foreign({name: value for name, value in given.items() if name not in own})
        Options(**{name: value for name, value in given.items() if name in own}).check()

    @property
    def has_affine_step(self) -> bool:
        """Tell the networks with a detector from the purely deformable one."""
        return self.card.output["kind"] == "matrix" or "affine" in self.models

    def networks(self, options: Options) -> dict[str, keras.Model]:
        """Return the parts that hold the weights: "tower" and "velocity", or one of them."""
        from kerasneuro.models.synthmorph.graph import feature_tower

        found = {}
        if self.has_affine_step:
            found["tower"] = feature_tower(self.models["affine" if "affine" in self.models else ""])
        return found

    def find(self, images: Sequence[np.ndarray], spaces: Spaces, run: Run) -> tuple[Transform, Transform]:
        """Find the transforms from the moving to the fixed scan and back."""
        raise NotImplementedError

    def register(
        self, moving: Image, fixed: Image, options: Options, prediction: Mapping[str, Any]
    ) -> Result:
        """Run the pipeline; every step on the networks' grid in float32, all geometry in float64."""
        prediction = refuse_foreign(prediction)
        options.check()
        settings = self.settings(prediction)
        refuse(settings, self.card.name, *UNUSED)
        networks = self.networks(options)
        check_extent(options.extent, [*networks.values()])
        scans = load_pair(moving, fixed)
        run = Run(self, networks, options, settings)
        spaces = self.spaces(*scans, options)
        headline = f"{self.card.name}: inputs, networks, results"
        with run.device(), reporting(settings.progress, headline, 3) as advance:
            images = run.inputs(scans, spaces)
            advance(1)
            transform, inverse = self.find(images, spaces, run)
            del images
            advance(2)
            result = self.conclude(*scans, transform, inverse, {}, header_only=options.header_only)
            advance(3)
        own = {name: value for name, value in vars(options).items() if name in keywords(self)}
        provenance = self.record(dict(zip(self.roles, scans, strict=True)), {**own, **prediction})
        return replace(result, provenance=provenance)

    def spaces(self, moving: Volume, fixed: Volume, options: Options) -> Spaces:
        """Place the networks' grid around both scans."""
        from kerasneuro.models.synthmorph.spaces import network_spaces
        from kerasneuro.volume.geometry import Geometry

        pair = Geometry.of(moving), Geometry.of(fixed)
        return network_spaces(
            *pair,
            extent=options.extent,
            shared_centre=not self.has_affine_step,
            initial=initial_matrix(options.initial, *pair),
            mid_space=options.mid_space,
        )


class Run:
    """One call: its networks as functions, and what they see."""

    def __init__(
        self, task: SynthMorphTask, networks: Mapping[str, keras.Model], options: Options, settings: Settings
    ) -> None:
        self.task, self.networks, self.options, self.settings = task, networks, options, settings

    def device(self) -> contextlib.AbstractContextManager[Any]:
        """Compute where the caller wishes."""
        if self.settings.device is None:
            return contextlib.nullcontext()
        from keras import device

        name = self.settings.device.lower()
        return device(name if ":" in name else f"{name}:0")

    def compute(self, part: str) -> SlabNetwork:
        """Return a network as a function of arrays; it is kept, so that a second pair compiles nothing."""
        import keras

        from kerasneuro.inference.engine import Engine, accelerated
        from kerasneuro.inference.slabs import SlabNetwork

        settings, model = self.settings, self.networks[part]
        budget = parse_memory(settings.max_memory)
        if budget is None and not accelerated(keras.backend.backend(), settings.device):
            budget = BUDGET

        def make(network: keras.Model) -> Engine:
            return Engine(
                network, engine=settings.engine, precision=settings.precision, device=settings.device
            )

        key = (model, settings.engine, settings.precision, settings.device, budget)
        known = self.task._computing
        if key not in known:
            known[key] = SlabNetwork(model, make, budget)
        return known[key]

    def inputs(self, scans: Sequence[Volume], spaces: Spaces) -> list[np.ndarray]:
        """Resample both scans for the networks, and write them into the debug folder if there is one."""
        from kerasneuro.models.synthmorph.runner import network_input

        matrices = (spaces.net_to_moving, spaces.net_to_fixed)
        images = [
            network_input(scan.array, matrix, spaces.extent, role)
            for role, scan, matrix in zip(self.task.roles, scans, matrices, strict=True)
        ]
        if self.options.debug is not None:
            places = (spaces.moving.vox2world @ matrices[0], spaces.fixed.vox2world @ matrices[1])
            write_inputs(images, places, Path(self.options.debug))
        return images


def keywords(task: SynthMorphTask | type[SynthMorphTask]) -> set[str]:
    """Name the options of a task's call."""
    return {name for name, p in signature(task.__call__).parameters.items() if p.kind is p.KEYWORD_ONLY}


def write_inputs(images: Sequence[np.ndarray], places: Sequence[np.ndarray], folder: Path) -> None:
    """Write what the networks see as ``inp_1.mgz`` and ``inp_2.mgz``."""
    from nibabel import MGHImage

    from kerasneuro.volume import save_image

    for number, (image, place) in enumerate(zip(images, places, strict=True), 1):
        save_image(MGHImage(image[0, ..., 0], place), folder / f"inp_{number}.mgz", overwrite=True)
