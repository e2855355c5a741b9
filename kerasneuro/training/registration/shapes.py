"""Label maps of random shapes, drawn from noise alone: data to train registration on without any scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from kerasneuro.errors import InvalidOption
from kerasneuro.training.changes.noise import smooth_noise

# Grid that the settings of the article belong to: its shortest axis, in voxels.
ARTICLE_SIZE = 160


@dataclass(frozen=True)
class ShapeSettings:
    """How random shapes are drawn; the defaults are those of the article, for images of 160 x 160 x 192.

    Attributes
    ----------
    labels : int
        Number of labels, 0 among them: one noise image each.
    image_scales : tuple of float
        Voxels between the random values of the noise images.
    image_deviation : float
        Largest standard deviation of the noise, at each scale.
    warp_scales : tuple of float
        Voxels between the random displacements that make the noise images less regular.
    warp_deviation : float
        Largest standard deviation of the displacements, in voxels.
    """

    labels: int = 26
    image_scales: tuple[float, ...] = (32, 64)
    image_deviation: float = 1.0
    warp_scales: tuple[float, ...] = (16, 32, 64)
    warp_deviation: float = 16.0

    def __post_init__(self) -> None:
        scales = (*self.image_scales, *self.warp_scales)
        least = min(self.image_deviation, self.warp_deviation)
        if self.labels < 2 or not self.image_scales or min(scales) < 1 or least < 0:
            raise InvalidOption(
                "shapes need 2 labels, scales of at least 1 voxel and deviations that are not negative; "
                f"found {self}"
            )

    def fitted(self, shape: Sequence[int]) -> ShapeSettings:
        """Return the settings for images of another size, with shapes that are smaller in proportion."""
        factor = min(shape) / ARTICLE_SIZE

        def scaled(scales: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(max(1.0, scale * factor) for scale in scales)

        return replace(
            self,
            image_scales=scaled(self.image_scales),
            warp_scales=scaled(self.warp_scales),
            warp_deviation=self.warp_deviation * factor,
        )


def random_shapes(
    shape: Sequence[int], generator: np.random.Generator, settings: ShapeSettings | None = None
) -> np.ndarray:
    """Draw a label map of random shapes.

    One smooth noise image for each label is warped by a smooth random displacement of its own; a voxel gets
    the label whose image is the largest there. The standard deviation of each scale is uniform from 0, and
    the same for all labels.

    Source: M. Hoffmann et al. (2022), doi:10.1109/TMI.2021.3116879.

    Parameters
    ----------
    shape : sequence of int
        Voxels along each of 2 or 3 axes.
    generator : numpy.random.Generator
        Where all is drawn from.
    settings : ShapeSettings, optional
        By default those of the article, fitted to the shape.

    Returns
    -------
    numpy.ndarray
        Shape `shape`, int16: 0 ... labels - 1; a label may be absent.

    Examples
    --------
    >>> import numpy as np
    >>> random_shapes((32, 32), np.random.default_rng(0)).max() < 26
    True
    """
    settings = ShapeSettings().fitted(shape) if settings is None else settings
    best = np.full(tuple(shape), -np.inf, np.float32)
    labels = np.zeros(tuple(shape), np.int16)
    grid = np.indices(tuple(shape), dtype=np.float32, sparse=True)
    spread = generator.uniform(0, settings.image_deviation, len(settings.image_scales))
    reach = generator.uniform(0, settings.warp_deviation, len(settings.warp_scales))
    for label in range(settings.labels):
        image = smooth_noise(shape, settings.image_scales, spread, generator)[..., 0]
        move = smooth_noise(shape, settings.warp_scales, reach, generator, len(shape))
        places = [axis + move[..., part] for part, axis in enumerate(grid)]
        image = ndimage.map_coordinates(image, places, order=1, mode="nearest")
        larger = image > best
        best[larger], labels[larger] = image[larger], label
    return labels
