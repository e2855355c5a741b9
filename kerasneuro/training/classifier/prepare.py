"""From the files of a sample to the array that a network takes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from kerasneuro.errors import InvalidImage, InvalidOption, OutputError
from kerasneuro.training.classifier.cohort import Sample
from kerasneuro.training.classifier.config import DataSettings
from kerasneuro.training.classifier.patches import read_patch
from kerasneuro.volume import Volume, load, zscore

GRID_TOLERANCE = 1e-3  # mm
MOST_OF_MEMORY = 0.5


Prepare = Callable[[Sequence[np.ndarray], Sequence[int]], np.ndarray]


def prepare_sample(sample: Sample, settings: DataSettings, of_model: Prepare | None) -> np.ndarray:
    """Read, normalise and resize the channels of one sample.

    Parameters
    ----------
    sample : Sample
        Images or a patch.
    settings : DataSettings
        Channels, normalisation, size.
    of_model : callable, optional
        The model's own steps: arrays ``(X, Y, Z)`` and size -> batch ``(1, *size, C)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(X, Y, Z, C)``, float32.

    Raises
    ------
    InvalidImage
        If an image cannot be used, the grids differ, or a patch has another number of channels.
    InvalidOption
        If the model has no steps of its own.
    """
    channels = len(settings.channels)
    if sample.patches:
        patch = read_patch(sample.patches, sample.index)
        if patch.shape[-1] != channels:
            raise InvalidImage(
                f"{sample.name} has {patch.shape[-1]} channels, expected {channels} "
                f"({', '.join(settings.channels)}); set data.channels, or write the patches again"
            )
        volumes = list(np.moveaxis(patch, -1, 0))
    else:
        # Scaled in float64, as nibabel reads, so that training sees what a prediction sees.
        scans = [load(path, dtype=np.float64) for path in sample.images]
        if settings.check_grids:
            check_grids(sample, scans, settings)
        volumes = [scan.array.astype(np.float32) for scan in scans]
    if settings.normalise == "model":
        if of_model is None:
            raise InvalidOption(
                "this model has no preprocessing of its own; set data.normalise to zscore or none"
            )
        return of_model(volumes, settings.size)[0]
    if settings.normalise == "zscore":
        volumes = [zscore(volume) for volume in volumes]
    return np.stack([resize(volume, settings.size) for volume in volumes], axis=-1)


def resize(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize a volume ``(X, Y, Z)`` linearly, the outer faces of the outer voxels kept in place; float32."""
    from scipy.ndimage import zoom

    factors = [new / old for new, old in zip(size, array.shape, strict=True)]
    return np.asarray(zoom(array, factors, order=1, mode="nearest", grid_mode=True), np.float32)


def check_grids(sample: Sample, scans: list[Volume], settings: DataSettings) -> None:
    """Refuse channels whose voxels lie at different places.

    Raises
    ------
    InvalidImage
        If shapes or affines differ.
    """
    first = scans[0]
    for name, scan in zip(settings.channels[1:], scans[1:], strict=True):
        if scan.shape != first.shape or not np.allclose(scan.affine, first.affine, atol=GRID_TOLERANCE):
            raise InvalidImage(
                f"subject {sample.subject}: {name} and {settings.channels[0]} lie on different grids (shapes "
                f"{scan.shape} and {first.shape}); register and resample one to the other, or set "
                "data.check_grids to false where only the header is wrong"
            )


@dataclass
class Preparer:
    """Prepare samples, and keep what was prepared as the settings say.

    Attributes
    ----------
    settings : DataSettings
        How, and where it is kept.
    folder : Path
        For a cache on disk.
    of_model : callable, optional
        As for `prepare_sample`.
    change : callable, optional
        Applied to each prepared volume of a sample, such as a harmonisation: sample, volume -> volume.
    """

    settings: DataSettings
    folder: Path
    of_model: Prepare | None = None
    change: Callable[[Sample, np.ndarray], np.ndarray] | None = None

    def __post_init__(self) -> None:
        self._kept: dict[str, np.ndarray] = {}

    def __call__(self, sample: Sample) -> np.ndarray:
        """Return the volume of a sample, ``(X, Y, Z, C)``, float32; not to be written to."""
        volume = self.unchanged(sample)
        return volume if self.change is None else self.change(sample, volume)

    def unchanged(self, sample: Sample) -> np.ndarray:
        """Return the volume before `change`."""
        if self.settings.cache == "none":
            return prepare_sample(sample, self.settings, self.of_model)
        if self.settings.cache == "memory":
            if sample.name not in self._kept:
                self._kept[sample.name] = prepare_sample(sample, self.settings, self.of_model)
            return self._kept[sample.name]
        path = self.folder / f"{sha256(f'{sample.name}|{self.settings}'.encode()).hexdigest()[:32]}.npy"
        if not path.is_file():
            save_array(path, prepare_sample(sample, self.settings, self.of_model))
        return np.load(path, allow_pickle=False)

    def check_memory(self, count: int) -> None:
        """Refuse to keep more in memory than there is.

        Raises
        ------
        InvalidOption
            If the volumes of `count` samples take more than half of what is free.
        """
        import psutil

        needed = 4 * count * len(self.settings.channels) * int(np.prod(self.settings.size))
        free = psutil.virtual_memory().available
        if self.settings.cache == "memory" and needed > MOST_OF_MEMORY * free:
            raise InvalidOption(
                f"{count} prepared volumes take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are "
                "free; set data.cache to disk (or none)"
            )


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array to a ``.npy`` file that is complete or absent.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                np.save(file, array)
                file.close()
                os.replace(file.name, path)
            except OSError:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}; set data.cache to none") from error
