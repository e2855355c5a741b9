"""Train twice alike, on one device and on two made-up ones; prints what a test compares.

A script of its own, because a process fixes its number of devices when its backend starts.
"""

from __future__ import annotations

import json

import keras
import numpy as np

from kerasneuro.training.distribute import data_parallel
from kerasneuro.training.losses.by_name import get_loss

BACKEND = keras.backend.backend()
ITEMS, BATCH, EDGE = 8, 4, 8
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.normal(size=(ITEMS, EDGE, EDGE, EDGE, 1)).astype(np.float32)
TRUTH = (IMAGES + 0.5 * GENERATOR.normal(size=IMAGES.shape) > 0.3).astype(np.float32)
SHARES: set[int] = set()


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return ITEMS // BATCH

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(BATCH * index, BATCH * (index + 1))
        return IMAGES[part], TRUTH[part]


class Share(keras.layers.Layer):
    """Note which device of how many a step is written for."""

    def call(self, inputs: object) -> object:
        if BACKEND == "tensorflow":
            import tensorflow as tf

            context = tf.distribute.get_replica_context()
            if context is not None and context.num_replicas_in_sync > 1:
                SHARES.add(int(tf.get_static_value(context.replica_id_in_sync_group)))
        return inputs


def train() -> tuple[list[float], list[np.ndarray], int]:
    """Return the losses, the weights, and the devices that hold a weight."""
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input(IMAGES.shape[1:]),
            layers.Conv3D(3, 3, padding="same", activation="relu", name="first"),
            Share(),
            layers.Conv3D(1, 1, activation="sigmoid", name="last"),
        ]
    )
    for variable in network.weights:
        values = np.random.default_rng(len(variable.shape)).normal(size=variable.shape)
        variable.assign(0.3 * values)
    # Unlike Adam's, these steps grow with the gradient, so that a wrong factor shows.
    network.compile(keras.optimizers.SGD(0.5), loss=get_loss("dice+cross_entropy"), jit_compile=False)
    history = network.fit(Batches(), epochs=2, shuffle=False, verbose=0).history["loss"]
    value = network.weights[0].value
    holders = len(value.sharding.device_set) if BACKEND == "jax" else len(getattr(value, "values", [value]))
    return history, network.get_weights(), holders


def split_processor() -> None:
    """Make two devices of TensorFlow's one; JAX does so by a flag of its environment."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        (processor,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)


def main() -> None:
    """Train both ways, and print what came out."""
    split_processor()
    alone, weights, _ = train()
    with data_parallel() as devices:
        together, split_weights, holders = train()
    difference = max(float(np.abs(a - b).max()) for a, b in zip(weights, split_weights, strict=True))
    found = {"alone": alone, "together": together, "weights": difference}
    print(json.dumps({**found, "devices": devices, "holders": holders, "shares": sorted(SHARES)}))


if __name__ == "__main__":
    main()
