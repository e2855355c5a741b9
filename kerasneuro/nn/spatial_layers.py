"""Layers of spatial transforms, named and configured as in VoxelMorph.

Their mathematics is in `kerasneuro.nn.spatial`. They compute in float32 under any precision policy, because
half precision cannot tell voxels 2048 and 2049 apart.

Source: voxelmorph/voxelmorph@ca28315, ``voxelmorph/tf/layers.py``; adalca/neurite@7c4b05e (`Resize`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kerasneuro.errors import InvalidOption
from kerasneuro.nn import spatial
from kerasneuro.nn.resize import per_axis, resize, resized
from kerasneuro.nn.sampling import METHODS

Shape = tuple[int | None, ...]


class SpatialLayer(keras.layers.Layer):
    """A layer without weights that computes in float32 and rebuilds itself from its options."""

    options: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.built = True
        method = getattr(self, "interp_method", "linear")
        if method not in METHODS:
            raise InvalidOption(f"interp_method is 'linear' or 'nearest', found {method!r}")

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), **{name: getattr(self, name) for name in self.options}}


@keras.saving.register_keras_serializable(package="kerasneuro")
class SpatialTransformer(SpatialLayer):
    """Apply a transform to a volume.

    Parameters
    ----------
    interp_method : {"linear", "nearest"}
        How the volume is sampled.
    fill_value : float, optional
        Value outside the volume; None repeats the border.
    shift_center : bool
        Matrices act about the centre of the grid.
    shape : sequence of int, optional
        Grid of the result for matrices without `shift_center`.
    single_transform : bool
        Use the first transform of the batch for all volumes.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    options = ("interp_method", "fill_value", "shift_center", "shape", "single_transform")

    def __init__(
        self,
        interp_method: str = "linear",
        fill_value: float | None = None,
        shift_center: bool = True,
        shape: Sequence[int] | None = None,
        single_transform: bool = False,
        **kwargs: Any,
    ) -> None:
        self.interp_method = interp_method
        super().__init__(**kwargs)
        if shape is not None and shift_center:
            raise InvalidOption("a shape of the result needs shift_center=False: two grids have two centres")
        self.fill_value = fill_value
        self.shift_center = shift_center
        self.shape = None if shape is None else tuple(shape)
        self.single_transform = single_transform

    def call(self, inputs: Sequence[Any]) -> Any:
        """Map a volume (B, X, Y, Z, C) and transforms to (B, X', Y', Z', C)."""
        volume, transform = inputs
        if self.single_transform:
            transform = transform[:1]
        return spatial.transform(
            volume,
            transform,
            self.interp_method,
            self.fill_value,
            shift_center=self.shift_center,
            shape=self.shape,
        )

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        """Return the shape of the volume on the grid of the displacement, or on the one asked for."""
        volume, transform = input_shape
        if len(transform) > 3:
            return (volume[0], *transform[1:-1], volume[-1])
        return volume if self.shape is None else (volume[0], *self.shape, volume[-1])


@keras.saving.register_keras_serializable(package="kerasneuro")
class VecInt(SpatialLayer):
    """Integrate a stationary velocity by scaling and squaring.

    Parameters
    ----------
    int_steps : int
        Number of squarings.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    options = ("int_steps",)

    def __init__(self, int_steps: int = 7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if int_steps < 0:
            raise InvalidOption(f"int_steps must be 0 or more, found {int_steps}")
        self.int_steps = int_steps

    def call(self, inputs: Any) -> Any:
        """Map velocities (B, X, Y, Z, N) to displacements of the same shape, in voxels."""
        return spatial.integrate(inputs, self.int_steps)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the same shape."""
        return input_shape


