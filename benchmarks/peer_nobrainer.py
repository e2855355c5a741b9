"""Worker: nobrainer's own library call, from the original .h5 file to a saved mask.

Its command `prepare` builds nobrainer's U-Net with random weights and saves it in its own format; the bias of
the last layer is set so that about half of the voxels pass nobrainer's threshold, so masks compare.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from common import claim_output, parse_arguments, serve

THRESHOLD = 0.3


def make_weights(path: str, image: str, block: int) -> None:
    """Write a whole-model .h5 file with seeded random weights."""
    import nibabel as nib
    import numpy as np
    import tensorflow as tf
    from nobrainer.models.unet import unet
    from nobrainer.volume import standardize_numpy

    tf.keras.utils.set_random_seed(7)
    volume = standardize_numpy(nib.load(image).get_fdata(dtype=np.float32))
    model = unet(n_classes=1, input_shape=(block, block, block, 1))
    middle = float(np.median(model.predict(volume[None, :block, :block, :block, None], verbose=0)))
    weights = model.get_weights()
    weights[-1] = weights[-1] + np.log(THRESHOLD / (1 - THRESHOLD)) - np.log(middle / (1 - middle))
    model.set_weights(weights)
    model.save(path, save_format="h5")


class Worker:
    """The original tool."""

    def __init__(self, weights: str, out: Path) -> None:
        self.weights, self.out = weights, out
        self.model: Any = None

    def prepare(self, image: str, block: int) -> None:
        """Write the weight file."""
        make_weights(self.weights, image, block)

    def load(self) -> None:
        """Read the whole-model file."""
        import tensorflow as tf

        self.model = None
        tf.keras.backend.clear_session()
        gc.collect()
        self.model = tf.keras.models.load_model(self.weights, compile=False)

    def run(self, image: str, block: int) -> dict[str, str]:
        """Predict one scan, block by block, and save it."""
        import nibabel as nib
        from nobrainer.prediction import predict
        from nobrainer.volume import standardize_numpy

        mask = self.out / "mask.nii.gz"
        scan = nib.load(image)
        labels = predict(scan, self.model, block_shape=(block,) * 3, normalizer=standardize_numpy)
        nib.save(nib.Nifti1Image(labels.get_fdata().astype("uint8"), scan.affine), mask)
        return {"mask": str(mask)}


def main() -> None:
    """Import what a run uses, then answer until the input ends."""
    answers = claim_output()
    options = parse_arguments(__doc__, "family", "weights", "out")
    import nobrainer.models.unet
    import nobrainer.prediction  # both imported here, so that no clock sees them

    serve(Worker(options.weights, Path(options.out)), (nobrainer.__name__, "tensorflow"), answers)


if __name__ == "__main__":
    main()
