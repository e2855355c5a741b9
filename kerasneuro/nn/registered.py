"""Import this, and plain Keras can read every ``.keras`` file of the zoo: it makes all layers known.

Examples
--------
>>> import keras
>>> import kerasneuro.nn.registered
>>> model = keras.models.load_model("tumour/model.keras")  # doctest: +SKIP
"""

from __future__ import annotations

from kerasneuro.nn import (
    activation,
    bayesian,
    bayesian_dropout,
    convolution,
    depthwise,
    halving,
    hyper_convolution,
    initializers,
    normalization,
    onnx,
    pooling,
    spatial_layers,
    squeeze_excite,
    stochastic_depth,
    switch_normalization,
)

MODULES = (
    activation,
    bayesian,
    bayesian_dropout,
    convolution,
    depthwise,
    halving,
    hyper_convolution,
    initializers,
    normalization,
    onnx,
    pooling,
    spatial_layers,
    squeeze_excite,
    stochastic_depth,
    switch_normalization,
)