@keras.saving.register_keras_serializable(package="kerasneuro")
class RescaleTransform(SpatialLayer):
    """Express a transform on a grid that is finer or coarser by a factor.

    Parameters
    ----------
    zoom_factor : float
        Above 1 for a finer grid.
    interp_method : {"linear", "nearest"}
        How displacements are sampled.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    options = ("zoom_factor", "interp_method")

    def __init__(self, zoom_factor: float, interp_method: str = "linear", **kwargs: Any) -> None:
        self.interp_method = interp_method
        super().__init__(**kwargs)
        self.zoom_factor = zoom_factor

    def call(self, inputs: Any) -> Any:
        """Map displacements (B, X, Y, Z, N) to (B, X', Y', Z', N), or matrices to matrices."""
        return spatial.rescale(inputs, self.zoom_factor, self.interp_method)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape with resized spatial axes."""
        return input_shape if len(input_shape) == 3 else resized_shape(input_shape, self.zoom_factor)


@keras.saving.register_keras_serializable(package="kerasneuro")
class Resize(SpatialLayer):
    """Resample a volume on a grid with the same first and last voxel centres.

    Parameters
    ----------
    zoom_factor : float or one per axis
        Above 1 for a finer grid.
    interp_method : {"linear", "nearest"}
        How the volume is sampled.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    options = ("zoom_factor", "interp_method")

    def __init__(
        self, zoom_factor: float | Sequence[float], interp_method: str = "linear", **kwargs: Any
    ) -> None:
        self.interp_method = interp_method
        super().__init__(**kwargs)
        self.zoom_factor = tuple(zoom_factor) if isinstance(zoom_factor, Sequence) else zoom_factor

    def call(self, inputs: Any) -> Any:
        """Map a volume (B, X, Y, Z, C) to (B, X', Y', Z', C)."""
        return resize(inputs, self.zoom_factor, self.interp_method)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape with resized spatial axes."""
        return resized_shape(input_shape, self.zoom_factor)


@keras.saving.register_keras_serializable(package="kerasneuro")
class ComposeTransform(SpatialLayer):
    """Compose a list of transforms; the last one acts first.

    Parameters
    ----------
    interp_method : {"linear", "nearest"}
        How displacements are sampled.
    shift_center : bool
        Matrices act about the centre of the grid.
    shape : sequence of int, optional
        Grid of the result where the last transforms are matrices and another is a displacement.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    options = ("interp_method", "shift_center", "shape")

    def __init__(
        self,
        interp_method: str = "linear",
        shift_center: bool = True,
        shape: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        self.interp_method = interp_method
        super().__init__(**kwargs)
        self.shift_center = shift_center
        self.shape = None if shape is None else tuple(shape)

    def call(self, inputs: Sequence[Any]) -> Any:
        """Map displacements (B, X, Y, Z, N) and matrices (B, N, N + 1) to one of these."""
        return spatial.compose(inputs, self.interp_method, shift_center=self.shift_center, shape=self.shape)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        """Return the shape of the composed transform."""
        if len(input_shape) == 1:
            return input_shape[0]
        batch = input_shape[-1][0]
        dense = [shape for shape in input_shape if len(shape) > 3]
        if not dense:
            columns = input_shape[-1][-1]
            return (batch, None if columns is None else columns - 1, columns)
        if self.shape is None or len(input_shape[-1]) > 3:
            return dense[-1]
        return (batch, *self.shape, dense[-1][-1])


@keras.saving.register_keras_serializable(package="kerasneuro")
class AffineToDenseShift(SpatialLayer):
    """Turn matrices into displacements.

    Parameters
    ----------
    shape : sequence of int
        Grid of the displacements.
    shift_center : bool
        The matrices act about the centre of the grid.
    **kwargs
        Passed to `keras.layers.Layer`.
    """

    options = ("shape", "shift_center")

    def __init__(self, shape: Sequence[int], shift_center: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape = tuple(shape)
        self.shift_center = shift_center

    def call(self, inputs: Any) -> Any:
        """Map matrices (B, N, N + 1) to displacements (B, X, Y, Z, N), in voxels."""
        return spatial.affine_to_dense(inputs, self.shape, shift_center=self.shift_center)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the displacements."""
        return (input_shape[0], *self.shape, len(self.shape))


@keras.saving.register_keras_serializable(package="kerasneuro")
class Negate(SpatialLayer):
    """Change the sign of a velocity, which inverts the transform it integrates to."""

    def call(self, inputs: Any) -> Any:
        """Map a tensor to its negative."""
        return -inputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the same shape."""
        return input_shape


def resized_shape(shape: Shape, factor: float | Sequence[float]) -> Shape:
    """Return a shape (B, X, Y, Z, C) with resized spatial axes."""
    factors = per_axis(factor, len(shape) - 2)
    sizes = (resized(size, zoom) for size, zoom in zip(shape[1:-1], factors, strict=True))
    return (shape[0], *sizes, shape[-1])
