"""Worker: kerasneuro, from the original weight file to saved results, under the backend of KERAS_BACKEND."""

from __future__ import annotations

import gc
import importlib
from pathlib import Path
from typing import Any

from common import claim_output, parse_arguments, serve
from network import BACKEND_PACKAGES

# What the original tool writes, so that both do the same work.
OUTPUTS = {"deepbet": ("brain", "mask", "table"), "nobrainer": ("mask",)}


def import_everything(family: str) -> str:
    """Import what a run uses, so that the clock sees the work only; return the backend's name."""
    import keras

    rooms = ("graph", "weights", "task")
    for name in ("kerasneuro", *(f"kerasneuro.models.{family}.{room}" for room in rooms)):
        importlib.import_module(name)
    for name in ("nibabel", "h5py", "scipy.ndimage", "cc3d", "kerasneuro.fetching", "kerasneuro.inference"):
        importlib.import_module(name)
    return keras.backend.backend()


class Worker:
    """One task of one family."""

    def __init__(self, family: str, weights: str | None, out: Path) -> None:
        self.family, self.weights, self.out = family, weights, out
        self.task: Any = None

    def load(self) -> None:
        """Read the weights into a new model."""
        import kerasneuro

        self.task = None
        gc.collect()
        if self.family == "deepbet":
            self.task = kerasneuro.load("deepbet")
        else:
            self.task = kerasneuro.load("nobrainer-brainy", weights=self.weights)

    def run(self, image: str, block: int) -> dict[str, str]:
        """Process one scan and save what the original saves."""
        arguments: dict[str, Any] = {}
        if self.family == "nobrainer":
            # The scan keeps its grid, as with nobrainer's own library call.
            arguments = {"resize": None, "block_shape": (block,) * 3}
        result = self.task(image, **arguments)
        files = result.save(self.out, overwrite=True, outputs=OUTPUTS[self.family])
        return {"mask": str(files["mask"])}


def main() -> None:
    """Import what a run uses, then answer until the input ends."""
    answers = claim_output()
    options = parse_arguments(__doc__, "family", "weights", "out")
    backend = import_everything(options.family)
    packages = ("kerasneuro", "keras", BACKEND_PACKAGES[backend])
    serve(Worker(options.family, options.weights, Path(options.out)), packages, answers)


if __name__ == "__main__":
    main()
