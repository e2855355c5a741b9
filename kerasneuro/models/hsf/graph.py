"""The network of HSF (ARUNet): a residual U-Net with attention gates and switchable normalisation.

Both generations normalise after the activation. The fourth (models 4.0.0) uses GELU and halves the grid by
convolutions of stride 2; the third (models up to 3.0.0) uses ReLU and maxima. Layer names are those of the
original with "_" for ".".

Source: clementpoiret/hsf_train@127435f (generation 4), clementpoiret/bagginghsf@3a0dfb2 (generation 3);
C. Poiret et al., Frontiers in Neuroinformatics 17 (2023) 1130845, doi:10.3389/fninf.2023.1130845.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from kerasneuro.errors import InvalidOption
from kerasneuro.nn.convolution import DoublingConv3DTranspose, padded_convolution
from kerasneuro.nn.switch_normalization import SwitchNormalization

FILTERS = (64, 128, 256, 512)
CLASSES = 6
"""Background, DG, CA1, CA2, CA3, SUB."""
ACTIVATIONS = {4: "gelu", 3: "relu"}
"""By generation."""
LATEST = 4


def norm(x: Any, name: str) -> Any:
    """Normalise."""
    return SwitchNormalization(name=name)(x)


def activate(x: Any, generation: int, name: str) -> Any:
    """Apply the activation of the generation."""
    return layers.Activation(ACTIVATIONS[generation], name=name)(x)


def residual_block(x: Any, filters: int, generation: int, name: str) -> Any:
    """Three convolutions; what the first one gives is added to what the last one gives."""
    inner = f"{name}_basic_module_conv"
    x = padded_convolution(x, filters, 3, use_bias=True, name=f"{inner}1_conv")
    first = norm(activate(x, generation, f"{inner}1_activation"), f"{inner}1_SwitchNorm3d")
    x = padded_convolution(first, filters, 3, use_bias=True, name=f"{inner}2_conv")
    x = norm(activate(x, generation, f"{inner}2_activation"), f"{inner}2_SwitchNorm3d")
    x = padded_convolution(x, filters, 3, use_bias=True, name=f"{inner}3_conv")
    x = norm(x, f"{inner}3_SwitchNorm3d")
    x = layers.Add(name=f"{name}_sum")([x, first])
    return activate(x, generation, name)


def halve(x: Any, generation: int, name: str) -> Any:
    """Halve the grid."""
    if generation == LATEST:
        return padded_convolution(x, x.shape[-1], 3, strides=2, name=name)
    return layers.MaxPooling3D(2, name=name)(x)


def gate(skip: Any, signal: Any, generation: int, name: str) -> Any:
    """Multiply each voxel of the skip connection by a number from 0 to 1 that both tensors tell."""
    filters = max(1, skip.shape[-1] // 2)
    x = layers.Add(name=f"{name}_sum")(
        [
            norm(padded_convolution(y, filters, 1, use_bias=True, name=f"{name}_{key}_0"), f"{name}_{key}_1")
            for key, y in (("W_g", signal), ("W_x", skip))
        ]
    )
    x = activate(x, generation, f"{name}_activation")
    x = norm(padded_convolution(x, 1, 1, use_bias=True, name=f"{name}_psi_0"), f"{name}_psi_1")
    share = layers.Activation("sigmoid", name=f"{name}_psi")(x)
    return layers.Multiply(name=name)([skip, share])


def build(
    *,
    generation: int = LATEST,
    filters: Sequence[int] = FILTERS,
    n_classes: int = CLASSES,
    input_shape: tuple[int | None, ...] = (None, None, None, 1),
    name: str = "arunet",
) -> keras.Model:
    """Build one network.

    Parameters
    ----------
    generation : {4, 3}
        That of the models 4.0.0, or of those before.
    filters : sequence of int
        Channels of each level, from the finest.
    n_classes : int
        Output channels, background included.
    input_shape : tuple of int or None
        Sizes and one channel; the sizes are multiples of 8 (with four levels), None for any.
    name : str
        Name of the model.

    Returns
    -------
    keras.Model
        Float32 (B, X, Y, Z, 1), standard scores, to float32 (B, X, Y, Z, n_classes) **probabilities**.

    Raises
    ------
    InvalidOption
        If there is no such generation, a number is not positive, or a size no multiple of 8.
    """
    _check(generation, filters, n_classes, input_shape)
    crop = keras.Input(tuple(input_shape), name="cropped_hippocampus")

    x, skips = crop, []
    for level, width in enumerate(filters):
        if level:
            x = halve(x, generation, f"encoders_{level}_pooling")
        x = residual_block(x, width, generation, f"encoders_{level}")
        skips.append(x)

    for step, skip in enumerate(reversed(skips[:-1])):
        name_, width = f"decoders_{step}", skip.shape[-1]
        x = DoublingConv3DTranspose(width, 3, name=f"{name_}_upsampling_upsample")(x)
        skip = gate(skip, x, generation, f"{name_}_attention")
        x = layers.Add(name=f"{name_}_joining")([skip, x])
        x = residual_block(x, width, generation, name_)

    x = padded_convolution(x, n_classes, 1, use_bias=True, name="final_conv")
    probabilities = layers.Softmax(dtype="float32", name="segmented_hippocampus")(x)
    return keras.Model(crop, probabilities, name=name)


def _check(
    generation: int, filters: Sequence[int], n_classes: int, input_shape: tuple[int | None, ...]
) -> None:
    if generation not in ACTIVATIONS:
        raise InvalidOption(f"generation must be 4 or 3; got {generation}.")
    if min(*filters, n_classes) < 1:
        raise InvalidOption(f"filters and n_classes must be at least 1; got {list(filters)} and {n_classes}.")
    multiple = 2 ** (len(filters) - 1)
    sizes = input_shape[:-1]
    wrong = any(size is not None and (size < 1 or size % multiple) for size in sizes)
    if len(sizes) != 3 or input_shape[-1] != 1 or wrong:
        raise InvalidOption(
            f"input_shape must be three sizes, each a multiple of {multiple} or None, and one channel; "
            f"got {tuple(input_shape)}."
        )
