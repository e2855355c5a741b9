"""The layers between SynthMorph's networks: grids, matrices and their algebra.

None has weights; all compute in float32. Their sizes are those of the tensors they are called with, so a
graph takes images of any shape.

Source: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/networks.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kerasneuro.models.synthmorph.fit import fit_matrices
from kerasneuro.nn import affine, spatial
from kerasneuro.nn.sampling import spatial_sizes
from kerasneuro.nn.spatial_layers import SpatialLayer

Shape = tuple[int | None, ...]


class Names:
    """Count the layers of each kind as Keras 2 did in a fresh session: conv3d, conv3d_1, conv3d_2, ..."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __call__(self, kind: str) -> str:
        """Return the next name of a kind of layer."""
        count = self._counts[kind]
        self._counts[kind] += 1
        return f"{kind}_{count}" if count else kind


@keras.saving.register_keras_serializable(package="kerasneuro")
class HalveGrid(SpatialLayer):
    """Keep every second voxel along each axis, beginning with the first: ``n // 2`` of n."""

    def call(self, inputs: Any) -> Any:
        """Map volumes (B, X, Y, Z, C) to (B, X // 2, Y // 2, Z // 2, C)."""
        # Without the last voxel, an odd number of voxels loses its last one, too.
        return inputs[(slice(None), *[slice(0, -1, 2)] * (len(inputs.shape) - 2))]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape with halved spatial axes."""
        space = (None if size is None else size // 2 for size in input_shape[1:-1])
        return (input_shape[0], *space, input_shape[-1])


@keras.saving.register_keras_serializable(package="kerasneuro")
class FitMatrices(SpatialLayer):
    """Fit the matrices between two images to their features, see `kerasneuro.models.synthmorph.fit`.

    Parameters
    ----------
    rigid, weighted, mid_space : bool
        See `kerasneuro.models.synthmorph.fit.fit_matrices`.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    options = ("rigid", "weighted", "mid_space")

    def __init__(
        self, rigid: bool = False, weighted: bool = True, mid_space: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.rigid, self.weighted, self.mid_space = rigid, weighted, mid_space

    def call(self, inputs: Sequence[Any]) -> tuple[Any, Any]:
        """Map two feature maps (B, x, y, z, F) and an image (B, X, Y, Z, C) to two matrices (B, N, N + 1)."""
        first, second, image = inputs
        return fit_matrices(
            first,
            second,
            spatial_sizes(image),
            rigid=self.rigid,
            weighted=self.weighted,
            mid_space=self.mid_space,
        )

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> tuple[Shape, Shape]:
        """Return the shapes of the matrices."""
        batch, *space, _ = input_shape[0]
        return ((batch, len(space), len(space) + 1),) * 2


@keras.saving.register_keras_serializable(package="kerasneuro")
class ScaleMatrix(SpatialLayer):
    """Give the matrix that multiplies voxel indices by a factor, for each volume of a batch.

    Parameters
    ----------
    factor : float
        2 from a grid of half the resolution to the full one, 0.5 back.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    options = ("factor",)

    def __init__(self, factor: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs: Any) -> Any:
        """Map volumes (B, X, Y, Z, C) to matrices (B, N, N + 1)."""
        n = len(inputs.shape) - 2
        matrix = self.factor * affine.identity(n + 1)[None, :n]
        return ops.broadcast_to(matrix, (ops.shape(inputs)[0], n, n + 1))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the matrices."""
        n = len(input_shape) - 2
        return (input_shape[0], n, n + 1)


@keras.saving.register_keras_serializable(package="kerasneuro")
class DenseOnGrid(SpatialLayer):
    """Turn matrices of zero-based voxel indices into displacements on the grid of a volume."""

    def call(self, inputs: Sequence[Any]) -> Any:
        """Map matrices (B, N, N + 1) and volumes (B, X, Y, Z, C) to displacements (B, X, Y, Z, N)."""
        matrix, volume = inputs
        return spatial.affine_to_dense(matrix, spatial_sizes(volume), shift_center=False)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        """Return the shape of the displacements."""
        batch, *space, _ = input_shape[1]
        return (batch, *space, len(space))


@keras.saving.register_keras_serializable(package="kerasneuro")
class HalfDifference(SpatialLayer):
    """Average a velocity and the negative of that in the other direction."""

    def call(self, inputs: Sequence[Any]) -> Any:
        """Map two tensors of one shape to half their difference."""
        return 0.5 * (inputs[0] - inputs[1])

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        """Return the same shape."""
        return input_shape[0]
