"""The 3-D U-Net of nobrainer 1.2.1, layer by layer and name by name."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
from keras import layers

from kerasneuro.errors import InvalidOption
from kerasneuro.nn.convolution import DoublingConv3DTranspose
from kerasneuro.nn.initializers import HostGlorotUniform

POOLINGS = 3
MULTIPLE = 2**POOLINGS  # the spatial sizes must be multiples of it


class Naming:
    """Give layers the names that Keras 2 gave them in a fresh session: conv3d, conv3d_1, conv3d_2, ..."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __call__(self, kind: str) -> str:
        """Return the next name of a kind of layer."""
        count = self._counts[kind]
        self._counts[kind] += 1
        return f"{kind}_{count}" if count else kind


def convolve(x: Any, filters: int, naming: Naming, *, batchnorm: bool, activation: str) -> Any:
    """Convolve 3 x 3 x 3, normalise where asked, activate."""
    kernel = HostGlorotUniform()
    x = layers.Conv3D(filters, 3, padding="same", kernel_initializer=kernel, name=naming("conv3d"))(x)
    if batchnorm:
        x = layers.BatchNormalization(name=naming("batch_normalization"))(x)
    return layers.Activation(activation, name=naming("activation"))(x)


def build(
    n_classes: int = 1,
    input_shape: tuple[int | None, ...] = (None, None, None, 1),
    batchnorm: bool = False,
    filters: int = 16,
    activation: str = "relu",
    name: str = "nobrainer_unet",
) -> keras.Model:
    """Build the U-Net with random weights.

    Layer names, their order and the order of the weights are those of the published files, so that
    ``model.load_weights("original.h5")`` works.

    Parameters
    ----------
    n_classes : int
        Channels of the output: 1 gives a sigmoid, more give a softmax.
    input_shape : tuple (X, Y, Z, C)
        Shape of one input without the batch axis; None for free axes, multiples of 8 otherwise.
    batchnorm : bool
        Put batch normalisation between each 3 x 3 x 3 convolution and its activation.
    filters : int
        Channels of the first convolution; the published networks have 16.
    activation : str
        Any activation name of Keras.
    name : str
        Name of the model.

    Returns
    -------
    keras.Model
        Maps ``(B, X, Y, Z, C)`` standard scores to ``(B, X, Y, Z, n_classes)`` probabilities, float32.

    Raises
    ------
    InvalidOption
        If a size is not positive, or a spatial size is no multiple of 8.

    References
    ----------
    O. Cicek et al., 3D U-Net, doi:10.1007/978-3-319-46723-8_49;
    neuronets/nobrainer@976691d, nobrainer/models/unet.py.

    Examples
    --------
    >>> model = build(n_classes=3, input_shape=(32, 32, 32, 1), filters=4)
    >>> model.output_shape
    (None, 32, 32, 32, 3)
    """
    check(n_classes, filters, input_shape)
    naming = Naming()
    block: dict[str, Any] = {"naming": naming, "batchnorm": batchnorm, "activation": activation}
    inputs = x = keras.Input(tuple(input_shape), name="input_1")
    skips = []
    for level in range(POOLINGS):
        x = convolve(x, filters * 2**level, **block)
        x = convolve(x, filters * 2 ** (level + 1), **block)
        skips.append(x)
        x = layers.MaxPooling3D(2, name=naming("max_pooling3d"))(x)
    x = convolve(x, filters * 2**POOLINGS, **block)
    x = convolve(x, filters * 2 ** (POOLINGS + 1), **block)
    for level in reversed(range(POOLINGS)):
        x = DoublingConv3DTranspose(filters * 2 ** (level + 2), 2, name=naming("conv3d_transpose"))(x)
        x = layers.Concatenate(name=naming("concatenate"))([skips[level], x])
        x = convolve(x, filters * 2 ** (level + 1), **block)
        x = convolve(x, filters * 2 ** (level + 1), **block)
    kernel = HostGlorotUniform()
    x = layers.Conv3D(n_classes, 1, padding="same", kernel_initializer=kernel, name=naming("conv3d"))(x)
    head = "sigmoid" if n_classes == 1 else "softmax"
    # Probabilities stay in float32 where the rest of the network computes in half precision.
    outputs = layers.Activation(head, dtype="float32", name=naming("activation"))(x)
    return keras.Model(inputs, outputs, name=name)


def check(n_classes: int, filters: int, input_shape: tuple[int | None, ...]) -> None:
    """Refuse a configuration that gives no network."""
    if n_classes < 1 or filters < 1:
        raise InvalidOption(f"n_classes and filters must be 1 or more, found {n_classes} and {filters}")
    if len(input_shape) != 4 or input_shape[-1] is None:
        raise InvalidOption(f"input_shape must be (X, Y, Z, channels), found {tuple(input_shape)}")
    if any(size is not None and (size < MULTIPLE or size % MULTIPLE) for size in input_shape[:3]):
        raise InvalidOption(
            f"the spatial sizes of input_shape must be multiples of {MULTIPLE} (or None), "
            f"found {tuple(input_shape)}"
        )
