"""Whether the backend of this process can train."""

from __future__ import annotations

from kerasneuro.errors import InvalidOption


def refuse_inference_backend() -> None:
    """Refuse to train on a backend without gradients.

    Raises
    ------
    InvalidOption
        Under OpenVINO.
    """
    import keras

    backend = keras.backend.backend()
    if backend not in ("tensorflow", "jax", "torch"):
        raise InvalidOption(
            f"the backend {backend} computes, but does not train; set KERAS_BACKEND to tensorflow, jax or "
            "torch"
        )
