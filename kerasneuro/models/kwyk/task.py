"""From a head to 50 structures and their uncertainty: the pipeline of kwyk 0.4.1 (neuronets/kwyk@27ec9ef)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerasneuro.errors import InvalidOption
from kerasneuro.inference.settings import Settings
from kerasneuro.models.kwyk.findings import mean_entropies, rows, summarise, variant_of
from kerasneuro.models.kwyk.labels import freesurfer_labels, structures
from kerasneuro.tasks import Result, Task
from kerasneuro.tasks.sanity import volume_warnings

if TYPE_CHECKING:
    import keras
    from nibabel.spatialimages import SpatialImage

    from kerasneuro.inference import BlockPrediction
    from kerasneuro.volume import Volume

    Image = str | os.PathLike[str] | SpatialImage | Volume

CONFORMED_SHAPE, CONFORMED_AXCODES = (256, 256, 256), "LIA"  # 1 mm voxels, as FreeSurfer conforms
PLAUSIBLE_CM3 = (500.0, 2500.0)  # of all structures together
CODINGS = ("index", "freesurfer")


class KwykTask(Task):
    """Name the structure at every voxel of a T1-weighted head, and say how uncertain the network is."""

    outputs: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "labels": ".nii.gz",
            "variance": ".nii.gz",
            "entropy": ".nii.gz",
            "uncertainty": ".json",
            "table": ".csv",
            "provenance": ".json",
        }
    )
    main_output: ClassVar[str] = "labels"
    option_names: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {"n_samples": ("-n", "--n-samples"), "batch_size": ("-b", "--batch-size")}
    )
    defaults: ClassVar[Settings] = Settings(block_shape=(32, 32, 32), batch_size=8)
    training_grid: ClassVar[tuple[int, int, int] | None] = (256, 256, 256)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._copies: dict[bool, keras.Model] = {}

    def __call__(
        self,
        image: Image,
        *,
        n_samples: int = 1,
        deterministic: bool = False,
        labels: str = "index",
        conform: bool = True,
        seed: int | None = 0,
        **prediction: Any,
    ) -> Result:
        """Segment one scan.

        The defaults compute what ``kwyk`` computes. A scan of another shape than 256 x 256 x 256 is first
        resampled to voxels of 1 mm; the result comes back to the grid of the scan.

        Parameters
        ----------
        image : path or nibabel image
            A T1-weighted head, with skull.
        n_samples : int
            Random draws that are averaged. One draw (the original's default) is fast and noisy; the variance
            needs two or more. Without effect on `kwyk-bwn`, which has nothing random.
        deterministic : bool
            Put the mean in place of every random number, instead of drawing: one pass, no noise, no variance.
        labels : str
            "index": the class, 0 to 49. "freesurfer": the lowest FreeSurfer label of the class, which is the
            left side of paired structures; the classes do not tell left from right.
        conform : bool
            Resample scans of another shape than 256 x 256 x 256; otherwise they are used as they are.
        seed : int, optional
            Start of the random numbers, so that a run can be repeated; without it, every run differs.
        **prediction
            Options of `kerasneuro.inference.Settings`; blocks of 32 x 32 x 32 voxels, 8 at once by default.
            Some draws are shared by the blocks that are computed at once.

        Returns
        -------
        Result
            On the grid of the scan: `labels` (uint8, int16 for FreeSurfer labels; nearest neighbour),
            `entropy` (nats, float32; also named `uncertainty`) and `variance` (float32, with two or more
            draws), both summed over the classes and interpolated linearly. `table`: voxels, mm3 and mean
            entropy of each structure. ``summaries["uncertainty"]``: mean entropy of all labelled voxels and
            of each structure, on the grid that the network saw.

        Raises
        ------
        InvalidOption
            If an option is out of range.
        InvalidImage
            If the scan cannot be used.

        Examples
        --------
        >>> import kerasneuro
        >>> task = kerasneuro.load("kwyk-bvwn-multi-prior")  # doctest: +SKIP
        >>> result = task("sub-01_T1w.nii.gz", n_samples=10)  # doctest: +SKIP
        """
        from kerasneuro import volume

        settings = self.check(n_samples, labels, prediction)
        scan = volume.load(image)
        grid, restore, notes = bring_to_grid(scan, conform)
        model, draws, doubts = self.choose(n_samples, deterministic)
        found = self.predict(model, volume.zscore(grid), draws, seed, settings)
        options = {
            "n_samples": n_samples,
            "deterministic": deterministic,
            "labels": labels,
            "conform": conform,
            "seed": seed,
            "block_shape": settings.block_shape,
            "batch_size": settings.batch_size,
            **prediction,
        }
        provenance = self.record({"image": scan}, options, variant=variant_of(model), draws=draws)
        return self.describe_result(scan, found, restore, draws, provenance, notes + doubts)

    @property
    def n_classes(self) -> int:
        """Number of classes of the network."""
        return int(self.model.output_shape[-1])

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each class."""
        if self.n_classes == len(structures()):
            return tuple(structure.name for structure in structures())
        return tuple(f"class {index}" for index in range(self.n_classes))

    def check(self, n_samples: int, labels: str, prediction: Mapping[str, Any]) -> Settings:
        """Refuse options out of range, before anything is read or computed."""
        if isinstance(n_samples, bool) or int(n_samples) != n_samples or n_samples < 1:
            raise InvalidOption(f"n_samples must be a whole number of at least 1, found {n_samples!r}")
        if labels not in CODINGS:
            raise InvalidOption(f"labels must be one of {', '.join(CODINGS)}; found {labels!r}")
        if labels == "freesurfer" and self.n_classes != len(structures()):
            raise InvalidOption(
                f"FreeSurfer labels belong to the {len(structures())} classes of kwyk; this network has "
                f"{self.n_classes}: leave labels out"
            )
        settings = self.settings(prediction)
        if settings.block_shape is None or len(settings.block_shape) != 3:
            raise InvalidOption(f"block_shape must be three numbers of voxels, found {settings.block_shape}")
        return settings

    def choose(self, n_samples: int, deterministic: bool) -> tuple[keras.Model, int, tuple[str, ...]]:
        """Return the network to run, the number of draws (0: nothing is random), and doubts in words."""
        from kerasneuro.nn.monte_carlo import is_random, with_monte_carlo

        doubts = []
        wanted, found = self.card.config.get("variant"), variant_of(self.model)
        if wanted is not None and wanted != found:
            doubts.append(
                f"The weights are those of the variant {found}, not of {wanted} as {self.card.name} says."
            )
        drawing = is_random(self.model) and not deterministic
        if n_samples > 1 and not drawing:
            doubts.append(
                "Nothing is random in this prediction: n_samples has no effect, and there is no variance."
            )
        if not is_random(self.model):
            return self.model, 0, tuple(doubts)
        # The copies are kept, so that a second scan compiles nothing; the weights may have been trained
        # since.
        if drawing not in self._copies:
            self._copies[drawing] = with_monte_carlo(self.model, drawing)
        model = self._copies[drawing]
        model.set_weights(self.model.get_weights())
        return model, n_samples if drawing else 0, tuple(doubts)

    def predict(
        self, model: keras.Model, array: np.ndarray, draws: int, seed: int | None, settings: Settings
    ) -> BlockPrediction:
        """Run a network over a standardised volume (X, Y, Z): class indices, variance and entropy."""
        from kerasneuro.inference import BlockPrediction, predict_blocks
        from kerasneuro.nn.monte_carlo import reseed

        if draws and seed is not None:
            reseed(model, seed)
        found = predict_blocks(
            model,
            array,
            output="label",
            n_samples=max(draws, 1),
            uncertainty=True,
            **settings.options(),
        )
        assert isinstance(found, BlockPrediction)
        return found

    def describe_result(
        self,
        scan: Volume,
        found: BlockPrediction,
        restore: Callable[[np.ndarray, str], np.ndarray],
        draws: int,
        provenance: Mapping[str, Any],
        notes: tuple[str, ...],
    ) -> Result:
        """Put labels, variance and entropy on the grid of the scan."""
        from kerasneuro.volume import to_image

        overall, means = mean_entropies(found.array, found.entropy, self.n_classes)
        classes = restore(found.array, "nearest")
        entropy = to_image(restore(found.entropy, "linear"), scan, dtype=np.float32)
        variance = to_image(restore(found.variance, "linear"), scan, dtype=np.float32) if draws > 1 else None
        freesurfer = provenance["options"]["labels"] == "freesurfer"
        codes = freesurfer_labels() if freesurfer else np.arange(self.n_classes)
        dtype = np.int16 if freesurfer else np.min_scalar_type(self.n_classes - 1)
        plausible = PLAUSIBLE_CM3 if self.n_classes == len(structures()) else None
        return Result(
            labels=to_image(codes[classes] if freesurfer else classes, scan, dtype=dtype),
            entropy=entropy,
            uncertainty=entropy,
            variance=variance,
            summaries={"uncertainty": summarise(overall, means, self.names)},
            table=rows(classes, codes, self.names, means, scan),
            provenance=provenance,
            warnings=notes + volume_warnings(classes, scan.zooms, plausible, name="label map"),
            input=scan,
            outputs={name: end for name, end in self.outputs.items() if name != "variance" or draws > 1},
            main_output=self.main_output,
        )


def bring_to_grid(
    scan: Volume, conform: bool
) -> tuple[np.ndarray, Callable[[np.ndarray, str], np.ndarray], tuple[str, ...]]:
    """Put a scan on the grid that the network sees.

    Returns
    -------
    array : ndarray (X, Y, Z)
        float32.
    restore : callable
        ``restore(map, "nearest" | "linear")`` brings a map back to the grid of the scan.
    warnings : tuple of str
        Doubts about the scan.
    """
    from kerasneuro import volume

    if not conform or scan.shape == CONFORMED_SHAPE:
        return scan.array, lambda array, order: array, scan.warnings
    moved, back = volume.conform(scan, CONFORMED_SHAPE, axcodes=CONFORMED_AXCODES)
    return moved.array, lambda array, order: back(array, order=order), moved.warnings


TASK = KwykTask
PARTS = ("",)
