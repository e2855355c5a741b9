"""Transforms of TorchIO as random changes of labelled patches."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasneuro.errors import InvalidOption, MissingDependency
from kerasneuro.training.scans.cutting import Changed


class TorchioAugment:
    """Change patches by a transform of TorchIO; the draws depend on the generator that is handed in.

    Parameters
    ----------
    transform : torchio.Transform
        Such as ``torchio.Compose([...])``; it sees a subject with a scalar image ``image`` and a label map
        ``labels``.
    margin : int
        Voxels by which a patch is cut larger and afterwards smaller, so that transforms in space bring no
        border into it.

    Raises
    ------
    MissingDependency
        If TorchIO is not installed.
    InvalidOption
        If `transform` is no transform of TorchIO.
    """

    def __init__(self, transform: Any, margin: int = 0) -> None:
        try:
            import torchio
        except ImportError as error:
            raise MissingDependency(
                "TorchioAugment needs TorchIO; install it with: pip install 'kerasneuro[torchio]', or use "
                "Augmentation"
            ) from error
        if not isinstance(transform, torchio.Transform) or margin < 0:
            raise InvalidOption(
                "expected a transform of TorchIO and a margin that is not negative, found "
                f"{type(transform).__name__} and {margin}"
            )
        self.transform, self.margin = transform, margin

    def __call__(self, image: np.ndarray, classes: np.ndarray, generator: np.random.Generator) -> Changed:
        """Change an image ``(X, Y, Z, C)`` and its classes ``(X, Y, Z)``."""
        import torch
        import torchio

        channels_first = np.ascontiguousarray(np.moveaxis(image, -1, 0))
        labels = classes[None].astype(np.int32)
        # TorchIO draws from PyTorch's own generator, which is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator.integers(2**31)))
            subject = torchio.Subject(
                image=torchio.ScalarImage(tensor=torch.from_numpy(channels_first)),
                labels=torchio.LabelMap(tensor=torch.from_numpy(labels)),
            )
            changed = self.transform(subject)
        patch = np.moveaxis(changed["image"].data.numpy(), 0, -1)
        moved = changed["labels"].data.numpy()[0]
        return np.ascontiguousarray(patch, np.float32), np.rint(moved).astype(classes.dtype)
