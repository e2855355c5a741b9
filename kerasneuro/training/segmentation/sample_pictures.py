"""Pictures of what a network finds in a few patches, after each epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasneuro.errors import MissingDependency


class SamplePictures(keras.callbacks.Callback):
    """Write ``epoch-0001.png`` after each epoch: middle slices with the true and the predicted outline.

    Parameters
    ----------
    images : ndarray
        Patches ``(N, X, Y, Z, C)``; the first channel is shown.
    classes : ndarray
        True class indices ``(N, X, Y, Z)``.
    folder : Path
        Made when the first picture is written.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """

    def __init__(self, images: np.ndarray, classes: np.ndarray, folder: Path) -> None:
        super().__init__()
        try:
            import matplotlib.figure  # noqa: F401
        except ImportError as error:
            raise MissingDependency(
                "pictures of samples need matplotlib; install it with: pip install 'kerasneuro[report]'"
            ) from error
        self.images, self.classes, self.folder = images, classes, folder

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Predict the patches and draw them."""
        from matplotlib.figure import Figure

        predicted = np.asarray(self.model.predict_on_batch(self.images))
        found = predicted.argmax(axis=-1) if predicted.shape[-1] > 1 else predicted[..., 0] > 0.5
        figure = Figure(figsize=(2.4 * len(self.images), 2.6))
        middle = self.images.shape[3] // 2
        for number, axes in enumerate(np.atleast_1d(figure.subplots(1, len(self.images)))):
            axes.imshow(self.images[number, :, :, middle, 0].T, cmap="gray", origin="lower")
            for labels, colour in ((self.classes[number], "lime"), (found[number], "red")):
                plane = np.asarray(labels[:, :, middle] > 0, float).T
                if 0 < plane.mean() < 1:
                    axes.contour(plane, levels=[0.5], colors=colour, linewidths=1)
            axes.set_axis_off()
        figure.suptitle(f"epoch {epoch + 1}: true green, found red", fontsize=8)
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"epoch-{epoch + 1:04d}.png"
        figure.savefig(path, dpi=80)


def sample_pictures(dataset: Any, count: int, folder: Path) -> list[SamplePictures]:
    """Return the callback for the first patches of a dataset that can be indexed; none for a count of 0."""
    if not count:
        return []
    images, classes = dataset[0][:2]
    return [SamplePictures(np.asarray(images)[:count], np.asarray(classes)[:count], folder)]
