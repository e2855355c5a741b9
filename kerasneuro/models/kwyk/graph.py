"""The MeshNets of kwyk 0.4.1: dilated convolutions with normalised weights, deterministic or Bayesian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from kerasneuro.errors import InvalidOption
from kerasneuro.nn.bayesian import VariationalConv3D, WeightNormConv3D
from kerasneuro.nn.bayesian_dropout import BernoulliDropout, ConcreteDropout

VARIANTS = ("bwn", "bwn_multi", "bvwn_multi_prior")
DILATIONS = (1, 1, 1, 2, 4, 8, 1)  # one layer each; receptive field 37
KERNEL_SIZE = 3


def build(
    variant: str = "bwn",
    n_classes: int = 50,
    filters: int = 96,
    dilations: Sequence[int] = DILATIONS,
    input_shape: tuple[int | None, ...] = (None, None, None, 1),
    keep_probability: float = 0.9,
    monte_carlo: bool = False,
    kl_weight: float = 0.0,
    name: str = "kwyk",
) -> keras.Model:
    """Build a MeshNet with random weights.

    Parameters
    ----------
    variant : {"bwn", "bwn_multi", "bvwn_multi_prior"}
        Normalised weights; the same with Bernoulli dropout; normally distributed weights with concrete
        dropout ("spike and slab").
    n_classes : int
        Channels of the output.
    filters : int
        Channels of the hidden layers.
    dilations : sequence of int
        Dilation of each hidden layer.
    input_shape : tuple (X, Y, Z, C)
        Shape of one input without the batch axis; None for free axes.
    keep_probability : float
        Part of the elements that the dropout of ``bwn_multi`` keeps; the other variants do not use it.
    monte_carlo : bool
        Draw in inference, too; otherwise every draw is replaced by its mean (training always draws).
    kl_weight : float
        Weight of the divergence from the prior in the loss: 1 / number of training examples; 0 leaves it out.
    name : str
        Name of the model.

    Returns
    -------
    keras.Model
        Maps ``(B, X, Y, Z, C)`` standard scores to ``(B, X, Y, Z, n_classes)`` probabilities, float32.

    Raises
    ------
    InvalidOption
        If a value is out of range.

    References
    ----------
    P. McClure et al. (2019), doi:10.3389/fninf.2019.00067; A. Fedorov et al. (2017), arXiv:1612.00940;
    neuronets/kwyk@4dd379c, nobrainer/models/meshnetbwn.py and meshnetbvwn.py.

    Examples
    --------
    >>> model = build("bwn_multi", n_classes=7, filters=6)
    >>> model.output_shape
    (None, None, None, None, 7)
    """
    check(variant, n_classes, filters, dilations, input_shape, keep_probability, kl_weight)
    random: dict[str, Any] = {"kl_weight": kl_weight, "monte_carlo": monte_carlo}

    def convolve(x: Any, channels: int, kernel_size: int, dilation: int, scope: str) -> Any:
        where: dict[str, Any] = {"dilation_rate": dilation, "name": f"{scope}_conv3d"}
        if variant == "bvwn_multi_prior":
            return VariationalConv3D(channels, kernel_size, **where, **random)(x)
        return WeightNormConv3D(channels, kernel_size, **where, kl_weight=kl_weight)(x)

    def drop(x: Any, scope: str) -> Any:
        if variant == "bwn_multi":
            return BernoulliDropout(keep_probability, monte_carlo, name=f"{scope}_bernoulli")(x)
        if variant == "bvwn_multi_prior":
            return ConcreteDropout(**random, name=f"{scope}_concrete_dropout")(x)
        return x

    inputs = x = keras.Input(tuple(input_shape), name="volume")
    for index, dilation in enumerate(dilations, start=1):
        scope = f"layer_{index}"
        x = convolve(x, filters, KERNEL_SIZE, dilation, scope)
        x = drop(x, scope)
        x = layers.Activation("relu", name=f"{scope}_relu")(x)
    x = convolve(x, n_classes, 1, 1, "logits")
    # Probabilities stay in float32 where the rest of the network computes in half precision.
    outputs = layers.Activation("softmax", dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, outputs, name=name)


def check(
    variant: str,
    n_classes: int,
    filters: int,
    dilations: Sequence[int],
    input_shape: tuple[int | None, ...],
    keep_probability: float,
    kl_weight: float,
) -> None:
    """Refuse a configuration that gives no network."""
    if variant not in VARIANTS:
        raise InvalidOption(f"variant must be one of {', '.join(VARIANTS)}; found {variant!r}")
    if min(n_classes, filters, len(dilations), *dilations) < 1:
        raise InvalidOption(
            "n_classes, filters and every dilation must be 1 or more, "
            f"found {n_classes}, {filters} and {tuple(dilations)}"
        )
    if len(input_shape) != 4 or input_shape[-1] is None:
        raise InvalidOption(f"input_shape must be (X, Y, Z, channels), found {tuple(input_shape)}")
    if not 0 < keep_probability <= 1:
        raise InvalidOption(f"keep_probability must be above 0 and at most 1, found {keep_probability}")
    if kl_weight < 0:
        raise InvalidOption(f"kl_weight must be 0 or more, found {kl_weight}")
