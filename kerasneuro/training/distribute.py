"""One training on several devices of a machine: each computes a share of every batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kerasneuro.errors import InvalidOption

INSTEAD = {
    "torch": "run one process for each device with torchrun (docs/training.md has the script)",
    "openvino": "train with KERAS_BACKEND=jax or tensorflow, since OpenVINO has no gradients",
}


@contextmanager
def data_parallel(devices: Sequence[str] | None = None) -> Iterator[int]:
    """Split every batch over several devices; the weights are on all of them.

    Build, compile and fit the network inside. Under JAX this is `keras.distribution.DataParallel`; under
    TensorFlow `tf.distribute.MirroredStrategy`, because Keras's own class does not split anything there yet
    (3.15). Losses that give one value for each item are those of one device but for rounding; a loss over the
    whole batch (``batch=True``) and, under TensorFlow, the statistics of batch normalisation are those of a
    device's share.

    Parameters
    ----------
    devices : sequence of str, optional
        Names as `keras.distribution.list_devices` gives them ("gpu:0"); all accelerators by default, or all
        devices of the processor where there is none.

    Yields
    ------
    int
        Number of devices; the size of a batch must be a multiple of it.

    Raises
    ------
    InvalidOption
        If the backend cannot split batches, or has no such device.

    Examples
    --------
    >>> from kerasneuro.training.distribute import data_parallel
    >>> with data_parallel() as devices:  # doctest: +SKIP
    ...     network = build()
    ...     network.compile(optimizer="adam", loss="mse")
    ...     network.fit(PatchDataset(pairs, batch_size=2 * devices))
    """
    import keras

    backend = keras.backend.backend()
    if backend in INSTEAD:
        raise InvalidOption(
            f"Keras {keras.__version__} splits no batches under {backend}; {INSTEAD[backend]}"
        )
    names = _known(keras.distribution.list_devices(), devices)
    scope = _jax_scope(names) if backend == "jax" else _tensorflow_scope(names)
    with scope:
        yield len(names)


def _known(present: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """Return the devices asked for; those of the processor can be named even where there are others."""
    names = list(present if wanted is None else wanted)
    unknown = [name for name in names if name not in present and not name.startswith("cpu:")]
    if unknown or not names or len(set(names)) < len(names):
        raise InvalidOption(
            f"expected different ones of the devices {', '.join(present)}, found {', '.join(names) or 'none'}"
        )
    return names


def _jax_scope(names: Sequence[str]) -> Any:
    import keras

    return keras.distribution.DataParallel(devices=list(names)).scope()


def _tensorflow_scope(names: Sequence[str]) -> Any:
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([f"/{name}" for name in names]).scope()
