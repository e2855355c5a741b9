"""The random changes of a training volume, as the settings choose them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kerasneuro.errors import MissingDependency
from kerasneuro.training.changes import volumes as augment
from kerasneuro.training.classifier.config import AugmentSettings

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def make_augmentation(settings: AugmentSettings) -> Augment | None:
    """Return the function that changes a volume ``(X, Y, Z, C)`` at random; None where nothing is changed.

    Every draw comes from the generator that is handed in, so equal generators give equal volumes.

    Raises
    ------
    MissingDependency
        If TorchIO is asked for and not installed.
    """
    if settings.engine == "none":
        return None
    if settings.engine == "torchio":
        return _with_torchio(settings)

    def change(volume: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        mirrored = [axis for axis in settings.flip_axes if generator.random() < settings.flip]
        volume = augment.flip(volume, mirrored)
        if generator.random() < settings.affine:
            volume = augment.random_affine(
                volume, generator, settings.rotation, settings.scale, settings.shift
            )
        volume = augment.random_intensity(
            volume, generator, settings.noise, settings.gamma, settings.bias_field
        )
        return np.ascontiguousarray(volume, dtype=np.float32)

    return change


def _with_torchio(settings: AugmentSettings) -> Augment:
    """Build the same kinds of change from TorchIO's transforms."""
    try:
        import torch
        import torchio
    except ImportError as error:
        raise MissingDependency(
            "augment.engine torchio needs TorchIO; install it with: pip install 'kerasneuro[torchio]', or "
            "set augment.engine to numpy"
        ) from error

    def transform(shape: tuple[int, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
        far = [settings.shift * length for length in shape]
        affine = torchio.RandomAffine(
            scales=settings.scale,
            degrees=settings.rotation,
            translation=tuple(edge for length in far for edge in (-length, length)),
            p=settings.affine,
        )
        steps = [
            torchio.RandomFlip(axes=settings.flip_axes, flip_probability=settings.flip),
            affine,
            torchio.RandomGamma(log_gamma=settings.gamma),
            torchio.RandomBiasField(coefficients=settings.bias_field),
            torchio.RandomNoise(std=(0, settings.noise)),
        ]
        composed: Callable[[torch.Tensor], torch.Tensor] = torchio.Compose(steps)
        return composed

    def change(volume: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        # TorchIO draws from PyTorch's own generator, which is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator.integers(2**31)))
            tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(volume, -1, 0)))
            changed = transform(volume.shape[:3])(tensor)
        return np.ascontiguousarray(np.moveaxis(changed.numpy(), 0, -1), dtype=np.float32)

    return change
