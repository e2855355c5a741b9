"""Switch the random layers of a network on and off, and start their random numbers anew.

A random layer has an attribute ``monte_carlo``: draw in inference, too.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

SEED_STATE = "seed_generator_state"


def seed_generator(seed: int | None, monte_carlo: bool) -> Any:
    """Return the random numbers of a layer.

    None on OpenVINO if nothing is drawn in inference: that backend can not train, and computes networks
    without random numbers much faster.
    """
    if keras.backend.backend() == "openvino" and not monte_carlo:
        return None
    return keras.random.SeedGenerator(seed)


def is_random(model: keras.Model) -> bool:
    """Say whether any layer of a model has a Monte-Carlo switch."""
    return any(hasattr(layer, "monte_carlo") for layer in model.layers)


def with_monte_carlo(model: keras.Model, monte_carlo: bool) -> keras.Model:
    """Copy a model, with the switch of its random layers set and the same weights.

    Parameters
    ----------
    model : keras.Model
        A functional model.
    monte_carlo : bool
        Draw in inference, or not.

    Returns
    -------
    keras.Model
        A model of its own; later changes of the weights of one do not reach the other.
    """

    def copy(layer: Any) -> Any:
        config = layer.get_config()
        if hasattr(layer, "monte_carlo"):
            config["monte_carlo"] = monte_carlo
        return type(layer).from_config(config)

    twin = keras.models.clone_model(model, clone_function=copy)
    twin.set_weights(model.get_weights())
    return twin


def reseed(model: keras.Model, seed: int) -> None:
    """Start the random numbers of a model anew, independent ones for each layer."""
    states = [variable for variable in model.variables if variable.path.endswith(SEED_STATE)]
    starts = np.random.SeedSequence(seed).generate_state(max(len(states), 1)) >> np.uint32(1)
    for state, start in zip(states, starts.tolist(), strict=False):
        state.assign([start, 0])
