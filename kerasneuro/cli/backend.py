"""Choose a Keras backend where nobody has; the library itself never does."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from kerasneuro.errors import MissingDependency

BACKENDS = ("tensorflow", "torch", "jax", "openvino")  # in the order of preference
MODULES = {"numpy": "numpy"} | {name: name for name in BACKENDS}


def choose_backend() -> str | None:
    """Set ``KERAS_BACKEND`` to the first installed backend, unless it or keras.json names one.

    Returns
    -------
    str or None
        What to tell the user; None if the choice was made before.

    Raises
    ------
    MissingDependency
        If no backend is installed, or not the one that ``KERAS_BACKEND`` names.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow leaves oneDNN off on many processors; 3-D convolutions on it take half the time.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if "keras" in sys.modules:
        return None
    wanted = os.environ.get("KERAS_BACKEND")
    if wanted:
        if wanted in MODULES and not is_installed(wanted):
            raise MissingDependency(
                f"KERAS_BACKEND is {wanted!r}, which is not installed; install it with: "
                f"pip install 'kerasneuro[{wanted}]', or unset KERAS_BACKEND"
            )
        return None
    configured = configured_backend()
    if configured and is_installed(configured):
        return None
    chosen = next((name for name in BACKENDS if is_installed(name)), None)
    if chosen is None:
        raise MissingDependency(
            "no Keras backend is installed; install one of them, such as: "
            "pip install 'kerasneuro[tensorflow]' (or torch, jax, openvino)"
        )
    os.environ["KERAS_BACKEND"] = chosen
    # Keras writes "tensorflow" into keras.json by itself, so a missing one there is no choice of the user.
    why = (
        f"keras.json names {configured}, which is not installed" if configured else "KERAS_BACKEND is not set"
    )
    return f"using the {chosen} backend ({why})"


def is_installed(name: str) -> bool:
    """Say whether a backend can be imported, without importing it."""
    try:
        return find_spec(MODULES.get(name, name)) is not None
    except (ImportError, ValueError):
        return False


def configured_backend() -> str | None:
    """Read the backend from keras.json."""
    home = os.environ.get("KERAS_HOME")
    folder = Path(home) if home else Path("~/.keras").expanduser()
    try:
        settings = json.loads((folder / "keras.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = settings.get("backend") if isinstance(settings, dict) else None
    return found if isinstance(found, str) and found else None
