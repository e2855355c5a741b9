"""From two brain scans of any contrast to the transform between them: ``mri_synthmorph register``.

Source: freesurfer/freesurfer@2015394, ``mri_synthmorph/synthmorph/registration.py``;
M. Hoffmann et al. (2024), doi:10.1162/imag_a_00197.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from kerasneuro.errors import InvalidOption
from kerasneuro.models.synthmorph.options import Options
from kerasneuro.models.synthmorph.pipeline import OPTION_NAMES, Run, SynthMorphTask

if TYPE_CHECKING:
    import keras
    import numpy as np

    from kerasneuro.models.synthmorph.spaces import Spaces
    from kerasneuro.tasks import Result
    from kerasneuro.tasks.registration import Image
    from kerasneuro.volume.transform import Transform


class MatrixTask(SynthMorphTask):
    """Register two scans by a matrix: affine or rigid."""

    outputs: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "moved": ".nii.gz",
            "fixed_moved": ".nii.gz",
            "transform": ".lta",
            "inverse": ".lta",
            "summary": ".json",
            "provenance": ".json",
        }
    )
    option_names: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {**OPTION_NAMES, "header_only": ("-H",)}
    )

    def __call__(
        self,
        moving: Image,
        fixed: Image,
        *,
        initial: Path | None = None,
        mid_space: bool = False,
        header_only: bool = False,
        extent: int = 256,
        debug: Path | None = None,
        **prediction: Any,
    ) -> Result:
        """Register a moving scan to a fixed one by a matrix.

        Parameters
        ----------
        moving, fixed : path or nibabel image
            Scans of a head or brain, any contrast, orientation and voxel size, one volume each.
        initial : path or Affine
            A matrix (LTA) between these scans to start from; the result includes it.
        mid_space : bool
            Apply one half of the initial matrix to each scan instead of all of it to the moving one.
        header_only : bool
            Write the moved scans with their voxels untouched and another place in the world.
        extent : int
            Voxels of 1 mm along each axis of the grid that the network sees: 192 or 256.
        debug : path
            An existing folder to write what the network sees to, as inp_1.mgz and inp_2.mgz.
        **prediction
            Prediction options; of these `engine`, `precision`, `device` and `max_memory` apply.

        Returns
        -------
        Result
            `moved` and `fixed_moved` (each on the grid of the other, float32), `transform` and `inverse`
            (matrices in world coordinates, saved as LTA), and ``summaries["summary"]``.

        Raises
        ------
        InvalidImage
            If a scan cannot be used: several volumes, constant, or not finite.
        InvalidTransform
            If the initial transform is no matrix between these scans.
        InvalidOption
            If an option is out of range.

        Examples
        --------
        >>> import kerasneuro
        >>> task = kerasneuro.load("synthmorph-affine")  # doctest: +SKIP
        >>> task("t2.nii.gz", "t1.nii.gz").save("registered/")  # doctest: +SKIP
        """
        options = Options(initial, mid_space, extent, debug, header_only=header_only)
        return self.register(moving, fixed, options, prediction)

    def find(self, images: Sequence[np.ndarray], spaces: Spaces, run: Run) -> tuple[Transform, Transform]:
        """Find both matrices; the one that pulls an image is the inverse of the transform of the image."""
        from kerasneuro.models.synthmorph.runner import find_matrices, halve, native_matrices
        from kerasneuro.volume.transform import Affine

        rigid = self.card.config["network"] == "rigid"
        halves = [halve(image) for image in images]
        pair = find_matrices(run.compute("tower"), halves, images[0].shape[1:4], rigid=rigid)
        pull_moving, pull_fixed = native_matrices(spaces, pair)
        forward = Affine(pull_fixed, spaces.moving, spaces.fixed)
        return forward, Affine(pull_moving, spaces.fixed, spaces.moving)


class WarpTask(SynthMorphTask):
    """Register two scans by a displacement, with or without an affine step before."""

    option_names: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {**OPTION_NAMES, "regularisation": ("-r",), "steps": ("-n",)}
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._specialised: dict[float, keras.Model] = {}

    def __call__(
        self,
        moving: Image,
        fixed: Image,
        *,
        initial: Path | None = None,
        mid_space: bool = False,
        regularisation: float = 0.5,
        steps: int = 7,
        extent: int = 256,
        debug: Path | None = None,
        **prediction: Any,
    ) -> Result:
        """Register a moving scan to a fixed one by a displacement.

        Parameters
        ----------
        moving, fixed : path or nibabel image
            Scans of a head or brain, any contrast, orientation and voxel size, one volume each; aligned
            already for the purely deformable model.
        initial : path or Affine
            A matrix (LTA) between these scans to start from; the result includes it.
        mid_space : bool
            Apply one half of the initial matrix to each scan instead of all of it to the moving one.
        regularisation : float
            Weight of the smoothness of the displacement, above 0 and below 1.
        steps : int
            Squarings of the integration, at least 5.
        extent : int
            Voxels of 1 mm along each axis of the grid that the networks see: 192 or 256.
        debug : path
            An existing folder to write what the networks see to, as inp_1.mgz and inp_2.mgz.
        **prediction
            Prediction options; of these `engine`, `precision`, `device` and `max_memory` apply.

        Returns
        -------
        Result
            `moved` and `fixed_moved` (each on the grid of the other, float32), `transform` and `inverse`
            (displacements, saved in FreeSurfer's format for warps), the `jacobian` determinant on the grid of
            the fixed scan, and ``summaries["summary"]`` with folding and inverse consistency.

        Raises
        ------
        InvalidImage
            If a scan cannot be used: several volumes, constant, not finite, or outside the networks' grid.
        InvalidTransform
            If the initial transform is no matrix between these scans.
        InvalidOption
            If an option is out of range.

        Examples
        --------
        >>> import kerasneuro
        >>> task = kerasneuro.load("synthmorph-joint")  # doctest: +SKIP
        >>> task("t2.nii.gz", "t1.nii.gz", regularisation=0.3).save("registered/")  # doctest: +SKIP
        """
        options = Options(initial, mid_space, extent, debug, regularisation=regularisation, steps=steps)
        return self.register(moving, fixed, options, prediction)

    @property
    def part(self) -> str:
        """The part that the deformable network is."""
        return "deform" if "deform" in self.models else ""

    def specialise(self, regularisation: float) -> keras.Model:
        """Return the deformable network for one regularisation, with plain kernels of its own.

        It is computed from the weight file once and kept, in memory and on disk; or from the hypernetwork, if
        the model was loaded with ``config={"specialised": False}``.

        Parameters
        ----------
        regularisation : float
            Weight of the smoothness, above 0 and below 1.

        Returns
        -------
        keras.Model
            Maps two images ``(B, X, Y, Z, 1)`` in [0, 1] to a displacement; for the regularisation that the
            task was loaded with, its own network.

        Raises
        ------
        InvalidOption
            If the regularisation is out of range.
        WeightsMismatch
            If the weight file holds the kernels for another regularisation only.
        """
        from kerasneuro.models.synthmorph.specialise import (
            check_regularisation,
            specialise_model,
            specialised_network,
        )
        from kerasneuro.models.synthmorph.weights import REGULARISATION

        (value,) = check_regularisation(regularisation)
        own = self.models[self.part]
        if len(own.inputs) > 2:
            return specialise_model(own, value)  # never kept: the hypernetwork may be in training
        if value == REGULARISATION:
            return own
        if value not in self._specialised:
            source = self.provenance.get(self.part)
            if source is None:
                raise InvalidOption(
                    "another regularisation needs the weight file; load the model by kerasneuro.load"
                )
            self._specialised[value] = specialised_network(source["path"], value, sha256=source["sha256"])
        return self._specialised[value]

    def networks(self, options: Options) -> dict[str, keras.Model]:
        """Return the detector, if there is one, and the deformable network for the regularisation."""
        from kerasneuro.models.synthmorph.graph import velocity_network

        return {
            **super().networks(options),
            "velocity": velocity_network(self.specialise(options.regularisation)),
        }

    def find(self, images: Sequence[np.ndarray], spaces: Spaces, run: Run) -> tuple[Transform, Transform]:
        """Find both displacements on the networks' grid and bring them to those of the scans."""
        from kerasneuro.models.synthmorph.runner import find_displacements, native_displacement
        from kerasneuro.volume.transform import Warp

        tower = run.compute("tower") if self.has_affine_step else None
        totals = find_displacements(run.compute("velocity"), images, run.options.steps, tower)
        forward = native_displacement(
            totals[0], spaces.net_to_moving, spaces.fixed_to_net, spaces.fixed.shape
        )
        backward = native_displacement(
            totals[1], spaces.net_to_fixed, spaces.moving_to_net, spaces.moving.shape
        )
        return (
            Warp(forward, spaces.moving, spaces.fixed),
            Warp(backward, spaces.fixed, spaces.moving),
        )


TASK = WarpTask
TASKS = MappingProxyType({"matrix": MatrixTask, "displacement": WarpTask})
